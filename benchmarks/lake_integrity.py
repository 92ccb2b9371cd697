"""Seconds that checking content takes: staleness of every artefact of a lake, cold and warm, and a full verification.

    IOT_ROWS=3000 .venv/bin/python benchmarks/lake_integrity.py data_lake/farm_flow-demo

Works on a copy of the lake (its cache of verified hashes is removed for the cold figure).
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from result import save


def main() -> None:
    """Write benchmarks/results/lake_integrity.json and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lake", type=Path)
    parser.add_argument("--print-only", action="store_true", help="write no result")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "lake"
        shutil.copytree(chosen.lake, copy, symlinks=True)
        result = measure(copy)
    save("lake_integrity", result, print_only=chosen.print_only)


def measure(folder: Path) -> dict[str, Any]:
    """Seconds of each way of looking at a lake; what `status` takes besides (Dagster's start) is not in them."""
    os.environ["IOT_LAKE"] = str(folder)
    from iot_pipeline.definitions import defs
    from iot_pipeline.defs import plan
    from iot_pipeline.lake.store import VERIFIED, Lake
    from iot_pipeline.lake.verify import verify
    from iot_pipeline.settings import settings

    planned = plan.wanted(defs(), settings())
    shutil.rmtree(folder / VERIFIED, ignore_errors=True)
    begin, seconds, stale = time.perf_counter(), {}, {}
    for name in ("status_cold", "status_warm"):
        stale[name] = sum(map(bool, plan.forecast(Lake(folder), settings(), planned).values()))
        seconds[name], begin = round(time.perf_counter() - begin, 3), time.perf_counter()
    found = verify(Lake(folder, read_only=True))
    seconds["verify"] = round(time.perf_counter() - begin, 3)
    if stale["status_cold"] != stale["status_warm"]:
        raise SystemExit(f"cold and warm disagree: {stale}")
    return {
        "question": "seconds that it takes to check the content of a lake", "artefacts": found.artefacts,
        "files": found.files, "bytes": found.bytes, "mismatches": len(found.mismatches), "seconds": seconds,
    }  # fmt: skip


if __name__ == "__main__":
    main()
