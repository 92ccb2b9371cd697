"""Does a student say `unknown` to flows of a class that it never saw? Each class is kept from a student in turn.

    .venv/bin/python benchmarks/unknown_detection.py                                            # Farm-Flow, simulated
    .venv/bin/python benchmarks/unknown_detection.py --dataset rt_iot2022 --source RT_IOT2022.csv.zip

Made by the product's asset unknown_detection_10K (IOT_UNKNOWN): students of class rows alone, `--steps` steps each,
and a baseline on the same rows. A killed run is taken up again by the same command; finished classes are kept in the
lake. `--made` reads a lake's artefact as it is. AutoML takes 16 s of the processor a class (measured: TCP_Flood kept
from 8,363 rows of simulated Farm-Flow, one thread; LightGBM 9 s).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from result import save

from iot_pipeline.lake.store import ArtefactId, Lake

ASSET = "unknown_detection_10K"
MEASURES = ("accuracy", "auroc", "coverage", "found_0.01", "found_0.05", "false_alarms_0.01", "false_alarms_0.05")
FEW = 10  # test flows: with fewer an AUROC says little


def main() -> None:
    """Make the asset in a lake, and write benchmarks/results/unknown_detection-<data set>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, help="default: data_lake/<data set>-unknown")
    parser.add_argument("--dataset", default="farm_flow")
    parser.add_argument("--source", default="simulate", help="file of the data set, or simulate")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--classes", help="classes to keep from a student, comma separated; default: each")
    parser.add_argument("--baseline", choices=["automl", "lightgbm"], default="automl")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--made", action="store_true", help="read the artefact that the lake has")
    parser.add_argument("--note", help="what a reader must know of this run, such as load on the machine")
    parser.add_argument("--print-only", action="store_true", help="write no result file")
    chosen = parser.parse_args()
    lake = Lake((chosen.lake or Path("data_lake") / f"{chosen.dataset}-unknown").absolute())
    if not chosen.made:
        make(lake.root, chosen)
    found = json.loads((lake.folder(ArtefactId(ASSET)) / "unknown.json").read_text())
    result = {"question": __doc__.split("\n")[0], "data": chosen.dataset, "stage": "10K", **compact(found)}
    result |= {"simulated": chosen.source == "simulate"} | ({"note": chosen.note} if chosen.note else {})
    save(f"unknown_detection-{chosen.dataset}", result, print_only=chosen.print_only)


def make(lake: Path, chosen: argparse.Namespace) -> None:
    """Run the product until the asset is made; SystemExit if that fails."""
    settings = {
        "IOT_LAKE": str(lake),
        "IOT_DATASET": chosen.dataset,
        "IOT_SOURCE": chosen.source,
        "IOT_UNKNOWN": "true",
        "IOT_UNKNOWN_STEPS": str(chosen.steps),
        "IOT_UNKNOWN_BASELINE": chosen.baseline,
        "IOT_THREADS": str(chosen.threads),
        "IOT_PROCESSES": "1",
    } | ({"IOT_UNKNOWN_CLASSES": chosen.classes} if chosen.classes else {})
    command = [sys.executable, "-m", "iot_pipeline", "run", "--stages", "10K", "--until", ASSET]
    if subprocess.run(command, env=os.environ | settings, stdout=sys.stderr, check=False).returncode:
        raise SystemExit(f"{ASSET} was not made")


def compact(found: dict[str, Any]) -> dict[str, Any]:
    """Return the classes with value and interval of each measure, the mean over all and over those of FEW flows."""
    classes = {
        label: {
            **{name: facts[name] for name in ("flows", "known_flows", "ambiguous_flows", "score")},
            **{model: measures(of) for model, of in facts["models"].items()},
            "student_minus_baseline": interval(facts["auroc_difference"]),
            "auroc_by_score": {name: round(value, 4) for name, value in facts["auroc_by_score"].items()},
            "training": facts["training"],
        }
        for label, facts in found["classes"].items()
    }
    enough = [facts for facts in classes.values() if facts["flows"] >= FEW]
    models = [*found["mean"]]
    return {
        "training": found["training"],
        "baseline": found["baseline"],
        "risk": found["risk"],
        "mean": {model: measures(of) for model, of in found["mean"].items()},
        f"mean_of_classes_of_{FEW}_flows": {
            "classes": len(enough),
            **{model: {name: mean_of(enough, model, name) for name in MEASURES} for model in models},
        },
        "auroc_by_score": {
            name: round(float(np.mean([facts["auroc_by_score"][name] for facts in enough])), 4)
            for name in found["scores"]
        },
        "classes": classes,
        "left_out": found["left_out"],
        "curve": {
            "coverage": [round(value, 2) for value in found["coverages"]],
            **{
                model: np.mean([of["models"][model]["curve"] for of in found["classes"].values()], axis=0)
                .round(4)
                .tolist()
                for model in models
            },
        },
    }


def measures(of: dict[str, Any]) -> dict[str, list[float]]:
    """Value and interval of each measure of a model."""
    return {name: interval(of[name]) for name in MEASURES}


def interval(told: dict[str, float]) -> list[float]:
    """[value, low, high]."""
    return [round(told[part], 4) for part in ("value", "low", "high")]


def mean_of(classes: list[dict[str, Any]], model: str, name: str) -> float:
    """Mean of a measure over some classes."""
    return round(float(np.mean([facts[model][name][0] for facts in classes])), 4)


if __name__ == "__main__":
    main()
