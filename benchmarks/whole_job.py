"""How long does the whole job take, and what does it reach? Read off a lake that `make run` made from nothing.

    make run && .venv/bin/python benchmarks/whole_job.py

Beside it stands the prior work's way: loose scripts whose wall clock nobody recorded, and whose accuracy nobody
measured; so there is no second figure to pair with, only the bar of 10 minutes. Wall clock comes from Dagster's own
records (first run's start to last run's end), seconds of each asset from its manifest, results from track_comparison.
"""

import argparse
import itertools
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import dagster as dg
from result import save

from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import load_settings

PAUSE_SECONDS = 20


def main() -> None:
    """Write benchmarks/results/whole_job-<lake>.json and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, default=load_settings().lake_path, help="lake to read")
    lake = Lake(parser.parse_args().lake.absolute())
    comparison = lake.folder(ArtefactId("track_comparison")) / "track_comparison.json"
    result = {
        "question": "wall clock of the whole job from nothing, and what it reaches",
        "code_commits": sorted({str(manifest(lake, a)["provenance"]["code_commit"]) for a in lake.artefacts()}),
        **clock(lake),
        "results": json.loads(comparison.read_text())["table"],
        "verdicts": json.loads(comparison.read_text())["verdicts"],
        "explanations": {
            artefact.partition: json.loads((lake.folder(artefact) / "quality.json").read_text())["aggregate"]
            for artefact in lake.artefacts()
            if artefact.belongs_to("explanation_quality")
        },
        "labels": sorted({label for a in lake.artefacts() if (label := manifest(lake, a)["provenance"].get("label"))}),
    }
    save(f"whole_job-{lake.root.name}", result)


def manifest(lake: Lake, artefact: ArtefactId) -> dict[str, Any]:
    """The manifest as plain data."""
    found: dict[str, Any] = json.loads((lake.folder(artefact) / "manifest.json").read_text())
    return found


def clock(lake: Lake) -> dict[str, Any]:
    """Seconds of the whole, and of each asset over its partitions."""
    os.environ["DAGSTER_HOME"] = str(lake.root / ".dagster")
    with dg.DagsterInstance.get() as instance:
        records = instance.get_run_records()
    seconds: dict[str, float] = defaultdict(float)
    for artefact in lake.artefacts():
        seconds[artefact.asset.split("/")[0]] += manifest(lake, artefact)["provenance"]["seconds"]
    spans = sorted((r.start_time, r.end_time) for r in records)
    pauses = [later[0] - earlier[1] for earlier, later in itertools.pairwise(spans)]
    failed = sum(r.dagster_run.status == dg.DagsterRunStatus.FAILURE for r in records)
    # A pause or a failed run means that the job was taken up again: then there is no wall clock of the whole.
    in_one_go = not failed and max(pauses, default=0) < PAUSE_SECONDS
    return {
        "wall_seconds": round(spans[-1][1] - spans[0][0], 1) if in_one_go else None,
        "made_in_one_go": in_one_go,
        "dagster_runs": len(records),
        "failed_runs": failed,
        "seconds_by_asset": {k: round(v, 1) for k, v in sorted(seconds.items(), key=lambda item: -item[1])},
    }


if __name__ == "__main__":
    main()
