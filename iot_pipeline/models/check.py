"""Check of a base before the teacher is asked: faults that would otherwise surface after hours and dollars."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.models.folder import base_folder, read_settings, weight_files
from iot_pipeline.models.judge import judge
from iot_pipeline.models.loading import describe_base, load_base
from iot_pipeline.models.tokenizer import check_text_survives, end_of_turn, load_tokenizer, pad_id, template_controls

CHUNK = 1 << 24  # values checked at a time: 64 MiB of fp32
# Floating-point types that are weights as they are; FP8 and integers need scales that are kept elsewhere.
PLAIN = {"F64", "F32", "F16", "BF16"}
LARGEST = 1e10  # of a weight; a damaged exponent gives up to 3e38, whose products are infinite


def check_base(base: str, download: bool = True) -> dict[str, Any]:
    """Check settings, tokeniser and weights of a base, and return facts about it.

    Every tensor of the model must be present in its shape (a tied output may be absent) and hold finite numbers. Only
    vectors may be all zeros, as a bias may start at 0. The embedding must have a row for every token.
    `base` is a folder or hub id; `download` fetches what the local cache lacks. Returns what `describe_base` does,
    `parameters`, `unused_tensors` (number of tensors that the model ignores), and its tokens `end_of_turn` and
    `padding`. UserError says how to mend a base. The files are read in a process of its own (`judge`).
    """
    folder = base_folder(base, download)
    stats = sorted((str(path), path.stat()) for path in folder.iterdir() if path.is_file())
    return _judged(base, folder, tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats))


@lru_cache(maxsize=4)
def _judged(base: str, folder: Path, _state: tuple[Any, ...]) -> dict[str, Any]:
    """Judge a folder; cached by its files, because several assets ask."""
    return judge(base, folder)


def examine(base: str, folder: Path, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Check a base by the files in its folder, in this process; `say` is told what is done next."""
    import torch

    say("reading its tokenizer and chat template")
    facts = describe_base(base, folder=folder)
    tokenizer = load_tokenizer(folder)
    end, pad = tokenizer.convert_ids_to_tokens([end_of_turn(tokenizer), pad_id(tokenizer)])
    template_controls(tokenizer)
    check_text_survives(tokenizer)
    say("building its model")
    headers = _headers(base, folder)
    _check_layers(base, folder, sum(map(len, headers.values())))
    model, unused = load_base(str(folder), torch.float32, device="meta")
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
    return facts | {"parameters": parameters, "unused_tensors": len(unused), "end_of_turn": end, "padding": pad}


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
