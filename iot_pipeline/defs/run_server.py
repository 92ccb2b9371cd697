"""Warm run workers: a process that has loaded all definitions forks a worker for each run that is launched.

    python -m iot_pipeline.defs.run_server LISTENER PARENT

LISTENER is the file descriptor of a Unix socket that `ui`, the process PARENT, opened in a folder of this user alone:
requests wait in it while the server starts, or starts again. It runs one thread of Python, opens no database, draws no
random number: a fork copies no lock, connection or state that is in use. Workers end with the server, and the
server with `ui`.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

import iot_pipeline
from iot_pipeline.defs import dagster_internals as internals
from iot_pipeline.defs.run_monitoring import close_run
from iot_pipeline.env_file import env_file
from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.lake.processes import end_with_parent
from iot_pipeline.settings import PROJECT_ROOT, settings

PACKAGE = Path(iot_pipeline.__file__).parent
TICK_S, LOOKED_EVERY_S = 0.5, 2.0
REQUEST_S, REQUEST_BYTES = 5.0, 65_536
GRACE_S = 8.0  # for workers, after a signal to stop; `ui` kills the group after 10
ONE = "--run"
LOADED = ("matplotlib.figure", "matplotlib.backends.backend_agg")  # 0.5 of the 1.4 s of a small artefact with a figure


def sources() -> dict[str, tuple[int, int]]:
    """Return time and size of each file that the definitions are loaded from: code, data sets, profiles, `.env`."""
    found = [path for kind in ("*.py", "*.yaml") for path in PACKAGE.rglob(kind)]
    found += [PROJECT_ROOT / "dagster.yaml", env_file()]
    with contextlib.suppress(UserError):
        found.append(Path(settings().data.dataset))  # no file if it is a name
    return {str(path): (told.st_mtime_ns, told.st_size) for path in found if (told := _stat(path)) is not None}


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


class RunServer:
    """Server that forks workers; `workers` has the run of each by process id, `parent` is the process it ends with."""

    def __init__(self, listener: socket.socket, parent: int) -> None:
        self.listener, self.parent = listener, parent
        self.workers: dict[int, str] = {}
        self.sources, self.looked = sources(), time.monotonic()
        self.broken = ""
        self.stopped = False
        signal.signal(signal.SIGTERM, self._stop)
        try:
            internals.load_location()
            for name in LOADED:
                importlib.import_module(name)
            load_spec(settings().data.dataset)  # parsed once for all workers (lake/yaml_reader.py)
        except Exception as error:  # a mistake in the code: runs are refused with it until the code changes
            traceback.print_exc()
            self.broken = f"the definitions cannot be loaded: {error}"

    def _stop(self, *_: object) -> None:
        self.stopped = True

    def serve(self) -> None:
        """Answer requests until the process is told to stop; then give the workers time to end."""
        while not self.stopped:
            ready, _, _ = select.select([self.listener], [], [], TICK_S)
            self._reap()
            if os.getppid() != self.parent:
                os.killpg(os.getpgrp(), signal.SIGKILL)
            if not self.workers and (ready or time.monotonic() - self.looked > LOOKED_EVERY_S) and self._is_stale():
                self._start_anew()
            if ready:
                self._answer()
        end = time.monotonic() + GRACE_S
        while self.workers and time.monotonic() < end:
            time.sleep(0.1)
            self._reap(bury=False)

    def _is_stale(self) -> bool:
        self.looked = time.monotonic()
        return sources() != self.sources

    def _start_anew(self) -> None:
        """Replace this process by a new one with the same id, which loads the present code."""
        os.set_inheritable(self.listener.fileno(), True)
        own = [str(self.listener.fileno()), str(self.parent)]
        os.execv(sys.executable, [sys.executable, "-m", "iot_pipeline.defs.run_server", *own])

    def _reap(self, bury: bool = True) -> None:
        """Take note of children that have ended, and close the run of a worker that was killed."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            run_id = self.workers.pop(pid, None)
            if run_id is not None and status != 0 and bury and run_id not in self.workers.values():
                self._fork(partial(_bury, run_id, pid))

    def _answer(self) -> None:
        """Answer one request: launch a run, or cancel one."""
        connection, _ = self.listener.accept()
        with connection:
            try:
                connection.settimeout(REQUEST_S)
                if not isinstance(asked := json.loads(_line(connection)), dict):
                    raise ValueError("it is not a JSON object")
                connection.sendall(json.dumps(self._reply(asked, connection)).encode() + b"\n")
            except (OSError, ValueError) as error:
                print(f"a request for a run was not answered: {error}", file=sys.stderr, flush=True)

    def _reply(self, asked: dict[str, str], connection: socket.socket) -> dict[str, Any]:
        if run_id := asked.get("launch"):
            return self._launch(run_id, connection)
        run_id = asked.get("cancel")
        found = [pid for pid, one in self.workers.items() if one == run_id]
        for pid in found:
            os.kill(pid, signal.SIGINT)  # a child that has not been waited for: its id is its own
        return {"cancelled": bool(found)}

    def _launch(self, run_id: str, connection: socket.socket) -> dict[str, Any]:
        stale = self._is_stale()  # others are at work, so the server cannot be replaced now
        if self.broken and not stale:
            return {"error": self.broken}
        pid = self._fork(lambda: _cold(run_id) if stale else internals.execute_launched_run(run_id), connection)
        self.workers[pid] = run_id
        return {"pid": pid}

    def _fork(self, work: Callable[[], None], *unused: socket.socket) -> int:
        """Run a function in a forked process; return the process id."""
        server = os.getpid()
        if pid := os.fork():
            return pid
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for one in (self.listener, *unused):
                one.close()
            end_with_parent(server)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)  # what the server would do at its own end is not the worker's business


def _line(connection: socket.socket) -> bytes:
    """Read one line."""
    got = b""
    while not got.endswith(b"\n"):
        part = connection.recv(4096)
        if not part or len(got) > REQUEST_BYTES:
            raise ValueError("a request is one line")
        got += part
    return got


def _cold(run_id: str) -> None:
    """Execute a run by the present code, which this process has not loaded."""
    os.execv(sys.executable, [sys.executable, "-m", "iot_pipeline.defs.run_server", ONE, run_id])


def _bury(run_id: str, pid: int) -> None:
    """Close the run of a worker that was killed."""
    with dg.DagsterInstance.get() as instance:
        close_run(instance, run_id, pid)


def main() -> None:
    """Serve on the given socket; with `--run ID` execute one run."""
    if sys.argv[1] == ONE:
        end_with_parent(os.getppid())
        internals.execute_launched_run(sys.argv[2])
        return
    if os.getpgrp() != os.getpid():
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # `ui` decides
    RunServer(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])).serve()


if __name__ == "__main__":
    main()
