"""Do tables in the shapes of public data sets go through the whole job, from a draft of their spec to the report?

    .venv/bin/python benchmarks/table_shapes.py [SHAPE ...] [--rows 20000] [--folder DIR]

Each shape (iot_pipeline_tests/shapes.py) is written, `datasets new` drafts its spec, `datasets check` tells its rare
classes, the key `rare_classes` that it asks for is added, and `run` makes everything with a training of a few steps.
Whether that works is measured, not how well. Then every answer of the track is held against its flow once more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from result import RESULTS, save

from iot_pipeline.augmentation.checks import check_answer
from iot_pipeline.flows.rare import with_kept_classes
from iot_pipeline.flows.spec import load_spec
from iot_pipeline_tests.shapes import SHAPES, Shape

# The smallest training that still makes every artefact.
SHORT = {
    "IOT_TRACKS": "original", "IOT_STAGES": "10K", "IOT_BASE_STEPS": "5", "IOT_TRAIN_MAX_STEPS": "4",
    "IOT_CLASS_ROWS": "8", "IOT_CLASS_COPIES": "1", "IOT_EXPLAINED_FLOWS": "12", "IOT_DELETION_FLOWS": "2",
    "IOT_AUDIT_ROWS": "32", "IOT_AUDIT_WORDS": "30", "IOT_EXPLANATION_WORDS": "40", "IOT_VALIDATION_FLOWS": "20",
    "IOT_PROCESSES": "1", "IOT_MAX_LENGTH": "1536",
}  # fmt: skip


def main() -> None:
    """Try each shape and write benchmarks/results/table_shapes.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", help=", ".join(SHAPES))
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="where tables and lakes go; default a temporary folder")
    parser.add_argument("--drafts-only", action="store_true", help="no whole job")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="iot_shapes_") as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in chosen.shapes or SHAPES:
            found = tried(name, SHAPES[name], chosen.rows, folder, chosen.drafts_only)
            print(json.dumps({name: found}, indent=1))
            if not chosen.drafts_only:
                keep(chosen.rows, name, found)


def keep(rows: int, name: str, found: dict[str, Any]) -> None:
    """Write what was found of a shape beside what is known of the others."""
    before = RESULTS / "table_shapes.json"
    shapes = json.loads(before.read_text())["shapes"] if before.is_file() else {}
    save("table_shapes", {"rows": rows, "settings": SHORT, "shapes": shapes | {name: found}})


def tried(name: str, shape: Shape, rows: int, folder: Path, drafts_only: bool) -> dict[str, Any]:
    """Draft, check and run one shape.

    Args:
        name: Name of the shape.
        shape: The shape.
        rows: Rows of its table.
        folder: Folder of tables, specs and lakes.
        drafts_only: True to leave the whole job out.

    Returns:
        What was found, each part beside what it should be.
    """
    table, spec, lake = folder / f"{name}.csv", folder / f"{name}.yaml", folder / f"lake_{name}"
    shape.write(table, rows, 1)
    spec.unlink(missing_ok=True)
    columns = ["--columns", ",".join(shape.columns)] if shape.columns else []
    drafted = told("datasets", "new", str(table), "--out", str(spec), *columns)
    left_out = drafted["left_out"]
    found: dict[str, Any] = {
        "label": drafted["label"],
        "label_right": drafted["label"] == shape.label,
        "features": len(load_spec(spec).features),
        "features_right": len(load_spec(spec).features) == shape.features,
        "categories_right": {f.name for f in load_spec(spec).features if f.is_category} == set(shape.categories),
        "giveaways": {column: str(left_out[column]) for column in shape.giveaways if column in left_out},
        "giveaways_named": all(column in left_out for column in shape.giveaways),
    }
    draft = spec.read_text()
    spec.write_text(shape.completed(draft, rare=False))
    checked = told("datasets", "check", str(spec), str(table))
    found |= {"rare_classes_told": checked["rare_classes"], "blank_labels_told": '# "":' in draft}
    if checked["rare_classes_undecided"]:
        spec.write_text(shape.completed(draft, rare=True))
        checked = told("datasets", "check", str(spec), str(table))
    found |= {"rare_classes": checked["rare_classes"], "distinct_flows": checked["distinct_flows"]}
    if drafts_only:
        return found
    started = time.monotonic()
    environment = {"IOT_DATASET": str(spec), "IOT_SOURCE": str(table), "IOT_LAKE": str(lake), **SHORT}
    code = subprocess.run([*command(), "run"], env={**os.environ, **environment}, check=False).returncode
    found |= {"exit_code": code, "seconds": round(time.monotonic() - started, 1)}
    return found | (answers(spec, lake) if code == 0 else {})


def answers(spec_file: Path, lake: Path) -> dict[str, Any]:
    """Hold every answer of the original track against its flow: how many are good, and how many cite a category."""
    spec = with_kept_classes(load_spec(spec_file), lake / "flows")
    categories = {feature.name for feature in spec.features if feature.is_category}
    rows = good = citing = 0
    for line in (lake / "original" / "10K" / "track.jsonl").open():
        flow, answer = (turn["content"] for turn in json.loads(line)["messages"])
        label = next(part for part in answer.split("\n") if part.startswith("CLASSIFICATION:")).partition(": ")[2]
        rows += 1
        good += not check_answer(answer, flow, label, spec.classes, spec.standardised)
        indicators = answer.partition("KEY_INDICATORS:")[2]
        citing += any(f" {name} " in indicators for name in categories)
    report = (lake / "paper_report" / "report.md").read_text()
    rare = "Classes with too few distinct flows" in report
    return {"answers": rows, "answers_true": good, "citing_a_category": citing, "report_tells_rare_classes": rare}


def told(*arguments: str) -> dict[str, Any]:
    """Run a command that prints JSON; exit code 1 of `datasets check` is its verdict."""
    done = subprocess.run([*command(), *arguments, "--json"], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout.strip():
        sys.exit(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def command() -> list[str]:
    """Return the command line of this checkout."""
    return [sys.executable, "-m", "iot_pipeline"]


if __name__ == "__main__":
    main()
