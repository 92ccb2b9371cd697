"""Examination of a base's files. `check` runs this module in a process of its own: the files are a stranger's."""

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.models.folder import read_settings, weight_files
from iot_pipeline.models.loading import LARGEST, describe_base, load_base
from iot_pipeline.models.tokenizer import (
    check_text_survives,
    end_of_turn,
    in_one_line,
    load_tokenizer,
    pad_id,
    template_controls,
)

CHUNK = 1 << 24  # values checked at a time: 64 MiB of fp32
# Floating-point types that are weights as they are; FP8 and integers need scales that are kept elsewhere.
PLAIN = {"F64", "F32", "F16", "BF16"}


def examine(base: str, folder: Path, say: Callable[[str], None] = lambda _: None, whole: bool = True) -> dict[str, Any]:
    """Check a base by the files in its folder, in this process.

    Args:
        base: Name of the base in sentences.
        folder: Its folder, complete.
        say: Told what is done next.
        whole: False to check tokenizer and chat template alone.

    Raises:
        UserError: The base is not fit.
    """
    import torch

    say("reading its tokenizer and chat template")
    facts = describe_base(base, folder=folder) if whole else {}
    tokenizer = load_tokenizer(folder)
    end, pad = tokenizer.convert_ids_to_tokens([end_of_turn(tokenizer), pad_id(tokenizer)])
    template_controls(tokenizer)
    check_text_survives(tokenizer)
    if not whole:
        return {"end_of_turn": end, "padding": pad}
    say("building its model")
    headers = _headers(base, folder)
    _check_layers(base, folder, sum(map(len, headers.values())))
    model, unused = load_base(str(folder), torch.float32, device="meta")
    if not hasattr(model, model.base_model_prefix):
        raise UserError(
            f"IOT_BASE_MODEL: {base!r} is a {type(model).__name__}, whose layers cannot be read without its output "
            "here; take another base"
        )
    rows, highest = model.get_input_embeddings().weight.shape[0], max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise UserError(
            f"IOT_BASE_MODEL: {base!r}: its tokenizer has tokens up to number {highest}, its embedding {rows} rows; "
            "resize the embedding (resize_token_embeddings) and train the new rows, or take another base"
        )
    say("reading its weights")
    for path, kinds in headers.items():
        _check_values(base, path, {name: kind for name, kind in kinds.items() if name not in unused})
    parameters = sum(p.numel() for p in model.parameters())
    found = {"parameters": parameters, "unused_tensors": len(unused), "end_of_turn": end, "padding": pad}
    return facts | found | {"matrices": _matrices(model)}


def _matrices(model: Any) -> list[str]:
    """List the modules whose weight is a matrix, by the last two parts of their names: `self_attn.q_proj`."""
    named = (n for n, module in model.named_modules() if getattr(getattr(module, "weight", None), "ndim", 0) == 2)
    return sorted({".".join(name.split(".")[-2:]) for name in named})


def _headers(base: str, folder: Path) -> dict[Path, dict[str, str]]:
    """Read the type of each tensor of each weight file; UserError for a truncated or damaged file."""
    from safetensors import SafetensorError, safe_open

    found = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                found[path] = {name: str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"IOT_BASE_MODEL: {base!r}: {path.name} is cut off or damaged ({error}); get it again"
            ) from None
    return found


def _check_layers(base: str, folder: Path, tensors: int) -> None:
    """Refuse more layers than the weights have tensors, before a model of a million layers is built."""
    layers = read_settings(folder / "config.json").get("num_hidden_layers")
    if isinstance(layers, int) and layers > tensors:
        raise UserError(
            f"IOT_BASE_MODEL: {base!r}: its config.json means {layers:,} layers where its weights have {tensors:,} "
            "tensors; get the base again"
        )


def _check_values(base: str, path: Path, kinds: dict[str, str]) -> None:
    """Check every value of a file's tensors; UserError for one that is not finite and for a matrix of zeros."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name, kind in kinds.items():
            if kind not in PLAIN:
                raise UserError(
                    f"IOT_BASE_MODEL: {base!r}: {name} in {path.name} holds {kind} values, as quantised models do; "
                    "take the model that it was made from, in bf16, fp16 or fp32"
                )
            tensor = file.get_tensor(name)
            largest = [float(part.abs().max()) for part in tensor.flatten().split(CHUNK) if part.numel()]
            if not all(value <= LARGEST for value in largest):  # of NaN too
                raise UserError(
                    f"IOT_BASE_MODEL: {base!r}: {name} in {path.name} holds values that are no numbers, or far too "
                    "large; get the base again"
                )
            if tensor.dim() > 1 and not any(largest):
                raise UserError(f"IOT_BASE_MODEL: {base!r}: {name} in {path.name} is all zeros; get the base again")


def main() -> None:
    """Judge the base named in the arguments; write what is done, and facts or error, as lines of JSON."""
    base, folder, cpu_s, memory, part = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # a limit that is lower already
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))
    import transformers  # noqa: F401 - imported before the clock starts

    def say(doing: str) -> None:
        out.write(json.dumps({"doing": doing}) + "\n")
        signal.setitimer(signal.ITIMER_PROF, 0 if "weights" in doing else float(cpu_s))

    try:
        told: dict[str, Any] = {"facts": examine(base, Path(folder), say, part == "whole")}
    except UserError as error:
        told = {"error": str(error)}
    except BaseException as error:
        told = {"error": f"IOT_BASE_MODEL: {base!r} cannot be judged: {_in_words(error)}; take another base"}
    out.write(json.dumps(told) + "\n")


def _in_words(error: BaseException) -> str:
    return "it takes too much memory" if isinstance(error, MemoryError) else in_one_line(error)


if __name__ == "__main__":
    main()
