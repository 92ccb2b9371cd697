"""vLLM, where it is installed: labels by one forced token or by the log-probabilities of whole names."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.inference.openvino_engine import EngineUnavailable
from iot_pipeline.inference.scoring import Labels, Prefix, Tree, name_scores, onward
from iot_pipeline.inference.student import Student
from iot_pipeline.models.tokenizer import encode, end_of_turn, literal, prompt_text

# Log-probabilities are returned as they are behind the choice of allowed tokens: over the label tokens alone.
OPTIONS: dict[str, Any] = {
    "trust_remote_code": False, "dtype": "bfloat16", "enable_prefix_caching": True,
    "logprobs_mode": "processed_logprobs", "max_logprobs": 256, "seed": 0,
}  # fmt: skip


@dataclass
class VllmStudent:
    """Student that vLLM answers for. `make`: makes sampling parameters, `generate`: answers token prompts."""

    tokenizer: Any
    make: Callable[..., Any]
    generate: Callable[[list[list[int]], list[Any]], list[Any]]
    version: str
    _folder: Any = field(default=None, repr=False)
    _engine: Any = field(default=None, repr=False)

    @classmethod
    def open(cls, base: str | Path, adapter: Path | None, memory_share: float = 0.8) -> Self:
        """Merge a student into a folder and load it with vLLM, on `memory_share` of the GPU.

        EngineUnavailable if vLLM is not installed, or there is no GPU.
        """
        try:
            import vllm
        except ImportError as error:
            raise EngineUnavailable("vllm is not installed") from error
        import torch

        if not torch.cuda.is_available():
            raise EngineUnavailable("vllm needs a GPU")
        folder = tempfile.TemporaryDirectory(prefix="iot_pipeline-vllm-")
        student = Student.load(base, adapter, device="cpu", dtype="bf16")
        student.save(Path(folder.name))
        tokenizer = student.tokenizer
        student.close()
        engine = vllm.LLM(model=folder.name, gpu_memory_utilization=memory_share, **OPTIONS)

        def generate(prompts: list[list[int]], parameters: list[Any]) -> list[Any]:
            given = [{"prompt_token_ids": prompt} for prompt in prompts]
            return list(engine.generate(given, parameters, use_tqdm=False))

        return cls(tokenizer, vllm.SamplingParams, generate, vllm.__version__, folder, engine)

    @property
    def name(self) -> str:
        """Name of the engine."""
        return "vllm-bf16"

    def describe(self) -> dict[str, Any]:
        """Describe engine, device, precision and versions."""
        return {"engine": self.name, "device": "cuda", "dtype": "bf16", "vllm": self.version}

    def close(self) -> None:
        """Free memory. The engine cannot be used afterwards."""
        import gc

        import torch

        self._engine = None
        self.generate = lambda _prompts, _parameters: []
        gc.collect()
        torch.cuda.empty_cache()
        if self._folder is not None:
            self._folder.cleanup()

    def score_labels(
        self,
        prompts: Sequence[str],
        classes: Sequence[str],
        batch_tokens: int | None = None,
        log: Callable[[str], None] | None = None,
    ) -> np.ndarray:
        """Score the labels: log-probability of each class, normalised over the classes, float64 [prompts, classes].

        Args:
            prompts: Flow texts.
            classes: Class names, each once.
            batch_tokens: Not used: vLLM batches by itself.
            log: Called with progress messages.
        """
        labels = Labels.of(self.tokenizer, classes)
        distinct = {text: place for place, text in enumerate(dict.fromkeys(prompts))}
        rows = [prompt + labels.begun for prompt in self._prompts(list(distinct))]
        one = set(labels.tree) == {()}
        asked, parameters = (self._forced if one else self._whole_names)(rows, labels.tree)
        answers = self.generate(asked, parameters)
        read = self._read_forced if one else self._read_names
        scores = name_scores(labels.tree, read(rows, answers, labels.tree), labels.classes)
        scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
        if log:
            log(f"scored {len(rows):,} distinct flows ({len(prompts):,} rows)")
        return np.asarray(scores[[distinct[text] for text in prompts]])

    def explain(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 256,
        batch: int = 32,
        answers: Sequence[str] | None = None,
        log: Callable[[str], None] | None = None,
        grounded_in: Sequence[str] | None = None,
        guided_by: Sequence[str] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[tuple[str, bool]]:
        """Write answers to flow texts by greedy generation.

        Args:
            prompts: Flow texts.
            max_new_tokens: Token limit of an answer.
            batch: Not used: vLLM batches by itself.
            answers: Beginnings of the answers, part of what is returned.
            log: Called with progress messages.
            grounded_in: Refused: vLLM has no such decoding.
            guided_by: Refused: a grammar begins with the answer, whose beginning is given here.
            meanwhile: Not used: vLLM goes on with other requests by itself.

        Raises:
            UserError: Grounded or guided decoding is asked for.
        """
        if grounded_in is not None or guided_by is not None:
            raise UserError("vllm holds no answer to its flow: set IOT_DECODING=free, or leave IOT_RAY_ENGINE unset")
        heads = list(answers) if answers is not None else [""] * len(prompts)
        begun = encode(self.tokenizer, [literal(self.tokenizer, head) for head in heads])
        rows = [prompt + head for prompt, head in zip(self._prompts(prompts), begun, strict=True)]
        told = self.make(temperature=0.0, max_tokens=max_new_tokens, stop_token_ids=[end_of_turn(self.tokenizer)])
        found = []
        for head, answer in zip(heads, self.generate(rows, [told] * len(rows)), strict=True):
            text = self.tokenizer.decode(answer.outputs[0].token_ids, skip_special_tokens=True)
            found.append((head + text, answer.outputs[0].finish_reason == "stop"))
        if log:
            log(f"explained {len(found)} flows")
        return found

    def _forced(self, rows: list[list[int]], tree: Tree) -> tuple[list[list[int]], list[Any]]:
        """Ask for one token of the label tokens, with the log-probabilities of all of them."""
        tokens = onward(tree[()])
        told = self.make(temperature=0.0, max_tokens=1, logprobs=len(tokens), allowed_token_ids=tokens)
        return rows, [told] * len(rows)

    def _read_forced(self, rows: list[list[int]], answers: list[Any], tree: Tree) -> dict[Prefix, np.ndarray]:
        tokens = onward(tree[()])
        told = [answer.outputs[0].logprobs[0] for answer in answers]
        return {(): np.array([[one[token].logprob for token in tokens] for one in told])}

    def _whole_names(self, rows: list[list[int]], tree: Tree) -> tuple[list[list[int]], list[Any]]:
        """Ask for the log-probabilities of each row's tokens with each longest name behind it."""
        told = self.make(temperature=0.0, max_tokens=1, prompt_logprobs=1)
        asked = [row + list(name) for row in rows for name in _leaves(tree)]
        return asked, [told] * len(asked)

    def _read_names(self, rows: list[list[int]], answers: list[Any], tree: Tree) -> dict[Prefix, np.ndarray]:
        leaves = _leaves(tree)
        found = {prefix: np.full((len(rows), len(onward(node))), np.nan) for prefix, node in tree.items()}
        for place, answer in enumerate(answers):
            row, name = divmod(place, len(leaves))
            for depth, token in enumerate(leaves[name]):
                prefix = leaves[name][:depth]
                told = answer.prompt_logprobs[len(rows[row]) + depth][token].logprob
                found[prefix][row, onward(tree[prefix]).index(token)] = told
        return found

    def _prompts(self, texts: Sequence[str]) -> list[list[int]]:
        return encode(self.tokenizer, [prompt_text(self.tokenizer, text) for text in texts])


def _leaves(tree: Tree) -> list[Prefix]:
    """Return the token sequences of the names that no other one continues."""
    ends = [(*prefix, token) for prefix, node in tree.items() for token in onward(node)]
    return [name for name in ends if name not in tree]
