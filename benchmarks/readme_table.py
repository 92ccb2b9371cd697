"""The results of README.md and docs/results.md, from the committed studies: a test holds both texts to them.

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
TRACK_STUDIES = {"Farm-Flow (simulated)": "farm_flow-demo", "RT-IoT2022 (real)": "rt_iot2022-demo"}
# Other bases: their students are not compared with those above.
ARM_STUDIES = {"Farm-Flow (simulated)": "farm_flow-arms", "RT-IoT2022 (real)": "rt_iot2022-arms"}
METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1", "lowest_recall": "lowest recall"}


def main() -> None:
    """Print the tables of arms, then those of comparisons."""
    print("\n\n".join([*tables(), *comparisons()]))


def tables() -> list[str]:
    """Return the Markdown tables of arms: tracks (README.md), then distillation and controls (docs/results.md)."""
    return ["\n".join(table(studies)) for studies in (TRACK_STUDIES, ARM_STUDIES)]


def comparisons() -> list[str]:
    """Return the Markdown tables of docs/results.md, one for each study."""
    studies = [*TRACK_STUDIES.values(), *ARM_STUDIES.values()]
    return ["\n".join(verdicts(read(name))) for name in studies]


def table(studies: Mapping[str, str]) -> list[str]:
    """List the lines of a Markdown table: mean over the training seeds, spread between them, ratio to AutoML's."""
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


def verdicts(study: dict[str, Any]) -> Iterator[str]:
    """Yield a Markdown table of a study's comparisons of tracks, controls and `distilled`, and with the baselines."""
    tested = ("accuracy", "macro_f1")
    yield "| first minus second | " + " | ".join(f"{METRICS[metric]} | verdict" for metric in tested) + " |"
    yield "|---|" + "---|---|" * len(tested)
    for pair, tests in itertools.groupby(study["contrasts"], lambda row: (row["first"], row["second"])):
        names = [arm.split()[0] for arm in pair]
        if names[0] in (*CONTROLS, DISTILLED, TRACKS[0]) or set(names) <= set(TRACKS):
            found = {row["metric"]: row for row in tests}
            cells = (f"{difference(found[metric])} | {found[metric]['verdict']}" for metric in tested)
            yield f"| {pair[0]} minus {pair[1]} | {' | '.join(cells)} |"


def difference(row: dict[str, Any]) -> str:
    """Return `+0.0005 [-0.0078, +0.0088]`."""
    return f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"


def read(name: str) -> dict[str, Any]:
    """Read a committed study."""
    result: dict[str, Any] = json.loads((RESULTS / f"study-{name}.json").read_text())
    return result


if __name__ == "__main__":
    main()
