"""How do time and memory of quality and splits grow with the table?

    python benchmarks/quality_scale.py [--rows 347685 1000000 3000000 10000000]

Every size is simulated, built and measured in a process of its own, so that its peak memory is its own. Bars: 24 GiB,
and time no worse than n log n: `exponent` is the slope of log seconds over log(n log n), at most 1 if that holds. The
constant costs of small tables pull it down, so `last_step_exponent` gives the slope of the two largest alone.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from quality_speed import SEED, measure_all, peak_gib, timed
from result import save

from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.simulator.simulate import simulate_farm_flow

SIZES = [347_685, 1_000_000, 3_000_000, 10_000_000]


def main() -> None:
    """Write benchmarks/results/quality_scale.json and print it; with --one, print the figures of one size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure_size(arguments.rows[0])))
        return
    sizes = []
    for rows in sorted(arguments.rows):
        command = [sys.executable, __file__, "--one", "--rows", str(rows)]
        sizes.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    save("quality_scale", {
        "question": "time and peak memory of quality and splits by rows",
        "sizes": sizes,
        "exponent": slope(sizes),
        "last_step_exponent": slope(sizes[-2:]),
    })  # fmt: skip


def measure_size(rows: int) -> dict:
    """Seconds by function and peak memory at one size; the table is made beforehand, outside the clock."""
    spec = load_spec("farm_flow")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, simulated = timed(lambda: simulate_farm_flow(folder / "raw.parquet", rows, SEED))
        report, built = timed(lambda: build_flows(spec, folder / "raw.parquet", folder / "flows.parquet"))
        before = peak_gib()
        seconds = measure_all(folder, spec)
    return {
        "rows": rows,
        "distinct_flows": report.distinct_groups,
        "simulate_seconds": simulated,
        "build_flows_seconds": built,
        "quality_and_splits_seconds": round(sum(seconds.values()), 2),
        "seconds": seconds,
        "peak_gib_simulate_and_build": before,
        "peak_gib": peak_gib(),
    }


def slope(sizes: list[dict]) -> float:
    """Least-squares slope of log seconds over log(n log n)."""
    n_log_n = [math.log(size["rows"] * math.log(size["rows"])) for size in sizes]
    seconds = [math.log(size["quality_and_splits_seconds"]) for size in sizes]
    return round(float(np.polyfit(n_log_n, seconds, 1)[0]), 3)


if __name__ == "__main__":
    main()
