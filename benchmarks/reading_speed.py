"""Reading a CSV of a million rows, against another state of the code: seconds of each in turns, and their ratio.

python benchmarks/reading_speed.py ../before     # a checkout of the state to compare with
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from result import save

from iot_pipeline.simulator.simulate import simulate_farm_flow

HERE = Path(__file__).parents[1]
READ = """
import resource, sys, time
from pathlib import Path
from iot_pipeline.flows.source import read_source
from iot_pipeline.flows.spec import load_spec
spec = load_spec("farm_flow")
before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
read_source(spec, sys.argv[1], Path(sys.argv[2]))
after = resource.getrusage(resource.RUSAGE_SELF)
print(time.perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
"""


def read(tree: Path, file: Path, out: Path) -> tuple[float, float]:
    """Read a file by the code of a checkout in a process of its own; return wall and processor seconds."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(file), str(out)],
        cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    wall, processor = map(float, done.stdout.split())
    return wall, processor


def main() -> None:
    """Read the same file by both states in turns, compare the tables, save medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="checkout of the state to compare with")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="iot_reading_") as folder:
        table, file = Path(folder) / "t.parquet", Path(folder) / "t.csv"
        simulate_farm_flow(table, given.rows)
        pa_csv.write_csv(pq.read_table(table), file)
        table.unlink()
        times: dict[str, list[tuple[float, float]]] = {"before": [], "now": []}
        for _ in range(given.turns):
            for name, tree in (("before", given.before.resolve()), ("now", HERE)):
                times[name].append(read(tree, file, Path(folder) / f"{name}.parquet"))
        equal = (Path(folder) / "before.parquet").read_bytes() == (Path(folder) / "now.parquet").read_bytes()
        size = file.stat().st_size
    wall, processor = (
        {name: round(statistics.median(turn[place] for turn in turns), 2) for name, turns in times.items()}
        for place in (0, 1)
    )
    result = {
        "rows": given.rows, "bytes": size, "turns": given.turns, "tables_equal_to_the_byte": equal,
        "wall_seconds": wall, "processor_seconds": processor,
        "ratio_wall": round(wall["now"] / wall["before"], 3),
        "ratio_processor": round(processor["now"] / processor["before"], 3),
    }  # fmt: skip
    save("reading_speed", result)


if __name__ == "__main__":
    main()
