"""Does a training on Ray end as one on this machine does, also when workers and launchers are killed?

    .venv/bin/python benchmarks/ray_training.py

A base of a few steps and a training of some hundred, on a local Ray. Compared with IOT_LAUNCHER=local: the adapter's
bytes with one worker, predictions of 40 flows with two. Then a worker is killed (SIGKILL) once there is a checkpoint,
and the launcher likewise; counted are the processes that are left, and the seconds until there is none.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from result import save

from iot_pipeline.training.config import TrainConfig
from iot_pipeline_tests.training import on_ray


def main() -> None:
    """Measure, and write benchmarks/results/ray_training.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--print-only", action="store_true", help="print the result, write no file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        on_ray.make_world(world)
        question = "trainings on a local Ray against processes of this machine, and after kills"
        result: dict[str, Any] = {"question": question, "steps": chosen.steps}
        for name, measure in MEASURES.items():
            result[name] = measure(world, chosen.steps)
            print(name, json.dumps(result[name]), file=sys.stderr, flush=True)
    save("ray_training", result, print_only=chosen.print_only)


def one_worker(world: Path, steps: int) -> dict[str, Any]:
    """Compare one worker with one process, to the byte."""
    here, there = (config(world, f"one-{name}", steps) for name in ("here", "there"))
    seconds = {"local_seconds": train_here(here, 1), "ray_seconds": train_on_ray(there, 1)}
    return seconds | {"same_bytes": on_ray.same_bytes(here, there)}


def two_workers(world: Path, steps: int) -> dict[str, Any]:
    """Compare two workers with two processes, and with two of which one was killed."""
    here, there, killed = (config(world, f"two-{name}", steps) for name in ("here", "there", "killed"))
    seconds = {"local_seconds": train_here(here, 2), "ray_seconds": train_on_ray(there, 2)}
    began, started = time.perf_counter(), on_ray.start(killed, 2)
    on_ray.until((killed.out / "checkpoint.safetensors").exists, started)
    on_ray.workers_of(started.mark)[0].kill()
    in_the_middle = not (killed.out / "training.json").exists()
    resumed = [line for line in started.wait().splitlines() if line.startswith("resumed at step")]
    expected = on_ray.scores(here)
    return seconds | {
        "largest_difference_of_log_probabilities": float(np.abs(expected - on_ray.scores(there)).max()),
        "killed_worker": {
            "in_the_middle": in_the_middle,
            "told": resumed,
            "seconds_in_all": time.perf_counter() - began,
            "largest_difference_of_log_probabilities": float(np.abs(expected - on_ray.scores(killed)).max()),
            "same_bytes_as_without_a_kill": on_ray.same_bytes(killed, there),
        },
    }


def killed_launcher(world: Path, _steps: int) -> dict[str, Any]:
    """Kill the process that launched; count what it leaves, on its own Ray and on a cluster that goes on."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    own = on_ray.start(config(world, "own", 100_000), 2)
    found = killed(own, world / "own")
    result = {"own_ray": {"seconds_until_none_is_left": on_ray.seconds_to_vanish(own.others, 60)} | found}
    with on_ray.started_cluster(2) as (address, mark):
        started = on_ray.start(config(world, "cluster", 100_000), 2, on_ray.RayOptions(address, gpus=0))
        found = killed(started, world / "cluster")
        seconds = on_ray.seconds_to_vanish(lambda: on_ray.workers_of(mark), 60)
        result["cluster"] = {"seconds_until_no_worker_is_left": seconds} | found
    return result


def killed(started: on_ray.Started, out: Path) -> dict[str, Any]:
    """Kill a launcher once its training has a checkpoint; say how many processes there were."""
    on_ray.until((out / "checkpoint.safetensors").exists, started)
    before = len(started.others())
    started.process.kill()
    started.process.wait()
    return {"processes_before": before}


def config(world: Path, name: str, steps: int) -> TrainConfig:
    """Configure a training in a folder of its own."""
    return on_ray.config_in(world, world / name, max_steps=steps)


def train_here(settings: TrainConfig, processes: int) -> float:
    """Train as IOT_LAUNCHER=local does; return the seconds."""
    began = time.perf_counter()
    on_ray.train_here(settings, processes)
    return time.perf_counter() - began


def train_on_ray(settings: TrainConfig, workers: int) -> float:
    """Train on a Ray of its own; return the seconds, with its start."""
    began = time.perf_counter()
    output = on_ray.start(settings, workers).wait()
    if not (settings.out / "training.json").exists():
        raise SystemExit(output)
    return time.perf_counter() - began


MEASURES = {"one_worker": one_worker, "two_workers": two_workers, "killed_launcher": killed_launcher}

if __name__ == "__main__":
    main()
