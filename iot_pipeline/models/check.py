"""Check of a base before the teacher is asked: faults that would otherwise surface after hours and dollars."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.models.folder import base_folder, weight_files
from iot_pipeline.models.loading import describe_base, load_base
from iot_pipeline.models.tokenizer import end_of_turn, load_tokenizer, pad_id, template_controls

CHUNK = 1 << 24  # values checked at a time: 64 MiB of fp32


def check_base(base: str, download: bool = True) -> dict[str, Any]:
    """Check settings, tokeniser and weights of a base, and return facts about it.

    Every tensor of the model must be present in its shape (a tied output may be absent) and hold finite numbers. Only
    vectors may be all zeros, as a bias may start at 0. The embedding must have a row for every token.
    `base` is a folder or hub id; `download` fetches what the local cache lacks. Returns what `describe_base` does,
    `parameters`, `unused_tensors` (number of tensors that the model ignores), and its tokens `end_of_turn` and
    `padding`. UserError says how to mend a base.
    """
    facts = describe_base(base, download)
    folder = base_folder(base, download)
    stats = sorted((str(path), path.stat()) for path in folder.iterdir() if path.is_file())
    state = tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats)
    return facts | _check_content(base, folder, state)


@lru_cache(maxsize=4)
def _check_content(base: str, folder: Path, _state: tuple[Any, ...]) -> dict[str, Any]:
    """Check tokeniser and weights of a folder; cached by its files, because several assets ask."""
    import torch

    tokenizer = load_tokenizer(folder)
    end, pad = tokenizer.convert_ids_to_tokens([end_of_turn(tokenizer), pad_id(tokenizer)])
    template_controls(tokenizer)
    headers = _shapes(base, folder)
    model, unused = load_base(str(folder), torch.float32, device="meta")
    rows, highest = model.get_input_embeddings().weight.shape[0], max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise UserError(
            f"IOT_BASE_MODEL: {base!r}: its tokenizer has tokens up to number {highest}, its embedding {rows} rows; "
            "resize the embedding (resize_token_embeddings) and train the new rows, or take another base"
        )
    for path, names in headers.items():
        _check_values(base, path, [name for name in names if name not in unused])
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "unused_tensors": len(unused), "end_of_turn": end, "padding": pad}


def _shapes(base: str, folder: Path) -> dict[Path, list[str]]:
    """List the tensor names of each weight file; UserError for a truncated or damaged file."""
    from safetensors import SafetensorError, safe_open

    found = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                found[path] = list(file.keys())
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"IOT_BASE_MODEL: {base!r}: {path.name} is cut off or damaged ({error}); get it again"
            ) from None
    return found


def _check_values(base: str, path: Path, names: list[str]) -> None:
    """Check every value of a file's tensors; UserError for one that is not finite and for a matrix of zeros."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name in names:
            tensor = file.get_tensor(name)
            parts = tensor.flatten().split(CHUNK)
            if tensor.is_floating_point() and not all(bool(part.isfinite().all()) for part in parts):
                raise UserError(f"IOT_BASE_MODEL: {base!r}: {name} in {path.name} holds values that are no numbers")
            if tensor.dim() > 1 and not any(bool(part.any()) for part in parts):
                raise UserError(f"IOT_BASE_MODEL: {base!r}: {name} in {path.name} is all zeros; get the base again")
