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
    """List the lines of the Markdown table: accuracy and macro-F1 on distinct flows, with the ratio to AutoML's."""
    found = {title: {key(row): row for row in read(lake)["results"]} for title, lake in LAKES.items()}
    names = dict.fromkeys(name for rows in found.values() for name in rows if name[0] != LEFT_OUT)
    titles = " | ".join(f"{title}: accuracy | of AutoML's | macro-F1 | of AutoML's" for title in LAKES)
    lines = [f"| | stage | {titles} |", "|---|---|" + "---|---|---|---|" * len(LAKES)]
    for name in names:
        cells = [cell for rows in found.values() for cell in cells_of(rows, name)]
        lines.append(f"| {name[0]} | {name[1]} | {' | '.join(cells)} |")
    ceilings = [f"{next(iter(rows.values()))['ceiling']:.4f} | | | " for rows in found.values()]
    return [*lines, f"| ceiling | | {' | '.join(ceilings)} |"]


def read(lake: str) -> dict[str, Any]:
    """A committed result."""
    result: dict[str, Any] = json.loads((RESULTS / f"whole_job-{lake}.json").read_text())
    return result


def key(row: dict[str, Any]) -> tuple[str, str]:
    """(model, stage)."""
    return row["model"], row["stage"]


def cells_of(rows: dict[tuple[str, str], dict[str, Any]], name: tuple[str, str]) -> list[str]:
    """Accuracy and macro-F1 of one row, each followed by its ratio to AutoML trained on the same rows."""
    if name not in rows:
        return [""] * 4
    row = rows[name]
    # The files print four digits of macro-F1, so its ratio carries two.
    ratio = point(row["macro-F1"]) / point(rows["AutoML", name[1]]["macro-F1"])
    return [row["accuracy, distinct flows"], f"{row['of AutoML']:.3f}", row["macro-F1"], f"{ratio:.2f}"]


def point(estimate: str) -> float:
    """The point estimate of `0.9775 [0.971, 0.983]`."""
    return float(estimate.split(" ")[0])


if __name__ == "__main__":
    main()
