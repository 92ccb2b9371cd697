"""Does the track matter, and how far is a student from AutoML? The study of a lake, kept as a result and a figure.

    IOT_SEEDS=1,2,3,4,5 IOT_STAGES=10K,30K make run && .venv/bin/python benchmarks/study.py

Reads the lake's asset `study`, with the commits and seconds of the students in it, and draws docs/study-<lake>.png.
"""

import argparse
import json
from pathlib import Path

from result import save

from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.reporting import figures
from iot_pipeline.settings import load_settings

DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    """Write benchmarks/results/study-<lake>.json and docs/study-<lake>.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, default=load_settings().lake_path, help="lake to read")
    parser.add_argument("--name", help="name of the result; default: the lake's")
    chosen = parser.parse_args()
    lake, name = Lake(chosen.lake.absolute()), chosen.name or chosen.lake.absolute().name
    study = json.loads((lake.folder(ArtefactId("study")) / "study.json").read_text())
    (DOCS / f"study-{name}.png").write_bytes(figures.study(study))
    save(
        f"study-{name}", {"question": "tracks, stages, controls and baselines over training seeds", **of(lake), **study}
    )


def of(lake: Lake) -> dict[str, object]:
    """Return commits, labels and training seconds of the students in a lake."""
    made = [artefact for artefact in lake.artefacts() if artefact.asset.startswith(("lora_checkpoint", "eval_metrics"))]
    told = [json.loads((lake.folder(one) / "manifest.json").read_text())["provenance"] for one in made]
    return {
        "students": sum(one.asset.startswith("eval_metrics") for one in made),
        "students_of_commits": sorted({str(one["code_commit"]) for one in told}),
        "labels": sorted({label for one in told for label in one.get("labels", [])}),
        "student_hours": round(sum(one["seconds"] for one in told) / 3600, 2),
    }


if __name__ == "__main__":
    main()
