"""Student at inference: classes by scoring the candidates, explanations by batched generation."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.inference.grounding import GroundedNumbers, NumberTokens
from iot_pipeline.inference.guided import GuidedAnswers, guide_tokens
from iot_pipeline.inference.scoring import (
    Labels,
    Options,
    Scorer,
    TorchScorer,
    Tree,
    buckets,
    score_rows,
    shared_prefix,
)
from iot_pipeline.models.loading import attends_alone, load_adapter, load_base
from iot_pipeline.models.tokenizer import encode, end_of_turn, literal, load_tokenizer, pad_id, prompt_text

DTYPES = {"torch.float32": "fp32", "torch.bfloat16": "bf16"}
# Padded tokens of a batch. A core's cache holds what 2,048 tokens of the tiny student need: it scores a flow in 1.85 ms
# of the processor, at 8,192 in 2.24. A GPU is filled by some 16,000.
BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768}


def room_for(words: int) -> int:
    """Return the token limit of an answer with `words` words of explanation: 4 a word, 64 for the other sections.

    An answer that hits this limit was truncated.
    """
    return 64 + 4 * words


@dataclass
class Student:
    """Loaded base with its adapter, ready to answer."""

    model: Any
    tokenizer: Any
    device: Any
    pad: int
    options: Options = field(default_factory=Options)

    @classmethod
    def load(
        cls,
        base: str | Path,
        adapter: Path | None,
        device: str = "auto",
        threads: int | None = None,
        dtype: str = "auto",
        merge: bool = True,
    ) -> Self:
        """Load a student from safetensors only.

        Args:
            base: Folder or hub id.
            adapter: Folder; None for the base alone.
            device: "auto": a GPU if there is one, else the CPU.
            threads: CPU threads; None leaves the number as it is.
            dtype: `fp32`, `bf16`, or "auto": bf16 on a GPU, fp32 on the CPU.
            merge: Add the adapter into the weights, which is faster and gives the same answers.

        Raises:
            UserError: A part is missing or belongs to another base.
        """
        import torch

        if threads:
            torch.set_num_threads(threads)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        place = torch.device(device)
        if dtype == "auto":
            dtype = "bf16" if place.type == "cuda" else "fp32"
        kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
        model, _unused = load_base(str(base), kind, device=place)
        if adapter is not None:
            model = load_adapter(model, adapter, str(base))
            if merge:
                model = model.merge_and_unload()
        model.to(kind)
        model.eval()
        tokenizer = load_tokenizer(base)
        return cls(model, tokenizer, place, pad_id(tokenizer))

    @property
    def name(self) -> str:
        """Name of the engine."""
        return f"transformers-{DTYPES.get(str(self.model.dtype), str(self.model.dtype))}"

    def describe(self) -> dict[str, Any]:
        """Describe engine, device, precision and versions."""
        import torch
        import transformers

        on_card = self.device.type == "cuda"
        return {
            "engine": self.name,
            "device": torch.cuda.get_device_name(self.device) if on_card else "cpu",
            "dtype": DTYPES.get(str(self.model.dtype), str(self.model.dtype)),
            "threads": None if on_card else torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def close(self) -> None:
        """Free CPU and GPU memory. The student cannot be used afterwards."""
        import gc

        import torch

        self.model = None
        gc.collect()  # transformers models contain reference cycles
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def save(self, folder: Path) -> None:
        """Write model (safetensors) and tokeniser as a folder that any transformers program can load.

        Generation there stops at the end of turn too: bases that never saw a chat stop at the end of a text alone.
        """
        end, stops = end_of_turn(self.tokenizer), self.model.generation_config.eos_token_id
        known = stops if isinstance(stops, list) else [] if stops is None else [stops]
        if end not in known:
            self.model.generation_config.eos_token_id = [end, *known]
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def score_labels(
        self,
        prompts: Sequence[str],
        classes: Sequence[str],
        batch_tokens: int | None = None,
        log: Callable[[str], None] | None = None,
    ) -> np.ndarray:
        """Score the labels: log-probability of each class, normalised over the classes, float64 [prompts, classes].

        The model reads the prompt and `CLASSIFICATION:` once. Names of one token are scored there, longer ones exactly,
        token by token along the label tree (scoring.py), on the cached keys and values. If one name's tokens begin
        another's, it gets the probability that the other does not continue. Equal texts are read once, and so is
        what all prompts begin with.

        Args:
            prompts: Flow texts.
            classes: Class names, each once.
            batch_tokens: Most padded tokens of a batch; None: BATCH_TOKENS of the device.
            log: Called with progress messages.

        Raises:
            UserError: There are no classes, or one is given twice.
        """
        return self._read_labels(prompts, classes, batch_tokens, log, states=False)[0]

    def score_with_states(
        self, prompts: Sequence[str], classes: Sequence[str], log: Callable[[str], None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score the labels as `score_labels` does; return also the hidden states that the head read, in the same pass.

        States are float32 [prompts, hidden size], of the label position, after the final norm.

        Args:
            prompts: Flow texts.
            classes: Class names, each once.
            log: Called with progress messages.
        """
        return self._read_labels(prompts, classes, None, log, states=True)

    def _read_labels(
        self,
        prompts: Sequence[str],
        classes: Sequence[str],
        batch_tokens: int | None,
        log: Callable[[str], None] | None,
        states: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score the labels in batches; the second array, of hidden states, is empty without `states`."""
        import torch

        labels = Labels.of(self.tokenizer, classes)
        read = list(dict.fromkeys(prompts)) if self.options.read_once else list(prompts)
        ids = [prompt + labels.begun for prompt in self._prompts(read)]
        started = last = time.perf_counter()

        def tell(done: int) -> None:
            nonlocal last
            now = time.perf_counter()
            if log and (now - last > 5 or done == len(ids)):
                last = now
                log(
                    f"scored {done:,} of {len(ids):,} distinct flows ({len(prompts):,} rows), "
                    f"{done / (now - started):,.0f} flows/s"
                )

        with torch.inference_mode():
            scorer = self._scorer(ids, labels)
            most = batch_tokens or BATCH_TOKENS.get(self.device.type, BATCH_TOKENS["cpu"])
            batches = self._batches(ids, labels, most)
            scores, kept = score_rows(scorer, ids, labels, batches, tell, states)
        if not self.options.read_once:
            return scores, kept
        distinct = {text: place for place, text in enumerate(read)}
        places = [distinct[text] for text in prompts]
        return scores[places], kept[places]

    def _scorer(self, ids: list[list[int]], labels: Labels) -> Scorer:
        """Return what computes the scores of these rows."""
        return TorchScorer(self.model, self.pad, self.device, self.options, shared_prefix(ids))

    def _batches(self, ids: list[list[int]], labels: Labels, batch_tokens: int) -> list[list[int]]:
        """Group rows into batches of at most `batch_tokens` padded tokens."""
        lengths = [len(row) for row in ids]
        longest = max(lengths, default=0)
        equal = self._padding_counts(longest, labels.tree)
        if not (self.options.sort_lengths or equal):
            rows = max(1, batch_tokens // max(1, longest))
            return [list(range(first, min(first + rows, len(ids)))) for first in range(0, len(ids), rows)]
        return buckets(lengths, batch_tokens, equal)

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
        """Write answers to flow texts by greedy generation in batches.

        Args:
            prompts: Flow texts.
            max_new_tokens: Token limit of an answer.
            batch: Rows of a batch.
            answers: Beginnings of the answers (for example `CLASSIFICATION: <scored class>`), part of what is returned.
            log: Called with progress messages.
            grounded_in: Flow texts [prompts] that all numbers of the answers must come from (grounding.py); None: free.
            guided_by: Lark grammars [prompts] that the answers must follow (grammar.py); None: free.
            meanwhile: Called before each token; it may score with this student, and ends the writing by raising.

        Returns:
            (answer, True if the model ended it, False if it was truncated) for each prompt.

        Raises:
            UserError: The tokeniser does not allow grounded or guided decoding, a prompt has no flow or grammar, or an
                answer begins otherwise than its grammar says.
        """
        import torch

        if any(held is not None and len(held) != len(prompts) for held in (grounded_in, guided_by)):
            raise UserError("grounded decoding needs one flow text for each prompt, guided decoding one grammar")
        heads = list(answers) if answers is not None else [""] * len(prompts)
        end = end_of_turn(self.tokenizer)
        ids = [prompt + self._ids(head) for prompt, head in zip(self._prompts(prompts), heads, strict=True)]
        order = sorted(range(len(ids)), key=lambda place: (len(ids[place]), place))
        out: list[tuple[str, bool]] = [("", False)] * len(ids)
        started = time.perf_counter()
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            tokens, mask = left_padded([ids[row] for row in rows], self.pad)
            held = list[Any]()
            begun = [heads[row] for row in rows]
            if grounded_in is not None:
                held.append(GroundedNumbers(self._number_tokens, [grounded_in[row] for row in rows], begun, end))
            if guided_by is not None:
                grammars = [guided_by[row] for row in rows]
                held.append(GuidedAnswers(self._guide_tokens, grammars, [self._ids(head) for head in begun]))
            if meanwhile is not None:
                held.append(_calling(meanwhile))
            with torch.inference_mode():
                made = self.model.generate(
                    input_ids=tokens.to(self.device),
                    attention_mask=mask.to(self.device),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    eos_token_id=end,
                    pad_token_id=self.pad,
                    logits_processor=held or None,
                )
            for row, answer in zip(rows, made[:, tokens.shape[1] :].tolist(), strict=True):
                ended = end in answer
                text = self.tokenizer.decode(answer[: answer.index(end)] if ended else answer, skip_special_tokens=True)
                out[row] = (heads[row] + text, ended)
            if log:
                done = min(first + batch, len(order))
                log(f"explained {done} of {len(order)} flows, {done / (time.perf_counter() - started):.1f} a second")
        return out

    def _padding_counts(self, longest: int, tree: Tree) -> bool:
        """True if the padding between a row and a name would count: such rows must have one length in a batch.

        It counts in the window that some layers attend to (Gemma 3: 512 or 1,024 tokens), once a row and a name exceed
        it, and in the state of layers that are no attention (Qwen3.5, LFM2).
        """
        config = self.model.config.get_text_config()
        if not attends_alone(config) and len(tree) > 1:
            return True
        window = getattr(config, "sliding_window", None)
        return window is not None and longest + max(map(len, tree)) > window

    @cached_property
    def _guide_tokens(self) -> Any:
        width = self.model.get_output_embeddings().weight.shape[0]
        return guide_tokens(self.tokenizer, width, end_of_turn(self.tokenizer))

    @cached_property
    def _number_tokens(self) -> NumberTokens:
        return NumberTokens(self.tokenizer, self.model.get_output_embeddings().weight.shape[0])

    def _prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode the chat prompt of each flow text."""
        return encode(self.tokenizer, [prompt_text(self.tokenizer, text) for text in texts])

    def _ids(self, text: str) -> list[int]:
        """Encode a part of an answer; it never yields control tokens."""
        return encode(self.tokenizer, [literal(self.tokenizer, text)])[0]


def left_padded(rows: Sequence[list[int]], pad: int) -> tuple[Any, Any]:
    """Return token ids and mask [rows, width], padded on the left, so that all rows continue at the same place."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _calling(meanwhile: Callable[[], None]) -> Callable[[Any, Any], Any]:
    """Return a logits processor of transformers that changes nothing and calls `meanwhile`."""

    def process(_input_ids: Any, scores: Any) -> Any:
        meanwhile()
        return scores

    return process
