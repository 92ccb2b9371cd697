"""Command line and environment of a training subprocess."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Protocol

from iot_pipeline.errors import UserError

TRAIN = "iot_pipeline.training.train"
FAKE = "iot_pipeline.training.fake"
BUILD_BASE = "iot_pipeline.tiny_base.__main__"


def command(config_path: Path, processes: int = 1, module: str = TRAIN) -> list[str]:
    """Build the command line that runs `module` on this machine: plain python for one process, torchrun for more."""
    if processes == 1:
        return [sys.executable, "-m", module, str(config_path)]
    return [
        *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"),
        *("--master-addr=127.0.0.1", f"--master-port={_free_port()}", "-m", module, str(config_path)),
    ]


def accelerate_command(config_path: Path, processes: int = 1, module: str = TRAIN) -> list[str]:
    """Build the command line for `accelerate launch`, which sets the same variables as torchrun.

    UserError for several processes without a GPU: `accelerate launch --cpu --num_processes 2` would silently run one.
    """
    import torch

    if processes > 1 and not torch.cuda.is_available():
        raise UserError("IOT_TRAINER=accelerate runs one process where there is no GPU: set IOT_TRAINER=local")
    several = ["--multi_gpu", f"--main_process_port={_free_port()}"] if processes > 1 else []
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", f"--num_processes={processes}", "--num_machines=1"),
        *([] if torch.cuda.is_available() else ["--cpu"]),
        *several,
        *("--mixed_precision=no", "--dynamo_backend=no", "-m", module, str(config_path)),
    ]


def fake_command(config_path: Path, processes: int = 1, module: str = TRAIN) -> list[str]:
    """Build the command line of the fake trainer (fake.py); a base is built for real."""
    return command(config_path, 1, FAKE if module == TRAIN else module)


class Launcher(Protocol):
    """Launcher of a trainer: the command line that starts its processes; trainers differ in nothing else."""

    def __call__(self, config_path: Path, processes: int = 1, module: str = TRAIN) -> list[str]:
        """Build the command line that runs `module` with the configuration file in `processes` processes."""


LAUNCHERS: dict[str, Launcher] = {"local": command, "accelerate": accelerate_command, "fake": fake_command}
MOST_CPU_PROCESSES = 4


def processes_here(tiny: bool) -> int:
    """Return the number of processes: one per GPU; without GPUs one per core (up to 4) for the tiny base, else one.

    Two single-thread processes read 1.34 times the tokens of one with two threads (tiny base, 2 cores), because its
    matrices are too small to split. A real base's are not, and each process holds it in memory.
    """
    import torch

    return torch.cuda.device_count() or (min(MOST_CPU_PROCESSES, os.cpu_count() or 1) if tiny else 1)


def threads_of(processes: int, threads: int | None = None) -> int:
    """Return the CPU threads of one process: `threads` if set, else its share of the cores."""
    return threads or max(1, (os.cpu_count() or 1) // processes)


def environment(base: str, processes: int = 1, threads: int | None = None) -> dict[str, str]:
    """Return the environment variables to add: passive waiting, no tokeniser threads, no hub unless `base` is on it.

    Without the passive wait policy two jobs on the same cores run ten times slower.
    """
    count = threads_of(processes, threads)
    variables = {
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(count),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "IOT_PARENT_PID": str(os.getpid()),
    }
    if Path(base).exists():
        variables["HF_HUB_OFFLINE"] = "1"
    return variables


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
