"""Folder of an export: made beside its place under a lock, and moved there when it is whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import fsync, sha256_file


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` at the end; an error leaves nothing, and what a kill left is cleared.

    UserError if `out` exists, cannot be written, or another process is writing it.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} already exists; name a new folder")
    staging = out.with_name(f".{out.name}.staging")
    try:
        staging.mkdir(parents=True, exist_ok=True)
        handle = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}); name another folder") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out} is being written by another process; wait for it, or name another folder") from None
        try:
            for left in list(staging.iterdir()):  # of a try that was killed
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            yield staging
            for path in sorted(staging.rglob("*")):
                fsync(path)
            fsync(staging)
            if out.exists():
                raise UserError(f"{out} was made by another process meanwhile; name a new folder")
            staging.rename(out)
            fsync(out.parent)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Return bytes and sha256 of each file of a folder by its path within."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in files
    }
