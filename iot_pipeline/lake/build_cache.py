"""Content-addressed build cache shared by all lakes."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from iot_pipeline.lake.atomic import fsync, read_json, sha256_file, write_json

CONTENT = "content.json"


def store(cache: Path, key: str, folder: Path, names: Sequence[str]) -> None:
    """Store files and folders under a key, unless an intact entry exists.

    Args:
        cache: Folder of the cache.
        key: Hash of everything that decides the content.
        folder: Folder of the files.
        names: Names of the files and folders in it to store.

    Raises:
        OSError: The cache cannot be written.
    """
    if lookup(cache, key) is not None:
        return
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as name:
        made = Path(name) / key
        made.mkdir()
        for part in names:
            (shutil.copytree if (folder / part).is_dir() else shutil.copy2)(folder / part, made / part)
        files = [path for path in sorted(made.rglob("*")) if path.is_file()]
        for path in files:
            fsync(path)
        write_json(made / CONTENT, {str(path.relative_to(made)): sha256_file(path) for path in files})
        if lookup(cache, key) is None:  # else another process stored it first, and others read it
            shutil.rmtree(cache / key, ignore_errors=True)  # a damaged entry
            with contextlib.suppress(OSError):
                os.rename(made, cache / key)


def lookup(cache: Path, key: str) -> Path | None:
    """Look up the folder stored under `key`; None if it is missing or any file does not match its hash."""
    folder = cache / key
    try:
        content: dict[str, str] = read_json(folder / CONTENT)
        whole = bool(content) and all(sha256_file(folder / name) == digest for name, digest in content.items())
    except (OSError, ValueError, AttributeError, TypeError):  # AttributeError, TypeError: JSON of another shape
        return None
    return folder if whole else None
