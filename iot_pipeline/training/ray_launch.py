"""Trainings on Ray: run them as one job, forward its lines, and stop it with this process.

The process stands where torchrun stands on one machine. To a cluster it submits through Ray's Jobs API, which any
cluster serves to other machines too. Without one it starts a Ray here, and is the job itself: the Jobs API is part of
Ray's dashboard, whose dozen processes take longer to start than a small training. docs/cluster-training.md says more.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import secrets
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.flows.download import without_credentials
from iot_pipeline.lake.atomic import write_text
from iot_pipeline.training.config import TrainConfig, read_config
from iot_pipeline.training.launch import environment, exit_with_parent, threads_of
from iot_pipeline.training.local_ray import local_ray
from iot_pipeline.training.ray_job import Request, run
from iot_pipeline.training.ray_worker import ERROR
from iot_pipeline.training.reporter import complain, dagster_pipes

MODULE, JOB = "iot_pipeline.training.ray_launch", "iot_pipeline.training.ray_job"
PACKAGE = Path(__file__).parent.parent
ADDRESS = "IOT_RAY_ADDRESS"  # http://HEAD:8265 of a cluster; without it a local Ray is started
BEAT_S = 5.0  # seconds between signs of life; the job ends 30 s after the last (LEASE_S)
NO_AGENT, STARTING_S = "No available agent", 60.0  # a head takes jobs a moment before any node can start one
UNREACHABLE_S = 300.0  # seconds for which a cluster may not answer: its head restarts, or the network does
OBJECT_STORE_BYTES = 100_000_000  # nothing of a training is in Ray's object store; 75 MB are the least
# Ray sends usage statistics unless told otherwise. Its 60 s for a group of workers to start are not enough for ten of
# them on a busy machine, each of which loads torch; a group that is late is started anew, and is late again.
RAY_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
# Variables of this process that the job gets too. No other is sent, so that no key is.
PASSED = ("OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM", "PYTHONUNBUFFERED", "PYTHONUTF8", "HF_HUB_OFFLINE")


@dataclass(frozen=True)
class RayOptions:
    """Cluster that trains, and the share of it that each worker gets.

    address: URL of the cluster's dashboard; None for a local Ray. gpus: GPUs of a worker; None for one where the
    cluster has any. cpus: CPUs that are reserved for a worker, and its threads where none are set.
    """

    address: str | None = None
    gpus: float | None = None
    cpus: int | None = None


def check_ray() -> None:
    """Raise UserError unless Ray is installed; it is looked for, not imported."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("IOT_LAUNCHER=ray needs Ray: pip install 'iot-pipeline[ray]', or set IOT_LAUNCHER=local")


def ray_command(configs: Sequence[Path], workers: int, options: RayOptions) -> list[str]:
    """Build the command line that trains by each configuration file on Ray; UserError without Ray.

    The process also needs `address_variable`.
    """
    check_ray()
    given = {"--workers": workers, "--gpus": options.gpus, "--cpus": options.cpus}
    flags = [f"{name}={value}" for name, value in given.items() if value is not None]
    return [sys.executable, "-m", MODULE, *flags, *map(str, configs)]


def address_variable(options: RayOptions) -> dict[str, str]:
    """Return the variable that names the cluster: its address may have a password, and anyone sees a command line."""
    return {ADDRESS: options.address or ""}


def main(arguments: list[str] | None = None) -> int:
    """Train by each configuration file on the command line; exit code 0, or 1 or 2 after a one-line error."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="Train on Ray.")
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG.json")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gpus", type=float, help="GPUs of a worker; default 1 where the cluster has any")
    parser.add_argument("--cpus", type=int, help="CPUs of a worker")
    given = parser.parse_args(arguments)
    exit_with_parent()
    try:
        check_ray()
        configs = [read_config(path) for path in given.configs]
        options = RayOptions(os.environ.get(ADDRESS) or None, given.gpus, given.cpus)
        os.environ.update(RAY_VARIABLES)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        threads = options.cpus or configs[0].threads or (1 if options.address else threads_of(given.workers))
        request = request_of(configs, given.workers, threads, options)
        with dagster_pipes() as pipes:
            if options.address is not None:
                return submit(options.address, request, pipes)
            return run_here(request, pipes)
    except UserError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGTERM


def request_of(configs: list[TrainConfig], workers: int, threads: int, options: RayOptions) -> Request:
    """Describe the job, in whose configurations each worker has its threads.

    Args:
        configs: Trainings, one after the other.
        workers: Processes of a training.
        threads: CPU threads of a worker, where a configuration sets none.
        options: The cluster, and its share for each worker.
    """
    threaded = [config.model_copy(update={"threads": config.threads or threads}) for config in configs]
    name = f"iot-{secrets.token_hex(8)}"
    return Request(
        name=name,
        lease=configs[0].out / f"{name}.lease",
        configs=threaded,
        workers=workers,
        gpus=options.gpus,
        cpus=options.cpus or threads,
        local=options.address is None,
    )


def run_here(request: Request, pipes: Any | None) -> int:
    """Run the job in this process, on a Ray that it starts; return the exit code, after one line of error."""
    told, out = Told(request.name, pipes), request.configs[0].out
    clear(out)
    os.environ.update(variables_of(request))  # Ray's processes inherit them
    try:
        with local_ray(OBJECT_STORE_BYTES, max(request.workers * request.cpus, os.cpu_count() or 1)):
            return told.end(run(request, told.take))
    finally:
        clear(out)


def connected(address: str) -> Any:
    """Connect to a cluster's Jobs API; UserError if there is none at the address, or it wants another token."""
    from ray.job_submission import JobSubmissionClient

    if not address.startswith(("http://", "https://")):
        told = without_credentials(address)
        raise UserError(f"IOT_RAY_ADDRESS={told}: give the address of the cluster's dashboard, as http://HEAD:8265")

    class Client(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **options: Any) -> Any:  # Ray's own waits for an answer for ever
            return super()._do_request(*arguments, **{"timeout": UNREACHABLE_S, **options})

    try:
        return Client(address)
    except Exception as error:  # ConnectionError, RuntimeError of a refusal, and errors of requests
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        told = f"no Ray cluster takes jobs at {address} ({reason})"
        raise UserError(f"IOT_RAY_ADDRESS: {without_credentials(told)}") from None


def submit(address: str, request: Request, pipes: Any | None) -> int:
    """Submit the job and follow it to its end; return the exit code. However this ends, the job does not go on."""
    client, out = connected(address), request.configs[0].out
    clear(out)
    write_text(request.lease, "0")
    told = Told(request.name, pipes)
    try:
        with signs_of_life(request.lease):
            command = ["python", "-m", JOB, request.model_dump_json()]
            hand_over(client, request.name, command, variables_of(request))
            return told.end(Following(client, request, told).follow())
    finally:
        with contextlib.suppress(Exception):
            client.stop_job(request.name)  # does nothing if it has ended
        clear(out)


def hand_over(client: Any, name: str, command: Sequence[str], variables: Mapping[str, str]) -> None:
    """Submit a job to a cluster, again as long as none of its nodes could start one yet.

    Args:
        client: Client of the cluster's Jobs API.
        name: Name of the job.
        command: What it runs. The cluster has the packages; the code that it runs is this process's.
        variables: Environment variables of its processes.

    Raises:
        UserError: The cluster refuses the job, or no node could start one for STARTING_S.
    """
    brought = {"env_vars": dict(variables), "py_modules": [str(PACKAGE)], "excludes": ["__pycache__"]}
    began = time.monotonic()
    while True:
        try:
            client.submit_job(entrypoint=shlex.join(command), submission_id=name, runtime_env=brought)
            return
        except Exception as error:  # RuntimeError of a refusal, and any of the client's HTTP library
            if NO_AGENT not in str(error) or time.monotonic() - began > STARTING_S:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                told = f"the Ray cluster took no job ({reason})"  # errors of the HTTP library name the address
                raise UserError(f"IOT_RAY_ADDRESS: {without_credentials(told)}") from None
        time.sleep(1.0)


@contextlib.contextmanager
def signs_of_life(lease: Path) -> Iterator[None]:
    """Renew the lease of a job for a `with` block, from a thread: the cluster may let a request hang for minutes."""
    over = threading.Event()

    def renew() -> None:
        for beat in itertools.count(1):
            if over.wait(BEAT_S):
                return
            with contextlib.suppress(OSError):  # a file server that is away
                if lease.exists():  # the next launcher of the same training removes it
                    write_text(lease, str(beat))

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(BEAT_S)


def ended(client: Any, name: str, each: Callable[[], None] = lambda: None) -> Any:
    """Wait for the end of a job, with a call of `each` before each look; return its status.

    Raises UserError if the cluster does not answer for UNREACHABLE_S.
    """
    answered = time.monotonic()
    while True:
        each()
        try:
            status = client.get_job_status(name)
            answered = time.monotonic()
            if status.is_terminal():
                return status
        except Exception as error:  # any of the client's HTTP library
            if time.monotonic() - answered > UNREACHABLE_S:
                told = f"the Ray cluster has not answered for {UNREACHABLE_S:.0f} s ({error})"
                raise UserError(without_credentials(told)) from None
        time.sleep(1.0)


def clear(out: Path) -> None:
    """Delete leases of jobs, which ends those that a killed process left, and the folders that Ray Train writes."""
    for left in out.glob("iot-*"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def variables_of(request: Request) -> dict[str, str]:
    """Return the environment variables of the job's processes."""
    told = environment(request.configs[0].base, request.workers, request.configs[0].threads)
    passed = {name: told.get(name, os.environ.get(name)) for name in PASSED}
    named = {name: value for name, value in passed.items() if value is not None}
    return {**RAY_VARIABLES, **named, "OMP_NUM_THREADS": str(request.configs[0].threads)}


@dataclass
class Told:
    """Reports of a job: lines go to Dagster if it listens, else to the terminal; errors are kept."""

    name: str
    pipes: Any | None
    errors: list[str] = field(default_factory=list)

    def take(self, kind: str, text: str) -> None:
        """Take a report."""
        if kind == ERROR:
            self.errors.append(text)
        elif self.pipes is not None:
            self.pipes.log.info(text)
        else:
            print(text, flush=True)

    def end(self, code: int) -> int:
        """Return the exit code of a job, after its first error as one line."""
        if self.errors:
            complain(UserError(self.errors[0]))
        return code


@dataclass
class Following:
    """A submitted job that is followed: its lines are forwarded."""

    client: Any
    request: Request
    told: Told

    def follow(self) -> int:
        """Follow the job to its end; return the exit code."""
        from ray.job_submission import JobStatus

        reading = threading.Thread(target=lambda: asyncio.run(self._read()), daemon=True)
        reading.start()
        status = ended(self.client, self.request.name)
        reading.join(timeout=15)
        if status == JobStatus.SUCCEEDED:
            return 0
        if self.told.errors:
            return 2
        self.told.take(ERROR, f"the Ray job {self.request.name} {self._end(status)}")
        return 1

    def _end(self, status: Any) -> str:
        """Describe the end of a job that told no error itself."""
        with contextlib.suppress(Exception):
            told = (self.client.get_job_info(self.request.name).message or "").strip().splitlines()
            return f"ended as {status}: {' | '.join(told[:1] + told[-3:])}"
        return f"ended as {status}"

    async def _read(self) -> None:
        """Read the job's output to its end; after a lost connection, from where it was lost."""
        read = 0
        while True:
            passed, rest = 0, ""
            try:
                async for chunk in self.client.tail_job_logs(self.request.name):
                    rest += chunk
                    *lines, rest = rest.split("\n")
                    for line in lines:
                        passed += 1
                        if passed > read:
                            self._take(line)
                    read = max(read, passed)
                return
            except Exception:  # any of the client's HTTP library; `follow` ends it
                await asyncio.sleep(2)

    def _take(self, line: str) -> None:
        """Take a line of the job's output: a report, or output of Ray."""
        name, _, told = line.partition(" ")
        if name == self.request.name:
            self.told.take(*json.loads(told))
        else:
            print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
