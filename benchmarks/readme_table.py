"""The results of the README, from the committed studies: a test holds the README to them.

.venv/bin/python benchmarks/readme_table.py
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from iot_pipeline.reporting import rows
from iot_pipeline.vocabulary import CONTROLS, DISTILLED, TRACKS

RESULTS = Path(__file__).parent / "results"
STUDIES = {"Farm-Flow (simulated)": "farm_flow-demo", "RT-IoT2022 (real)": "rt_iot2022-demo"}
ARMS = {"RT-IoT2022 (real)": "rt_iot2022-arms"}  # another base: its students are not compared with those above
METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1", "lowest_recall": "lowest recall"}


def main() -> None:
    """Print table and verdicts of the tracks, then those of the other arms."""
    print("\n\n".join("\n".join(part) for studies in (STUDIES, ARMS) for part in (table(studies), verdicts(studies))))


def table(studies: Mapping[str, str]) -> list[str]:
    """List the lines of the Markdown table: mean over the training seeds, spread between them, ratio to AutoML's."""
    found = {title: read(name) for title, name in studies.items()}
    arms = dict.fromkeys(
        arm for controls in (False, True) for study in found.values() for arm, _ in rows.arms(study, controls)
    )
    lines = ["| | " + " | ".join(f"{title}: {name}" for title in found for name in METRICS.values()) + " |"]
    lines.append("|---|" + "---|" * len(found) * len(METRICS))
    for arm in arms:
        cells = [cell(study, arm, metric) for study in found.values() for metric in METRICS]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def cell(study: dict[str, Any], arm: str, metric: str) -> str:
    """Return `0.9775 ± 0.0011 (0.98)`: mean, spread over seeds, ratio to AutoML on the same rows."""
    if arm not in study["arms"]:
        return ""
    of, automl = study["arms"][arm][metric], study["arms"].get(f"AutoML {arm.split()[1]}")
    spread = f" ± {of['spread']:.4f}" if of["spread"] and of["spread"] > 1e-6 else ""
    best = automl[metric]["mean"] if automl and not arm.startswith("AutoML") else 0.0
    ratio = f" ({of['mean'] / best:.2f})" if best else ""
    return f"{of['mean']:.4f}{spread}{ratio}"


def verdicts(studies: Mapping[str, str]) -> Iterator[str]:
    """Yield the studies' sentences on tracks, controls and `distilled`, and on `original` beside the baselines."""
    for title, name in studies.items():
        study = read(name)
        for pair, tests in itertools.groupby(study["contrasts"], lambda row: (row["first"], row["second"])):
            names = [arm.split()[0] for arm in pair]
            if names[0] in (*CONTROLS, DISTILLED) or names[0] == TRACKS[0] or set(names) <= set(TRACKS):
                said = "; ".join(
                    f"{METRICS[row['metric']]} {row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}],"
                    f" {row['verdict']}"
                    for row in tests
                )
                yield f"- {title}, {study['seeds']} seeds, {pair[0]} minus {pair[1]}: {said}."


def read(name: str) -> dict[str, Any]:
    """A committed study."""
    result: dict[str, Any] = json.loads((RESULTS / f"study-{name}.json").read_text())
    return result


if __name__ == "__main__":
    main()
