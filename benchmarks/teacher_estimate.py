"""How near is `iot-pipeline estimate` to what is billed afterwards: with an empty store, half way, and at the end?

    .venv/bin/python benchmarks/teacher_estimate.py --rows 5000

A lake of its own is filled step by step, by concurrent requests and by the Batch API. The charge is the ledger's tokens
at gpt-4o-mini's price (the tests hold the ledger against the server's own account).
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

from result import save

from iot_pipeline.teacher.pricing import BATCH_FACTOR, reference_usd
from iot_pipeline.teacher.request import Usage
from iot_pipeline.teacher.store.store import Store


def main() -> None:
    """Estimate, ask, estimate, ask, estimate; write benchmarks/results/teacher_estimate.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    rows = parser.parse_args().rows
    save(
        "teacher_estimate",
        {
            "question": "an estimate beside the bill",
            "rows": rows,
            "ways": {via: measured(via, rows) for via in ("requests", "batch")},
        },
    )


def measured(via: str, rows: int) -> dict[str, Any]:
    """Estimates and bills of one way of asking."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"IOT_LAKE": folder, "IOT_ROWS": str(rows), "IOT_TEACHER_VIA": via}
        call(environment, "run", "--until", "flow_texts")
        cold, seconds = estimated(environment, via)
        for asset in ("validation_answers", "original"):
            call(environment, "run", "--until", asset)
        begun = billed(Path(folder), via)
        warm, _ = estimated(environment, via)
        for asset in ("paraphrased", "feature_varied"):
            call(environment, "run", "--until", asset)
        whole = billed(Path(folder), via)
        after, _ = estimated(environment, via)
    rest = {name: whole[name] - begun[name] for name in whole}
    return {
        "empty_store": compared(cold, whole) | {"seconds": seconds}, "half_way": compared(warm, rest),
        "to_ask_afterwards": after["requests"],
    }  # fmt: skip


def call(environment: dict[str, str], *words: str) -> dict[str, Any]:
    """What a command prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "iot_pipeline.cli", *words, "--json"], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def estimated(environment: dict[str, str], via: str) -> tuple[dict[str, float], float]:
    """Requests and dollars to come, and the seconds that the estimate took."""
    started = time.perf_counter()
    total = call(environment, "estimate")["total"]
    return {"requests": total["to_ask"], "usd": total[f"usd_{via}"]}, round(time.perf_counter() - started, 1)


def billed(lake: Path, via: str) -> dict[str, float]:
    """Requests and dollars of the ledger so far."""
    with Store(lake / "teacher.sqlite", read_only=True) as store:
        ledger = store.ledger()
    usage = Usage(ledger["prompt_tokens"], ledger["cached_tokens"], ledger["completion_tokens"])
    return {"requests": ledger["attempts"], "usd": reference_usd(usage) * (BATCH_FACTOR if via == "batch" else 1)}


def compared(estimate: dict[str, float], charged: dict[str, float]) -> dict[str, Any]:
    """Both, and how far off the dollars are."""
    off = round(100 * (estimate["usd"] / charged["usd"] - 1), 2)
    return {
        "estimated": estimate,
        "billed": {name: round(value, 5) for name, value in charged.items()},
        "usd_off_percent": off,
    }


if __name__ == "__main__":
    main()
