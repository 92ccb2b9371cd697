"""Does the whole small job make the same through Ray as on this machine?

    PYTHONPATH=. .venv/bin/python benchmarks/ray_job.py

Runs `iot-pipeline run` of the tests' small job with IOT_LAUNCHER=local and `ray`, each with one and with two workers,
and `local` with one a second time: what differs between two equal runs (timings, ids of runs) says nothing about Ray.
Every other file must be the same. Each run has a lake of its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from compare_lakes import compare
from result import save

from iot_pipeline.lake.store import Lake
from iot_pipeline_tests.test_end_to_end import SMALL

ARMS = {
    f"{launcher}, {workers}{again}": {"IOT_LAUNCHER": launcher, "IOT_PROCESSES": workers}
    for launcher, workers, again in (
        ("local", "1", ""),
        ("local", "1", ", again"),
        ("ray", "1", ""),
        ("local", "2", ""),
        ("ray", "2", ""),
    )
}


def main() -> int:
    """Make the lakes, compare them, write benchmarks/results/ray_job.json; return 1 if Ray made anything else."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print-only", action="store_true", help="print the result, write no file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lakes = {arm: Path(folder) / arm.replace(", ", "-") for arm in ARMS}
        seconds = {arm: made(lakes[arm], settings) for arm, settings in ARMS.items()}
        local = lakes["local, 1"]
        equal_runs = set(compare(local, lakes["local, 1, again"], [])["different"])
        found = {
            f"{workers} worker{'s' if workers > 1 else ''}": held_against(
                lakes[f"local, {workers}"], lakes[f"ray, {workers}"], equal_runs
            )
            for workers in (1, 2)
        }
        result: dict[str, Any] = {
            "question": "the whole small job through Ray beside the same job on this machine",
            "settings": SMALL,
            "seconds": seconds,
            "artefacts": len(list(Lake(local, read_only=True).artefacts())),
            "differ_between_two_equal_runs": sorted(equal_runs),
            "ray_against_local": found,
            "two_workers_against_one": furthest(local, lakes["ray, 2"]),
        }
    save("ray_job", result, print_only=chosen.print_only)
    return int(any(one["different"] or one["missing"] for one in found.values()))


def held_against(local: Path, ray: Path, equal_runs: set[str]) -> dict[str, Any]:
    """Compare two lakes: files that are equal, that differ beyond two equal runs, and that one lacks."""
    same = compare(local, ray, [])
    return {
        "equal": same["equal"],
        "may_differ_and_do": same["volatile_different"] + len(equal_runs.intersection(same["different"])),
        "different": sorted(set(same["different"]) - equal_runs),
        "missing": [*same["only_before"], *same["only_after"]],
        "largest_difference_of_log_probabilities": max(furthest(local, ray).values()),
    }


def made(lake: Path, settings: dict[str, str]) -> float:
    """Run the whole small job in a lake; return its seconds, SystemExit if it fails."""
    environment = os.environ | SMALL | settings | {"IOT_LAKE": str(lake)}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "iot_pipeline", "run"], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{settings}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    print(settings, f"{time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return round(time.perf_counter() - began, 1)


def furthest(before: Path, after: Path) -> dict[str, float]:
    """Return the largest difference of the students' log-probabilities on the test side, by student."""
    one, other = Lake(before, read_only=True), Lake(after, read_only=True)
    found = {}
    for artefact in one.artefacts():
        if artefact.asset.startswith("eval_metrics"):
            tables = [pq.read_table(lake.verified(artefact) / "predictions.parquet") for lake in (one, other)]
            assert tables[0]["flow_group"].equals(tables[1]["flow_group"])
            scores = [np.array(table.drop(["flow_group"]).to_pandas(), dtype=float) for table in tables]
            found[str(artefact)] = float(np.abs(scores[0] - scores[1]).max())
    return found


if __name__ == "__main__":
    sys.exit(main())
