"""What every benchmark result carries: date, machine, commit."""

import datetime
import json
from pathlib import Path
from typing import Any

from iot_pipeline.lake.code_version import code_commit
from iot_pipeline.machine import this_machine

RESULTS = Path(__file__).parent / "results"


def stamped(result: dict[str, Any], card: str | None = None) -> dict[str, Any]:
    """Add date, machine and commit to a result; `card` names a GPU that was used."""
    machine = {name: fact for name, fact in this_machine().items() if name != "packages"}
    return {
        **result,
        "date": datetime.date.today().isoformat(),
        "machine": machine | ({"gpu": card} if card else {}),
        "code_commit": code_commit(),
    }


def save(name: str, result: dict[str, Any], card: str | None = None, print_only: bool = False) -> None:
    """Write benchmarks/results/<name>.json and print it.

    Args:
        name: Name of the file, without its ending.
        result: What was measured.
        card: Name of a GPU that was used.
        print_only: Write no file.
    """
    text = json.dumps(stamped(result, card), indent=1, ensure_ascii=False)
    if not print_only:
        (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
