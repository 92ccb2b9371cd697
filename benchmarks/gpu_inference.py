"""How fast does a GPU answer for Qwen2.5-1.5B: the prior work's way, every optimisation, label scoring, and engines?

    python benchmarks/gpu_inference.py --out results             # the GPU machine: one run of 9 minutes at most
    python benchmarks/gpu_inference.py --shape tiny --out here   # a tiny shape, for a machine without a GPU

Speed does not depend on the values of weights, so nothing is downloaded: random weights by configuration, a byte-level
tokenizer, flow texts of as many tokens as Qwen2.5's tokenizer makes of a ranked flow (459). Needs torch, transformers,
tokenizers, safetensors, pydantic, PyYAML, psutil and numpy; bitsandbytes, flash-attn and vllm where installed, else
the variant is named with the reason. Each variant is measured in a process of its own, within its share of
`--seconds`; what has no time left is named as skipped. Writes gpu_inference.json into `--out` after each, and prints it
at the end. With random weights answers do not end, and agreement of labels is that of near-ties.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gpu_training
import numpy as np
from time_shares import Found, Part, carry_out, teller

SECONDS = 520.0  # 20 of 9 minutes are left for imports and for what is killed
RESULT = "gpu_inference.json"
TOKENS = 459  # of a ranked flow by Qwen2.5's tokenizer
# 4 to 5 bytes with the space before: as many tokens as Qwen2.5 makes of such names.
CLASSES = ["Norm", "Arp", "Bot", "HTTP", "ICMP", "Port", "TCP", "UDP"]
PACKAGES = ("torch", "transformers", "tokenizers", "vllm", "flash-attn", "bitsandbytes", "numpy")


def main() -> None:
    """Measure and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--shape", default="qwen2.5-1.5b", choices=gpu_training.SHAPES, help="shape of the base")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="seconds of all parts together")
    parser.add_argument("--flows", type=int, default=2048, help="distinct flows whose labels are scored")
    parser.add_argument("--batch", type=int, default=32, help="rows of a batch of explanations")
    parser.add_argument("--old-tokens", type=int, default=512, help="new tokens of the prior work's way")
    parser.add_argument("--answer-tokens", type=int, default=256, help="token limit of our explanations")
    print(json.dumps(measured(parser.parse_args()), indent=1))


def measured(chosen: argparse.Namespace) -> Found:
    """Measure all parts within the time; the result so far is written after each."""
    from gpu_student import installed

    from iot_pipeline.inference.projection import projection

    chosen.out.mkdir(parents=True, exist_ok=True)
    head = {
        "question": "speed of inference with the shape of Qwen2.5-1.5B and random weights, on one GPU",
        "shape": chosen.shape,
        "seconds_given": chosen.seconds,
        "versions": {name: installed(name) for name in PACKAGES},
        "projection": projection(),
    }

    tell = teller(chosen.out / RESULT, head)
    with tempfile.TemporaryDirectory() as work:
        started = time.monotonic()
        # Loaded once: forked processes share it, and none has touched a GPU yet.
        import peft  # noqa: F401
        from transformers.models.qwen2 import modeling_qwen2  # noqa: F401

        left = chosen.seconds - (time.monotonic() - started)
        return tell(carry_out(parts_of(chosen, Path(work) / "base"), left, tell))


def parts_of(chosen: argparse.Namespace, base: Path) -> list[Part]:
    """The parts in order; shares are about the seconds of a run of 9 minutes."""
    from iot_pipeline.inference.explanation_variants import ways

    def on_base(measure: Callable[..., Found], *more: Any) -> Callable[[float], Found]:
        def carried(seconds: float) -> Found:
            if not (base / "made").is_file():
                return {"skipped": "the base was not made"}
            return measure(chosen, base, *more, seconds)

        return carried

    parts = [Part("base", 60, 5, partial(make_base, chosen, base))]
    parts += [Part("labels, options", 50, 8, on_base(options)), Part("labels, batches", 30, 8, on_base(batches))]
    parts.append(Part("labels, compiled", 50, 8, on_base(compiled)))
    for way in ways(reference_dtype(), chosen.old_tokens, chosen.answer_tokens, chosen.batch, has_card()):
        parts.append(Part(way.name, 28, 8, on_base(explanation, way.name)))
    return [*parts, Part("vllm", 90, 30, on_base(by_vllm))]


def has_card() -> bool:
    """True if there is a GPU; asked without touching it, since a process that touched one cannot be forked."""
    return bool(list(Path("/dev").glob("nvidia[0-9]*")))


def device() -> str:
    """Torch device to measure on."""
    return "cuda:0" if has_card() else "cpu"


def reference_dtype() -> str:
    """Number format of the reference."""
    return "bf16" if has_card() else "fp32"


def make_base(chosen: argparse.Namespace, base: Path, _seconds: float) -> Found:
    """Write a base of the shape with random weights, and a byte-level tokenizer with ChatML's template."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = gpu_training.SHAPES[chosen.shape]
    torch.manual_seed(0)
    config = AutoConfig.for_model(**shape, max_position_embeddings=4096)
    with torch.device(device()):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.cpu().save_pretrained(base)
    tokenizer = byte_tokenizer(shape["vocab_size"])
    tokenizer.save_pretrained(base)
    (base / "made").touch()
    size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    return {"parameters": model.num_parameters(), "weights_gib": round(size / 2**30, 2)}


def byte_tokenizer(vocabulary: int) -> Any:
    """A byte-level tokenizer, with names of classes as tokens of two or more; the rest of the vocabulary is unused."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    controls = ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]
    tokens = {token: place for place, token in enumerate([*controls, *letters])}
    assert len(tokens) <= vocabulary
    made = Tokenizer(BPE(tokens, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    pad, end, begin = controls
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=pad,
        eos_token=end,
        additional_special_tokens=[begin],
        chat_template=gpu_training.CHATML,
    )


def flow_texts(count: int, tokens: int = TOKENS) -> list[str]:
    """Distinct flow texts of about as many tokens (bytes), beginning alike as flows of one data set do."""
    numbers, texts = np.random.default_rng(0).normal(0, 3, (count, 64)), []
    for row in numbers:
        lines = [f"feature_{place:02}: {value:.3f} p{abs(int(value * 9)) % 100}" for place, value in enumerate(row)]
        texts.append("\n".join(lines)[: tokens + int(abs(row[0]) * 8)])
    return texts


def opened(base: Path, dtype: str | None = None) -> Any:
    """The student of the base alone."""
    from iot_pipeline.inference.student import Student

    return Student.load(base, None, device(), None, dtype or reference_dtype())


def scoring(chosen: argparse.Namespace, student: Any, seconds: float) -> Any:
    """Measuring of label scores: every fourth row repeats a flow."""
    from iot_pipeline.inference.label_variants import Scoring

    texts = flow_texts(chosen.flows)
    repeated = [texts[place * 3 // 4] for place in range(len(texts))]
    return Scoring(student, texts, repeated, CLASSES, device(), 40, seconds / 30, lambda _text: None)


def options(chosen: argparse.Namespace, base: Path, seconds: float) -> Found:
    """Each optimisation of label scoring, alone and with those before it."""
    student = opened(base)
    return {"device": student.describe()["device"], "variants": scoring(chosen, student, seconds).options()}


def batches(chosen: argparse.Namespace, base: Path, seconds: float) -> Found:
    """Label scoring one by one, and at several sizes of a batch: throughput and peak memory of each."""
    from iot_pipeline.inference.measuring import peak_memory, timed, together

    student = opened(base)
    texts, rows, begun = flow_texts(chosen.flows), list[Found](), time.monotonic()
    rows.append(scoring(chosen, student, seconds)._alone(student, student.name))
    for most in (2048, 8192, 32_768, 131_072):
        if time.monotonic() - begun > 0.6 * seconds:
            rows.append({"batch_tokens": most, "run": False, "reason": "no time left"})
            continue
        some = texts[: max(1, len(texts) // 4)]
        student.score_labels(some[:8], CLASSES, batch_tokens=most)
        with peak_memory(device()) as peak:
            one = timed(partial(student.score_labels, some, CLASSES, batch_tokens=most), device())
        rows.append({"batch_tokens": most, "run": True, **together(len(some), one), **peak})
    return {"device": student.describe()["device"], "variants": rows}


def compiled(chosen: argparse.Namespace, base: Path, seconds: float) -> Found:
    """Label scoring with the body compiled by torch, in turn with the reference."""
    import torch

    from iot_pipeline.inference.measuring import alternated, timed, together

    student, other = opened(base), opened(base)
    texts = flow_texts(max(8, chosen.flows // 8))
    try:
        other.model.model.forward = torch.compile(other.model.model.forward, dynamic=True)
        first = timed(lambda: other.score_labels(texts[:8], CLASSES), device())
    except Exception as error:  # of compilers for the GPU or of C++, if there is none
        return {"not_measured": f"torch.compile fails here: {type(error).__name__}: {str(error)[:200]}"}
    calls = {
        "reference": lambda: student.score_labels(texts, CLASSES),
        "compiled": lambda: other.score_labels(texts, CLASSES),
    }
    found = alternated(calls, 3, device())
    agreement = float((found["compiled"].value.argmax(1) == found["reference"].value.argmax(1)).mean())
    rows = {name: together(len(texts), one) for name, one in found.items()}
    times = found["reference"].seconds / found["compiled"].seconds
    return {"compile_seconds": round(first.seconds, 1), **rows, "times": round(times, 3), "label_agreement": agreement}


def explanation(chosen: argparse.Namespace, base: Path, name: str, seconds: float) -> Found:
    """One way of writing explanations."""
    from iot_pipeline.inference.explanation_variants import Writing, ways

    student = opened(base)
    texts = flow_texts(chosen.batch)
    # One flow alone: 512 tokens of it take some 13 s of a card, whose processor launches 28 layers for each.
    writing = Writing(student, partial(opened, base), texts, [""] * len(texts), device(), 1, 0.7 * seconds, _silent)
    given = ways(reference_dtype(), chosen.old_tokens, chosen.answer_tokens, chosen.batch, has_card())
    way = next(one for one in given if one.name == name)
    before = [one for one in given if "batch 1, stop" in one.name] if way.lookup else []  # speculation must equal it
    row = writing.measure([*before, way])[-1]
    return {name: value for name, value in row.items() if name != "label_agreement"}  # random weights name no class


def by_vllm(chosen: argparse.Namespace, base: Path, _seconds: float) -> Found:
    """Labels and explanations by vLLM, and its labels beside the reference's."""
    from iot_pipeline.inference.measuring import timed, together
    from iot_pipeline.inference.openvino_engine import EngineUnavailable
    from iot_pipeline.inference.vllm_engine import VllmStudent

    texts = flow_texts(chosen.flows)
    wanted = opened(base)
    labels = wanted.score_labels(texts[:256], CLASSES).argmax(1)
    wanted.close()
    try:
        engine = VllmStudent.open(base, None, memory_share=0.6)
    except EngineUnavailable as reason:
        return {"not_measured": str(reason)}
    engine.score_labels(texts[:8], CLASSES)
    some = texts[: max(8, len(texts) // 4)]
    scored = timed(lambda: engine.score_labels(some, CLASSES))
    written = timed(lambda: engine.explain(texts[: 8 * chosen.batch], chosen.answer_tokens))
    same = scored.value[: len(labels)].argmax(1) == labels[: len(some)]
    return {
        "version": engine.version,
        "labels": together(len(some), scored) | {"label_agreement": round(float(same.mean()), 6)},
        "explanations": together(8 * chosen.batch, written),
    }


def _silent(_text: str) -> None:
    """Say nothing: the result is the only output."""


if __name__ == "__main__":
    main()
