"""Tokens a second, MFU and memory of LoRA training on this machine's GPU: old recipe, this project, TRL's SFTTrainer.

    .venv/bin/python benchmarks/gpu_training.py                    # Qwen2.5-1.5B's shape, random weights, bf16
    .venv/bin/python benchmarks/gpu_training.py --small --steps 1  # a tiny shape, for a machine without a GPU

Speed does not depend on the values of weights or tokens, so nothing is downloaded: random weights, random ids, rows of
the prior work's lengths. Each way runs in a process of its own, one after the other, LoRA r 16 on q, k, v, o, 16 rows a
step. `old`: rows cut and padded to 512, loss everywhere, batch 2 x 8. `ours`: nothing cut, rows of like length together
(at most 5 % padding), loss on answers; `ours_packed`: rows end to end, which pays where flash attention is installed;
both read `--class-rows` class rows a step beside the explained ones, whose loss is on one token each.
`trl`: SFTTrainer as a user would set it up for such rows (max_length 2048, batch 2 x 8); left out, and said so, where
trl is not installed (extra `bench`). Tokens are real ones, never padding; MFU by training/metrics.py.
"""

import argparse
import contextlib
import importlib.util
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
from result import save

from iot_pipeline.sft.tensors import IGNORED, Tensors
from iot_pipeline.training.data import causal_loss
from iot_pipeline.training.metrics import flops_per_token, mfu, peak_memory_gib

WAYS = ("old", "ours", "ours_packed", "trl")
STEP_ROWS, MICRO_ROWS, OUR_MICRO_ROWS, OLD_LENGTH, WARM_UP = 16, 2, 8, 512, 2
PROMPT, ANSWER, SPREAD = 400, 1100, 120  # tokens, FACTS of the prior work: about 1,500 a row
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CLASS_ANSWER = 5  # tokens of a class line
TINY = "tiny"
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-1.5b": {
        "model_type": "qwen2",
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "smollm2-135m": {
        "model_type": "llama",
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    TINY: {
        "model_type": "qwen2",
        "vocab_size": 512,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
    },
}


def main() -> None:
    """Run the ways one after the other and write benchmarks/results/gpu_training-<device>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="timed optimiser steps of each way")
    parser.add_argument("--shape", default="qwen2.5-1.5b", choices=SHAPES, help="shape of the base")
    parser.add_argument(
        "--small", dest="shape", action="store_const", const=TINY, help="--shape tiny; its figures say nothing of a GPU"
    )
    parser.add_argument("--class-rows", type=int, default=0, help="class rows a step beside the explained rows of ours")
    parser.add_argument("--pack-tokens", type=int, default=4096, help="most tokens of one pack")
    parser.add_argument("--print-only", action="store_true", help="write no result file")
    chosen = parser.parse_args()
    import peft  # noqa: F401  loaded once: forked processes share it, and none has touched a GPU yet

    found: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        with ProcessPoolExecutor(1, get_context("fork")) as process:
            try:
                found[way] = process.submit(measure, way, chosen).result()
            except Exception as error:
                found[way] = {"error": [f"{type(error).__name__}: {error}"]}
    device = next((one["device"] for one in found.values() if "device" in one), "unknown")
    result = {"question": "speed of LoRA training", "shape": SHAPES[chosen.shape], "steps": chosen.steps, "ways": found}
    if "tokens_per_second" in found["old"] and "tokens_per_second" in found["ours"]:
        result["ours_over_old"] = round(found["ours"]["tokens_per_second"] / found["old"]["tokens_per_second"], 2)
    shape = "" if chosen.shape == "qwen2.5-1.5b" else f"-{chosen.shape}"
    save(f"gpu_training-{device.replace(' ', '_')}{shape}", result, device, chosen.print_only)


def measure(way: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second, MFU, peak GiB and device of one way."""
    import torch

    if way == "trl" and importlib.util.find_spec("trl") is None:
        return {"not_measured": "trl is not installed"}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    model, tensors = make_model(chosen.shape, device), make_rows(chosen)
    ways = {"old": time_old, "ours": time_ours, "ours_packed": time_ours_packed, "trl": time_trl}
    seconds, tokens = ways[way](model, tensors, device, chosen)
    length = float(np.minimum(tensors.lengths, OLD_LENGTH).mean() if way == "old" else tensors.lengths.mean())
    share = 1.0 if way == "old" else ANSWER / (PROMPT + ANSWER)
    asked = class_length(chosen) * chosen.class_rows * chosen.steps if way.startswith("ours") else 0
    flops = (tokens - asked) * flops_per_token(model, length, share)
    flops += asked * flops_per_token(model, class_length(chosen), 1 / class_length(chosen))
    return {
        "device": name,
        "tokens_per_second": round(tokens / seconds, 1),
        "rows_per_second": round((tokens - asked) / length / seconds, 2),
        "class_rows": chosen.class_rows if asked else 0,
        "mfu": mfu(flops / seconds, name),
        "peak_gib": peak_memory_gib(device),
        "attention": model.config._attn_implementation,
    }


def make_model(shape: str, device: Any) -> Any:
    """The shape with random weights and a LoRA adapter, in bf16 on a GPU."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from iot_pipeline.models.loading import attention_kernel

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    config = AutoConfig.for_model(**SHAPES[shape])
    with torch.device(device):
        kernel = attention_kernel(device, dtype)
        base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=kernel)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=targets, task_type=TaskType.CAUSAL_LM)
    return get_peft_model(base, lora)


def make_rows(chosen: argparse.Namespace) -> Tensors:
    """Rows of random ids with the prior work's lengths; the prompt is not supervised."""
    random = np.random.default_rng(1)
    shrink, prompt = shrink_of(chosen), PROMPT // shrink_of(chosen)
    count = STEP_ROWS * (WARM_UP + chosen.steps)
    answers = np.maximum(16, random.normal(ANSWER, SPREAD, count) / shrink).astype(int)
    return random_rows(random, np.full(count, prompt), answers, chosen)


def make_class_rows(chosen: argparse.Namespace) -> Tensors:
    """Rows of a prompt and a class line; one token is supervised, as a hard label, which costs what shares cost."""
    random, count = np.random.default_rng(2), chosen.class_rows * (WARM_UP + chosen.steps)
    return random_rows(random, np.full(count, class_length(chosen) - 1), np.ones(count, dtype=int), chosen)


def random_rows(random: Any, prompts: np.ndarray, answers: np.ndarray, chosen: argparse.Namespace) -> Tensors:
    """Rows of random ids with prompts and answers of these lengths."""
    offsets = np.concatenate([[0], np.cumsum(prompts + answers)]).astype(np.int64)
    ids = random.integers(5, SHAPES[chosen.shape]["vocab_size"], offsets[-1]).astype(np.int32)
    labels = ids.copy()
    for start, prompt in zip(offsets[:-1], prompts, strict=True):
        labels[start : start + prompt] = IGNORED
    return Tensors(ids, labels, offsets)


def shrink_of(chosen: argparse.Namespace) -> int:
    """Number by which rows are shorter than the prior work's."""
    return 10 if chosen.shape == TINY else 1


def class_length(chosen: argparse.Namespace) -> int:
    """Tokens of a class row."""
    return PROMPT // shrink_of(chosen) + CLASS_ANSWER


def make_tokenizer(shape: str) -> Any:
    """A tokenizer of as many words as the shape has, with the control tokens and the template of ChatML."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    controls = ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]
    words = [*controls, *(f"w{place}" for place in range(len(controls), SHAPES[shape]["vocab_size"]))]
    plain = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token=words[3]))
    pad, end, begin = controls
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token=pad,
        eos_token=end,
        unk_token=words[3],
        additional_special_tokens=[begin],
        chat_template=CHATML,
    )


def time_ours_packed(model: Any, tensors: Tensors, device: Any, chosen: argparse.Namespace) -> tuple[float, int]:
    """(seconds, real tokens) of the project's loss on packed rows."""
    return time_ours(model, tensors, device, chosen, chosen.pack_tokens)


def time_ours(
    model: Any, tensors: Tensors, device: Any, chosen: argparse.Namespace, pack_tokens: int | None = None
) -> tuple[float, int]:
    """(seconds, real tokens) of the project's batches and loss."""
    from iot_pipeline.training.data import Batches

    tokenizer = make_tokenizer(chosen.shape)

    def batches_of(tensors: Tensors, micro: int) -> Batches:
        return Batches(tensors, tokenizer, micro, pack_tokens=pack_tokens, device=device)

    sources = [(batches_of(tensors, OUR_MICRO_ROWS), 1.0)]
    if chosen.class_rows:
        sources.append((batches_of(make_class_rows(chosen), chosen.class_rows), chosen.class_rows / STEP_ROWS))

    def step(rows: np.ndarray) -> int:
        read = 0
        for batches, times in sources:
            first, last = round(rows[0] * times), round((rows[-1] + 1) * times)
            some = np.arange(first, last)
            divisor = batches.weight_total(some)
            for batch in batches.of(some):
                with precision(device):
                    loss = causal_loss(model, *batch) / divisor
                loss.backward()
            read += int(batches.lengths[some].sum())
        return read

    return timed(model, step, device, chosen.steps)


def time_old(model: Any, tensors: Tensors, device: Any, chosen: argparse.Namespace) -> tuple[float, int]:
    """(seconds, real tokens) of rows cut and padded to 512 with the loss everywhere."""
    import torch

    def step(rows: np.ndarray) -> int:
        read = 0
        for pair in rows.reshape(-1, MICRO_ROWS):
            ids = np.zeros((MICRO_ROWS, OLD_LENGTH), dtype=np.int64)
            mask = np.zeros_like(ids)
            for place, row in enumerate(pair):
                found = tensors.row(int(row))[0][:OLD_LENGTH]
                ids[place, : len(found)], mask[place, : len(found)] = found, 1
            given = {"input_ids": ids, "attention_mask": mask, "labels": np.where(mask == 1, ids, IGNORED)}
            moved = {key: torch.from_numpy(value).to(device) for key, value in given.items()}
            with precision(device):
                loss = model(**moved).loss * MICRO_ROWS / len(rows)
            loss.backward()
            read += int(mask.sum())
        return read

    return timed(model, step, device, chosen.steps)


def precision(device: Any) -> Any:
    """Return the precision of a forward pass, alike in every way: bf16 on a GPU, as Trainer(bf16=True) sets it."""
    import torch

    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()


def timed(model: Any, step: Any, device: Any, steps: int) -> tuple[float, int]:
    """(seconds, tokens) of `steps` optimiser steps behind the warm-up; step(rows) does forward and backward."""
    import torch

    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4, fused=True)
    model.train()
    started, read = 0.0, 0
    for number in range(WARM_UP + steps):
        if number == WARM_UP:
            wait(device)
            started, read = time.perf_counter(), 0
        read += step(np.arange(number * STEP_ROWS, (number + 1) * STEP_ROWS))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    wait(device)
    return time.perf_counter() - started, read


def wait(device: Any) -> None:
    """Until the card has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_trl(model: Any, tensors: Tensors, device: Any, chosen: argparse.Namespace) -> tuple[float, int]:
    """(seconds, real tokens) of trl's SFTTrainer on the same rows, tokenised already."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    tokenizer = make_tokenizer(chosen.shape)
    rows = [tensors.row(place) for place in range(len(tensors))]
    data = Dataset.from_dict(
        {
            "input_ids": [ids.tolist() for ids, _ in rows],
            "completion_mask": [(labels != IGNORED).astype(int).tolist() for _, labels in rows],
        }
    )
    marks: list[float] = []

    class Clock(TrainerCallback):
        """Notes the end of every optimiser step."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait(device)
            marks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            max_length=2048,
            completion_only_loss=True,
            per_device_train_batch_size=MICRO_ROWS,
            gradient_accumulation_steps=STEP_ROWS // MICRO_ROWS,
            max_steps=WARM_UP + chosen.steps,
            save_strategy="no",
            bf16=device.type == "cuda",
            use_cpu=device.type == "cpu",
            report_to="none",
            disable_tqdm=True,
        )
        SFTTrainer(
            model=model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()]
        ).train()
    mean_tokens = float(tensors.lengths.mean()) * STEP_ROWS
    return marks[-1] - marks[WARM_UP - 1], round(mean_tokens * (len(marks) - WARM_UP))


if __name__ == "__main__":
    main()
