"""A study over several sessions: keep each student's test predictions as a small file, join them when all are there.

Five seeds of every arm take hours of two cores. Training is reproducible, so students may come from different days, as
long as their tensors, base, recipe and test side are the same: `recipe`, `base` and `side` of each part say so, and
parts that differ are not joined. The tiny base is another one on another kind of processor: its study has its own name.

    IOT_SEEDS=1,2 IOT_STAGES=10K iot-pipeline run --until eval_metrics_10K
    python benchmarks/study_parts.py keep --name rt_iot2022-demo  # adds this lake's students
    python benchmarks/study_parts.py join --name rt_iot2022-demo  # once the baselines are made too
"""

import argparse
import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from result import RESULTS, save, stamped
from study import DOCS

from iot_pipeline.defs.evaluation.arms import BASELINES, PSEUDO, arm_name, contrasts
from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.evaluate import align
from iot_pipeline.evaluation.metrics import predict
from iot_pipeline.evaluation.predictions import read_predictions
from iot_pipeline.evaluation.study import compare_seeds
from iot_pipeline.evaluation.views import Ints, Side, read_side
from iot_pipeline.flows.dataset import side_records
from iot_pipeline.flows.rare import with_kept_classes
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest
from iot_pipeline.reporting import figures
from iot_pipeline.settings import load_settings
from iot_pipeline.vocabulary import Trained, staged, unstaged

KEPT = RESULTS / "students"
UNTRAINED = "untrained"  # the same with every seed, and without a checkpoint


def main() -> None:
    """Keep the students of a lake, or join those that were kept."""
    chosen = load_settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["keep", "join"])
    parser.add_argument("--lake", type=Path, default=chosen.lake_path, help="lake to read")
    parser.add_argument("--name", default=chosen.lake_path.name, help="name of the study")
    given = parser.parse_args()
    lake = Lake(given.lake.absolute())
    spec = with_kept_classes(load_spec(chosen.data.dataset), lake.folder(ArtefactId("flows")))
    records = lake.verified(ArtefactId("evaluation_split")) / "records.parquet"
    side = read_side(side_records(records, "test"), spec.classes)
    if given.action == "keep":
        keep(lake, side, given.name)
    else:
        study = join(lake, side, given.name, chosen.data.seed)
        (DOCS / f"study-{given.name}.png").write_bytes(figures.study(study))
        save(f"study-{given.name}", study)


def keep(lake: Lake, side: Side, name: str) -> None:
    """Write one file for each evaluated student of the lake."""
    folder = KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    for metrics in lake.artefacts():
        if not metrics.asset.startswith("eval_metrics"):
            continue
        stage, found = unstaged(metrics.asset)[1], lake.verified(metrics)
        trained, manifest = Trained.parse(metrics.partition), lake.manifest(metrics)
        made = (
            metrics if trained.track == UNTRAINED else ArtefactId(staged("lora_checkpoint", stage), metrics.partition)
        )
        checkpoint = lake.manifest(made)
        if manifest is None or checkpoint is None:
            raise UserError(f"{metrics} has no checkpoint in this lake")
        picked = predict(align(side, *read_predictions(found / "predictions.parquet", list(side.classes))))
        validation = json.loads((found / "eval.json").read_text())["validation"]["views"]["distinct"]
        part = {
            "stage": stage, "seed": trained.seed, "track": trained.track,
            "recipe": recipe_of(checkpoint), "base": checkpoint.inputs.get("base_model@"), "side": digest_of(side),
            "labels": manifest.provenance.get("labels", []),
            "training_seconds": checkpoint.provenance["seconds"] if made != metrics else 0.0,
            "validation": {key: validation[key] for key in ("accuracy", "macro_f1")},
            "predicted": " ".join(map(str, picked.tolist())),  # class of each distinct test flow, by flow group
        }  # fmt: skip
        path = folder / f"{stage}-{trained.track}-{trained.seed}.json"
        part = stamped(part) | {"code_commit": checkpoint.provenance["code_commit"]}
        path.write_text(json.dumps(part, indent=1, ensure_ascii=False) + "\n")
        print(f"kept {path.name}: validation {part['validation']}")


def recipe_of(checkpoint: Manifest) -> str:
    """Return a digest of all that a training read but its seed: settings, tensors and base by their data versions."""
    read = {"settings": checkpoint.settings, "inputs": checkpoint.inputs}
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:16]


def digest_of(side: Side) -> str:
    """Return a digest of a side: flow groups, labels and weights."""
    told = json.dumps([side.group_ids, side.group.tolist(), side.label.tolist(), side.weights["row"].tolist()])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def join(lake: Lake, side: Side, name: str, seed: int) -> dict[str, Any]:
    """Compare the kept students with each other and with the lake's baselines, as the asset `study` does.

    Args:
        lake: Lake with the baselines.
        side: Test side.
        name: Name of the study.
        seed: Seed of the bootstrap.

    Raises:
        UserError: Kept students were trained otherwise, or tested on other flows.
    """
    parts = [json.loads(path.read_text()) for path in sorted((KEPT / name).glob("*.json"))]
    if wrong := [part for part in parts if part["side"] != digest_of(side)]:
        raise UserError(f"{len(wrong)} of {len(parts)} kept students were tested on other flows than this lake's")
    if len(bases := {part.get("base") for part in parts}) > 1:  # None: kept before bases were told, or no tiny base
        raise UserError(f"the kept students come from {len(bases)} bases, whose difference would pass for that of arms")
    by_arm: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for part in parts:
        by_arm[arm_name(part["track"], part["stage"])][part["seed"]] = part
    alike = {arm: runs for arm, runs in by_arm.items() if arm.split()[0] == UNTRAINED}
    by_arm = {arm: runs for arm, runs in by_arm.items() if arm not in alike}
    seeds = sorted(set.intersection(*(set(runs) for runs in by_arm.values())))
    for arm, runs in by_arm.items():
        if len(recipes := {runs[number]["recipe"] for number in seeds}) > 1:
            raise UserError(f"students of {arm} were trained by {len(recipes)} recipes; train them again by one")
    arms: dict[str, list[Ints]] = {}
    for arm, runs in by_arm.items():
        arms[arm] = [_numbers(runs[number]["predicted"]) for number in seeds]
    arms |= {arm: [_numbers(next(iter(runs.values()))["predicted"])] for arm, runs in alike.items()}
    arms |= baselines(lake, side)
    return {
        "question": "tracks, stages, controls and baselines over training seeds",
        "students": len(parts),
        "students_of_commits": sorted({part["code_commit"] for part in parts}),
        "labels": sorted({label for part in parts for label in part["labels"]}),
        "student_hours": round(sum(part["training_seconds"] for part in parts) / 3600, 2),
        "training_seeds": seeds,
        "left_out": sorted({f"{arm}, seed {one}" for arm, runs in by_arm.items() for one in runs if one not in seeds}),
        **compare_seeds(side, arms, contrasts(arms), seed),
        "explanations": [row for row in explained(lake, name) if row["arm"] in arms],
        "grid": [],
    }


def explained(lake: Lake, name: str) -> list[dict[str, Any]]:
    """Return what is told of explanations, which need the students themselves.

    By the lake's own study; where it has none, by the study that was joined before: kept students do not change.
    """
    found = RESULTS / f"study-{name}.json"
    if lake.manifest(study := ArtefactId("study")) is not None:
        found = lake.verified(study) / "study.json"
    elif found.is_file():
        print(f"this lake has no study: what is told of explanations stays as in {found.name}")
    else:
        return []
    told: list[dict[str, Any]] = json.loads(found.read_text())["explanations"]
    return told


def baselines(lake: Lake, side: Side) -> dict[str, list[Ints]]:
    """Read the predictions of the lake's baselines, by arm."""
    found = {}
    for artefact in lake.artefacts():
        names = {"automl_baseline": BASELINES, "pseudo_label_baseline": {PSEUDO: "automl_pseudo"}}.get(artefact.asset)
        for name, file in (names or {}).items():
            read = read_predictions(lake.verified(artefact) / f"predictions_{file}.parquet", list(side.classes))
            found[arm_name(name, artefact.partition)] = [predict(align(side, *read))]
    return found


def _numbers(text: str) -> Ints:
    import numpy as np

    return np.array(text.split(), dtype=np.int64)


if __name__ == "__main__":
    main()
