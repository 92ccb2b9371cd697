"""Folder of a base model, local or from the hub, checked for custom code before anything in it is loaded."""

import json
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
INDEX = "model.safetensors.index.json"
# Settings files of transformers; each may name custom code under `auto_map`.
CODE_SETTINGS = (
    "config.json",
    "tokenizer_config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)
SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]
MOST_SETTINGS = 100_000_000  # bytes; the index of a model of 1,000 shards has 20 MB
WEIGHT_FILES = ["model.safetensors", "model-*.safetensors"]


def base_folder(base: str | Path, download: bool = True, weights: bool = True) -> Path:
    """Find the folder of a base by path or hub id, and refuse one with custom code.

    For a hub id the folder is the snapshot in the local cache, named by its commit; `download` fetches what it lacks,
    without `weights` only settings and tokeniser. UserError if there is no such base, one of its files is a Git LFS
    pointer, or it has custom code.
    """
    folder = Path(base)
    if not folder.exists():
        folder = _from_hub(str(base), SMALL_FILES, download)
    if not folder.is_dir():
        raise UserError(f"IOT_BASE_MODEL: {str(base)!r} is no folder of a model")
    refuse_pointers(folder)
    for name in CODE_SETTINGS:
        if "auto_map" in read_settings(folder / name):
            raise UserError(
                f"IOT_BASE_MODEL: {str(base)!r} asks to run code of its own (auto_map in {name}), and code of a base "
                "is never run; take a base that transformers knows by itself, or delete auto_map where it does"
            )
    if weights and not Path(base).exists():
        folder = _from_hub(str(base), [*SMALL_FILES, *WEIGHT_FILES], download)
        refuse_pointers(folder)
    return folder


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a base; UserError if there are none, or one named in the index is missing."""
    whole, index = folder / "model.safetensors", folder / INDEX
    if whole.is_file():
        return [whole]
    if index.is_file():
        places = read_settings(index).get("weight_map")
        named = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
        missing = [name for name in named if not (folder / name).is_file()]
        if missing or not named:
            wanted = f"{missing[0]} is missing" if missing else "it names no file"
            raise UserError(f"IOT_BASE_MODEL: {folder}: {INDEX}: {wanted}; download the base again")
        if outside := [name for name in named if name != Path(name).name or not name.endswith(".safetensors")]:
            raise UserError(
                f"IOT_BASE_MODEL: {folder}: {INDEX} names {outside[0]!r}, which is no safetensors file in this folder; "
                "download the base again"
            )
        return [folder / name for name in named]
    pickled = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(kind))
    raise UserError(
        f"IOT_BASE_MODEL: {folder} holds pickled weights only ({pickled[0]}), which can run code when they are read; "
        "convert them to safetensors"
        if pickled
        else f"IOT_BASE_MODEL: {folder} has no weights: neither model.safetensors nor {INDEX}"
    )


def refuse_pointers(folder: Path) -> None:
    """Refuse Git LFS pointers in place of files, and what is no readable file at all; UserError names the first."""
    try:
        for path in sorted(path for path in folder.iterdir() if any(map(path.match, ("*.safetensors", *SMALL_FILES)))):
            if not path.is_file():  # opening a pipe would wait for ever
                raise UserError(
                    f"IOT_BASE_MODEL: {path} is no file, but a folder, a pipe or a link that leads to none; "
                    "download the base again"
                )
            with path.open("rb") as file:
                if file.read(len(LFS_POINTER)) == LFS_POINTER:
                    raise UserError(
                        f"IOT_BASE_MODEL: {path} is a Git LFS pointer, not the file; run `git lfs pull` there"
                    )
    except OSError as error:
        place = error.filename or folder
        raise UserError(f"IOT_BASE_MODEL: {place} cannot be read ({error.strerror}); mend its permissions") from None


def read_settings(path: Path, whose: str = "IOT_BASE_MODEL: ", mend: str = "download the base again") -> dict[str, Any]:
    """Read a settings file of a model, {} if there is none; UserError if it is not a JSON object.

    `whose` begins the sentence of the error, and `mend` ends it.
    """
    if not path.is_file():
        return {}
    if path.stat().st_size > MOST_SETTINGS:
        size = f"{path.stat().st_size:,} bytes"
        raise UserError(f"{whose}{path} is too large for settings ({size}); {mend}")
    try:
        values = json.loads(path.read_text(), parse_constant=_refuse_nan)
    except RecursionError:
        raise UserError(f"{whose}{path} is nested too deeply; {mend}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{whose}{path} is no readable JSON ({error}); {mend}") from error
    if not isinstance(values, dict):
        raise UserError(f"{whose}{path} is no JSON object; {mend}")
    return values


def _refuse_nan(name: str) -> float:
    """Refuse NaN, which would spoil every output; some settings of state-space models are Infinity by right."""
    if name == "NaN":
        raise ValueError("a value is NaN")
    return float(name)


def in_hub_cache(base: str) -> bool:
    """Return True if the local cache has a snapshot of a hub id, complete or not; UserError if it is not a hub id."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(base, "config.json"), str)
    except HFValidationError as error:
        raise UserError(f"IOT_BASE_MODEL: {base!r} is neither a folder here nor a hub id") from error


def _from_hub(base: str, patterns: list[str], download: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(base, allow_patterns=patterns, local_files_only=not download))
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"IOT_BASE_MODEL: {base!r} is no folder here, and the hub has none for us: {reason}") from None
