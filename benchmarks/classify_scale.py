"""How fast does `classify` answer a million flows, in how much memory, and what does its cache save?

    IOT_LAKE=... .venv/bin/python benchmarks/classify_scale.py --rows 1000000

Simulated Farm-Flow flows of another seed than the lake's, as CSV, twice with one cache: the first run scores every
distinct flow, the second looks all of them up. Memory is the peak of the process less that of a run on 100 rows, which
holds the model too. The obvious way, scoring each row, is the share of rows that the first run spared.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.csv
import pyarrow.parquet as pq
from result import save

from iot_pipeline.simulator.simulate import simulate_farm_flow


def main() -> None:
    """Simulate, classify small, cold and warm; write benchmarks/results/classify_scale.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        simulate_farm_flow(place / "flows.parquet", chosen.rows, chosen.seed)
        table = pq.read_table(place / "flows.parquet")
        pyarrow.csv.write_csv(table, place / "flows.csv")
        pyarrow.csv.write_csv(table.slice(0, 100), place / "few.csv")
        del table
        few = classify(place, "few.csv", "few")
        cold = classify(place, "flows.csv", "cold")
        warm = classify(place, "flows.csv", "warm")
        same = (place / "cold.jsonl").read_bytes() == (place / "warm.jsonl").read_bytes()
        save(
            "classify_scale",
            {
                "question": "classify on many simulated flows: speed, memory beside the model, cache",
                "rows": chosen.rows,
                "csv_mb": round((place / "flows.csv").stat().st_size / 1e6, 1),
                "output_mb": round((place / "cold.jsonl").stat().st_size / 1e6, 1),
                "cache_mb": round((place / "cache.sqlite").stat().st_size / 1e6, 1),
                "model_and_code_mib": few["peak_mib"],
                "cold": cold | {"beside_model_mib": cold["peak_mib"] - few["peak_mib"]},
                "warm": warm | {"beside_model_mib": warm["peak_mib"] - few["peak_mib"]},
                "same_output": same,
                "load_average_at_end": [round(load, 1) for load in os.getloadavg()],
            },
        )


def classify(folder: Path, source: str, name: str) -> dict[str, Any]:
    """Classify a file in a process of its own; return its speed, peak memory and what it says."""
    cache = "cache.sqlite" if name != "few" else "few.sqlite"
    command = [sys.executable, "-m", "iot_pipeline", "classify", str(folder / source), "--json"]
    begin = time.monotonic()
    with (folder / f"{name}.json").open("wb") as told:
        running = subprocess.Popen(
            [*command, "--out", str(folder / f"{name}.jsonl"), "--cache", str(folder / cache)], stdout=told
        )
        peak, used = 0, 0.0
        process = psutil.Process(running.pid)
        while running.poll() is None:
            try:
                peak, used = max(peak, process.memory_info().rss), sum(process.cpu_times()[:2])
            except psutil.Error:
                break
            time.sleep(0.2)
    if running.wait():
        raise SystemExit(f"classify ended with {running.returncode}")
    seconds, facts = time.monotonic() - begin, json.loads((folder / f"{name}.json").read_text())
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": round(used, 1),
        "flows_per_second": round(facts["flows"] / seconds, 1),
        "flows_per_processor_second": round(facts["flows"] / used, 1),
        "peak_mib": round(peak / 2**20),
        "cache_hits": facts["cache_hits"],
        "distinct_flows": facts["scored"],
    }


if __name__ == "__main__":
    main()
