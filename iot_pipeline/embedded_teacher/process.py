"""Start and stop of the embedded teacher as a subprocess."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping

from iot_pipeline.embedded_teacher.faults import check_faults
from iot_pipeline.env_file import PROJECT_ROOT
from iot_pipeline.errors import UserError

# Of a server that neither answers nor ends. A second of computing is a minute and more where forty processes share two
# cores; one that fails ends, and is told at once.
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 5.0
# Settings may be addresses with a password (a store's, a broker's), and the server reads none.
SECRET = re.compile(r"IOT_.*|.*(_KEY|_KEY_ID|_TOKEN|_SECRET|PASSWORD)")


def without_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are no secret and no setting: the server needs neither."""
    return {name: value for name, value in variables.items() if not SECRET.fullmatch(name)}


@contextlib.contextmanager
def embedded_server(faults: Mapping[str, float] | None = None, seed: int = 0, **options: float) -> Iterator[str]:
    """Yield the base URL (`http://127.0.0.1:<free port>/v1`) of a new embedded teacher, stopped when the block ends.

    `faults` are probabilities by kind (see faults.FAULTS), `seed` is the seed of their draw, `options` are fields of
    batches.ServerOptions. Raises UserError if the server does not start.
    """
    told = {"faults": check_faults(faults or {}), "seed": seed, "options": options, "parent": os.getpid()}
    environment = without_secrets(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile() as complaints:
        # A session of its own: Ctrl-C does not stop the server before the client has saved its answers.
        process = subprocess.Popen(
            [sys.executable, "-m", "iot_pipeline.embedded_teacher.server", json.dumps(told)],
            stdout=subprocess.PIPE,
            stderr=complaints,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                url = process.stdout.readline().decode().strip() if selector.select(START_TIMEOUT_S) else ""
            if not url:
                complaints.seek(0)
                said = complaints.read().decode(errors="replace").strip().splitlines()
                raise UserError(f"the embedded teacher did not start: {said[-1] if said else 'it said nothing'}.")
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
