"""Several training processes on this machine, started as torchrun starts them, but without loading torch first.

    python -m iot_pipeline.training.ranks PROCESSES PORT MODULE [ARGUMENT ...]

torchrun is a Python process that loads torch before it starts any of its own: 1.5 s of the processor on every training.
Here are no restarts and no second machine, which is all that it adds; the weights are the same to the byte.
"""

import os
import subprocess
import sys
import time

TICK_S, GRACE_S = 0.05, 5.0


def variables(rank: int, world: int, port: str) -> dict[str, str]:
    """Return the environment variables by which torch finds its place among the processes, as torchrun sets them."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    }


def main() -> int:
    """Run the module in all processes; return 0, or the exit code of the first that fails, which ends the others."""
    world, port, module, *arguments = sys.argv[1:]
    command = [sys.executable, "-m", module, *arguments]
    places = [os.environ | variables(rank, int(world), port) for rank in range(int(world))]
    processes = [subprocess.Popen(command, env=place) for place in places]
    try:
        while True:
            codes = [process.poll() for process in processes]
            if failed := [code for code in codes if code]:
                return failed[0] if failed[0] > 0 else 128 - failed[0]
            if all(code == 0 for code in codes):
                return 0
            time.sleep(TICK_S)
    finally:
        end(processes)


def end(processes: "list[subprocess.Popen[bytes]]") -> None:
    """End processes that are still at work: one that waits for a dead one would wait for ever."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + GRACE_S
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    raise SystemExit(main())
