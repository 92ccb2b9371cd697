"""Does the whole small job make the same through Ray as on this machine?

    PYTHONPATH=. .venv/bin/python benchmarks/ray_job.py

Runs `iot-pipeline run` of the tests' small job with IOT_LAUNCHER=local, then with `ray` and one worker, then with two.
With one worker every file must be the same, but those that may differ between equal runs (timings); with two, the
predictions of every student on the test side must agree within 1e-5. Each run has a lake of its own.
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

RAY = {"IOT_LAUNCHER": "ray"}
ARMS = {"local": {}, "ray, one worker": RAY | {"IOT_PROCESSES": "1"}, "ray, two workers": RAY | {"IOT_PROCESSES": "2"}}
CLOSE = 1e-5


def main() -> int:
    """Make the lakes, compare them, write benchmarks/results/ray_job.json; return 1 if a bound is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print-only", action="store_true", help="print the result, write no file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lakes = {arm: Path(folder) / arm.replace(", ", "-").replace(" ", "-") for arm in ARMS}
        seconds = {arm: made(lakes[arm], settings) for arm, settings in ARMS.items()}
        local, one, two = lakes.values()
        same = compare(local, one, [])
        apart = compare(local, two, [])
        result: dict[str, Any] = {
            "question": "the whole small job through Ray beside the same job on this machine",
            "settings": SMALL,
            "seconds": seconds,
            "artefacts": len(list(Lake(local, read_only=True).artefacts())),
            "one_worker": {key: same[key] for key in ("equal", "volatile_different", "different", "only_before")},
            "two_workers": {key: apart[key] for key in ("equal", "volatile_different", "different", "only_before")},
            "two_workers_largest_difference_of_log_probabilities": furthest(local, two),
        }
    save("ray_job", result, print_only=chosen.print_only)
    passed = any(same[key] for key in ("different", "only_before")) or apart["only_before"]
    return int(bool(passed) or max(result["two_workers_largest_difference_of_log_probabilities"].values()) > CLOSE)


def made(lake: Path, settings: dict[str, str]) -> float:
    """Run the whole small job in a lake; return its seconds, SystemExit if it fails."""
    environment = os.environ | SMALL | settings | {"IOT_LAKE": str(lake)}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "iot_pipeline", "run"], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{settings}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    print(settings or "local", f"{time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
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
