"""Start and stop of the embedded teacher as a subprocess."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from iot_pipeline.embedded_teacher.faults import check_faults
from iot_pipeline.errors import UserError
from iot_pipeline.teacher.store.database import SETTING

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
PROJECT = Path(__file__).resolve().parent.parent.parent


@contextlib.contextmanager
def embedded_server(faults: Mapping[str, float] | None = None, seed: int = 0, **manners: float) -> Iterator[str]:
    """Yield the base URL (`http://127.0.0.1:<free port>/v1`) of a new embedded teacher, stopped when the block ends.

    `faults` are probabilities by kind (see faults.FAULTS), `seed` is the seed of their draw, `manners` are fields of
    options.ServerOptions. Raises UserError if the server does not start.
    """
    command = [
        sys.executable,
        "-m",
        "iot_pipeline.embedded_teacher.server",
        "--port",
        "0",
        "--parent-pid",
        str(os.getpid()),
        "--seed",
        str(seed),
        *(f"--{name.replace('_', '-')}={value}" for name, value in manners.items()),
    ]
    if faults:
        command += ["--faults", ",".join(f"{kind}={p}" for kind, p in check_faults(faults).items())]
    # The server needs no secrets: drop API keys and the store's URL, which may contain a password.
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY") and k != SETTING}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile() as complaints:
        # A session of its own: Ctrl-C does not stop the server before the client has saved its answers.
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=complaints,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            line = _first_line(process)
            if not line:
                complaints.seek(0)
                said = complaints.read().decode(errors="replace").strip().splitlines()
                raise UserError(f"the embedded teacher did not start: {said[-1] if said else 'it said nothing'}.")
            yield str(json.loads(line)["base_url"])
        finally:
            _stop(process)


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(START_TIMEOUT_S) else b""


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
