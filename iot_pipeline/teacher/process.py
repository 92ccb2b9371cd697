"""Starting and stopping the embedded teacher as a process of its own.

Belongs here: its lifecycle. Does not belong here: what it answers (server.py, analyst.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator, Sequence

from iot_pipeline.errors import UserError

START_SECONDS = 60.0


@contextlib.contextmanager
def embedded_server(arguments: Sequence[str] = ()) -> Iterator[str]:
    """Base URL of an embedded teacher on a free loopback port; it ends with the block, or with this process.

    `arguments` are further options of `python -m iot_pipeline.teacher.server`, such as faults.
    """
    command = [sys.executable, "-m", "iot_pipeline.teacher.server", "--parent-pid", str(os.getpid()), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        yield _url(process)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _url(process: subprocess.Popen[bytes]) -> str:
    """What the server prints when it is ready."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(START_SECONDS) else b""
    if not line:
        raise UserError(f"the embedded teacher did not start within {START_SECONDS:.0f} s (exit code {process.poll()})")
    return str(json.loads(line)["base_url"])
