"""Processes that cannot write into folders without write permission, also where the tests run as root."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1  # of Linux


def lock(folder: Path) -> None:
    """Take away every write permission of a folder and all that is in it."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)


def unlock(folder: Path) -> None:
    """Give the owner's write permissions back, so that pytest can remove the folder."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o200)


def run_unprivileged(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that permissions hold for."""

    def drop() -> None:
        if os.geteuid() == 0 and ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")

    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=os.environ | environment, capture_output=True, text=True,
        timeout=1200, preexec_fn=drop,
    )  # fmt: skip


def cannot_write(folder: Path) -> bool:
    """True if such a process cannot make a file in the folder: what a test of it rests on."""
    done = run_unprivileged("import sys, pathlib; pathlib.Path(sys.argv[1], 'probe').touch()", str(folder))
    return done.returncode != 0 and "PermissionError" in done.stderr
