"""The results table of the README, from the committed whole_job results: a test holds the README to it.

    .venv/bin/python benchmarks/readme_table.py
"""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LAKES = {"simulated Farm-Flow": "farm_flow-demo", "RT-IoT2022 (real)": "rt_iot2022-demo"}
LEFT_OUT = "hash lookup"  # near zero everywhere: it is the proof that nothing leaks, not a competitor


def main() -> None:
    """Print it."""
    print("\n".join(table()))


def table() -> list[str]:
    """Lines of the Markdown table: model and stage by data set, accuracy on distinct flows, share of AutoML's."""
    found = {title: {key(row): row for row in read(lake)["results"]} for title, lake in LAKES.items()}
    names = dict.fromkeys(name for rows in found.values() for name in rows if name[0] != LEFT_OUT)
    titles = " | ".join(f"{title} | of AutoML" for title in LAKES)
    lines = [f"| | stage | {titles} |", "|---|---|" + "---|---|" * len(LAKES)]
    for name in names:
        cells = [cell for rows in found.values() for cell in cells_of(rows.get(name))]
        lines.append(f"| {name[0]} | {name[1]} | {' | '.join(cells)} |")
    ceilings = [f"{next(iter(rows.values()))['ceiling']:.4f} | " for rows in found.values()]
    return [*lines, f"| ceiling | | {' | '.join(ceilings)} |"]


def read(lake: str) -> dict[str, Any]:
    """A committed result."""
    result: dict[str, Any] = json.loads((RESULTS / f"whole_job-{lake}.json").read_text())
    return result


def key(row: dict[str, Any]) -> tuple[str, str]:
    """(model, stage)."""
    return row["model"], row["stage"]


def cells_of(row: dict[str, Any] | None) -> list[str]:
    """Accuracy with its interval, and the share of AutoML's on the same rows."""
    if row is None:
        return ["", ""]
    share = row["of AutoML"]
    return [str(row["accuracy, distinct flows"]), f"{share:.3f}" if share is not None else ""]


if __name__ == "__main__":
    main()
