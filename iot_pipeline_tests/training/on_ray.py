"""Trainings on Ray for tests and benchmarks: started, found, and their processes killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from iot_pipeline.inference.student import Student
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.sft.tensors import build_tensors
from iot_pipeline.training import launch
from iot_pipeline.training.config import TrainConfig
from iot_pipeline.training.ray_launch import RayOptions, address_variable, ray_command
from iot_pipeline_tests.tiny_model import CLASSES, chats, flow_texts, make_base

MARK = "MARK_OF_TEST"  # variable that all processes of one training or cluster inherit
HUNG_S = 600  # a process that takes longer hangs; ten times a training on a busy machine
CLUSTER = """
import sys
from iot_pipeline.training.local_ray import local_ray
with local_ray(100_000_000, int(sys.argv[1]), dashboard=True) as address:
    print(address, flush=True)
    sys.stdin.read()
"""


def make_world(folder: Path) -> Path:
    """Put a base of a few steps and training tensors in a folder; return it."""
    base = make_base(folder / "base")
    build_tensors(chats(flow_texts(32, seed=3)), load_tokenizer(base), 200, folder / "t.safetensors")
    return folder


def config_in(world: Path, out: Path, **changes: object) -> TrainConfig:
    """Configure a training that takes two processes several seconds, so that it can be killed in the middle."""
    out.mkdir(exist_ok=True)
    values: dict[str, object] = {
        "base": str(world / "base"),
        "tensors": world / "t.safetensors",
        "out": out,
        "max_steps": 300,
        "step_rows": 8,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "threads": 1,
        "save_every": 10,
    }
    return TrainConfig(**(values | changes))  # type: ignore[arg-type]


def train_here(config: TrainConfig, processes: int) -> None:
    """Train as IOT_LAUNCHER=local does."""
    path = config.write(config.out / "config.json")
    variables = os.environ | launch.environment(config.base, processes, config.threads)
    subprocess.run(launch.command([path], processes), env=variables, check=True, capture_output=True)


def scores(config: TrainConfig) -> np.ndarray:
    """Log-probabilities of the classes of 40 flows, by the student that was trained."""
    return Student.load(config.base, config.out, "cpu", 1).score_labels(flow_texts(40, seed=9), CLASSES)


def same_bytes(one: TrainConfig, other: TrainConfig) -> dict[str, bool]:
    """Compare adapter and losses of two trainings."""
    files = ("adapter_model.safetensors", "loss.jsonl")
    return {name: (one.out / name).read_bytes() == (other.out / name).read_bytes() for name in files}


@dataclass
class Started:
    """A training that was started on Ray, and the mark of its processes."""

    process: subprocess.Popen[bytes]
    mark: str
    output: Path
    seen: set[psutil.Process] = field(default_factory=set)

    def wait(self) -> str:
        """Wait for its end; return its output."""
        self.process.wait(HUNG_S)
        return self.output.read_text()

    def others(self) -> list[psutil.Process]:
        """Its processes, but for the one that was started.

        Ray's agents write titles over their environments, and with them over the mark: they are found as children of
        others, and remembered, since these may end before.
        """
        for process in marked(self.mark):
            with contextlib.suppress(psutil.Error):
                self.seen |= {process, *process.children(recursive=True)}
        return [process for process in self.seen if process.pid != self.process.pid and is_alive(process)]


def start(config: TrainConfig, workers: int, options: RayOptions | None = None) -> Started:
    """Start a training on Ray, by default on one of its own."""
    path, mark = config.write(config.out / "config.json"), uuid.uuid4().hex
    variables = os.environ | launch.environment(config.base, workers, config.threads) | {MARK: mark}
    variables |= address_variable(options or RayOptions())
    output = config.out / "output.txt"
    with output.open("w") as file:
        command = ray_command([path], workers, options or RayOptions())
        process = subprocess.Popen(command, env=variables, stdout=file, stderr=file, start_new_session=True)
    return Started(process, mark, output)


@contextlib.contextmanager
def started_cluster(cpus: int) -> Iterator[tuple[str, str]]:
    """Start a Ray in a process of its own; yield its address and the mark of its processes."""
    mark, paths = uuid.uuid4().hex, f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [sys.executable, "-c", CLUSTER, str(cpus)]
    variables = os.environ | {MARK: mark, "PATH": paths, "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process.stdout.readline().strip(), mark
    finally:
        process.stdin.close()
        process.wait(60)


def is_alive(process: psutil.Process) -> bool:
    """Return True if a process runs."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def marked(mark: str) -> list[psutil.Process]:
    """Find the live processes of a mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def workers_of(mark: str) -> list[psutil.Process]:
    """Find the workers of a mark that compute."""
    found = []
    for process in marked(mark):
        with contextlib.suppress(psutil.Error):  # it may end at any moment
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def until(reached: Callable[[], object], started: Started) -> None:
    """Wait until something is reached; fail if the training ends before."""
    deadline = time.monotonic() + HUNG_S
    while not reached():
        assert started.process.poll() is None, f"it ended before: {started.output.read_text()[-2000:]}"
        assert time.monotonic() < deadline, "never reached"
        time.sleep(0.01)
    started.others()


def seconds_to_vanish(found: Callable[[], list[psutil.Process]], within: float) -> float | None:
    """Wait until there are no processes any more; return the seconds, None after `within`."""
    began = time.monotonic()
    while time.monotonic() - began < within:
        if not found():
            return time.monotonic() - began
        time.sleep(0.2)
    return None


def listening(mark: str) -> set[str]:
    """Addresses at which Ray's processes of a mark listen; workers meet at a port of torch's own, as torchrun's do."""
    workers = {process.pid for process in workers_of(mark)}
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in marked(mark)
        if process.pid not in workers
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
