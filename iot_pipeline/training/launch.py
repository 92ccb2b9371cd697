"""The command line and environment of a training subprocess."""

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
    """argv of a run of `module` on this machine: plain python for one process, torchrun for more."""
    if processes == 1:
        return [sys.executable, "-m", module, str(config_path)]
    return [
        *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"),
        *("--master-addr=127.0.0.1", f"--master-port={_free_port()}", "-m", module, str(config_path)),
    ]


def accelerate_command(config_path: Path, processes: int = 1, module: str = TRAIN) -> list[str]:
    """argv under `accelerate launch`, which sets the same variables as torchrun. UserError for many without a GPU.

    There `accelerate launch --cpu --num_processes 2` would silently run one.
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
    """argv of a training that learns nothing (fake.py); a base is built for real."""
    return command(config_path, 1, FAKE if module == TRAIN else module)


class Launcher(Protocol):
    """What a trainer is: how the processes of a payload are started. All else is the same for all."""

    def __call__(self, config_path: Path, processes: int = 1, module: str = TRAIN) -> list[str]:
        """argv of a run of `module` with the configuration file, in `processes` processes."""


LAUNCHERS: dict[str, Launcher] = {"local": command, "accelerate": accelerate_command, "fake": fake_command}
MOST_CPU_PROCESSES = 4


def processes_here(tiny: bool) -> int:
    """One process a GPU; without any, one a core (up to 4) for the tiny base, and one for any other.

    Two processes of one thread read 1.34 times the tokens of one with two threads (tiny base, 2 cores): its matrices
    are too small to be shared out. A real base's are not, and each process holds it in memory.
    """
    import torch

    return torch.cuda.device_count() or (min(MOST_CPU_PROCESSES, os.cpu_count() or 1) if tiny else 1)


def threads_of(processes: int, threads: int | None = None) -> int:
    """CPU threads of one of `processes`: `threads` where it is set, else its share of the cores."""
    return threads or max(1, (os.cpu_count() or 1) // processes)


def environment(base: str, processes: int = 1, threads: int | None = None) -> dict[str, str]:
    """Variables to add to the parent's: threads that yield, no tokenizer threads, no hub unless `base` is on it.

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
