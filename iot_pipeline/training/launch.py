"""Command line and environment of a training subprocess."""

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from iot_pipeline.errors import UserError
from iot_pipeline.lake.processes import free_port

TRAIN = "iot_pipeline.training.train"
BUILD_BASE = "iot_pipeline.tiny_base.__main__"
RANKS = "iot_pipeline.training.ranks"
MOST_CPU_PROCESSES = 4


def command(configs: Sequence[Path], processes: int = 1, module: str = TRAIN, launcher: str = "local") -> list[str]:
    """Build the command line that runs `module` in `processes` processes on this machine.

    Args:
        configs: Configuration files, the arguments of `module`.
        processes: Number of processes.
        module: Module to run.
        launcher: `local`: plain python for one process, `training.ranks` for more. `accelerate`: accelerate launch,
            which sets the same variables.

    Raises:
        UserError: There is no such launcher, or it is accelerate for several processes without a GPU:
            `accelerate launch --cpu` would silently run one.
    """
    if launcher not in ("local", "accelerate"):
        raise UserError(f"there is no launcher {launcher!r}: take local or accelerate")
    several = processes > 1
    if launcher == "accelerate":
        import torch

        gpu = torch.cuda.is_available()
        if several and not gpu:
            raise UserError("IOT_TRAINER=accelerate runs one process where there is no GPU: set IOT_TRAINER=local")
        options = ["-m", "accelerate.commands.launch", f"--num_processes={processes}", "--num_machines=1"]
        options += ["--mixed_precision=no", "--dynamo_backend=no", *([] if gpu else ["--cpu"])]
        options += ["--multi_gpu", f"--main_process_port={free_port()}"] if several else []
    elif several:
        return [sys.executable, "-m", RANKS, str(processes), str(free_port()), module, *map(str, configs)]
    else:
        options = []
    return [sys.executable, *options, "-m", module, *map(str, configs)]


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
        "PYTHONUTF8": "1",  # as its files are written, whatever the locale
        "IOT_PARENT_PID": str(os.getpid()),
    }
    if Path(base).exists():
        variables["HF_HUB_OFFLINE"] = "1"
    return variables


def exit_with_parent() -> None:
    """Exit when the process named in IOT_PARENT_PID, or this process's own parent, has ended."""
    named, own = os.environ.get("IOT_PARENT_PID"), os.getppid()
    if not named:
        return

    def watch() -> None:
        while os.getppid() == own and psutil.pid_exists(int(named)):
            time.sleep(2)
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()
