"""Which way of writing a flow does the student read best? Lakes that differ in IOT_SERIALISATION only.

    for kind in values ranked compact; do
        IOT_TRACKS=original IOT_SERIALISATION=$kind IOT_LAKE=data_lake/$kind make run
    done
    .venv/bin/python benchmarks/serialisations.py --lakes data_lake/values data_lake/ranked data_lake/compact

Accuracy on the distinct flows of the validation side, not the test side: a choice is made with it. Same rows, recipe,
seed and steps; each lake has its own tiny base, because the base reads flows as they are written. Beside it the tokens
of a flow with the tiny base's tokenizer and, with `--tokenizer`, a real one's (the mean over all rows, which is what is
read, and over distinct flows, which are longer), the training's cost, and how true the student's explanations of
validation flows are.
"""

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from result import save

from iot_pipeline.evaluation.evaluate import compare_predictions, evaluate_predictions
from iot_pipeline.evaluation.explanations import score_explanations
from iot_pipeline.flows.dataset import side_records, side_texts
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.inference.student import Student
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.settings import load_settings
from iot_pipeline.vocabulary import Trained

SIDE = "validation"
EXPLAINED = 100
SHARES = ("schema_valid", "ended", "values_true", "numbers_grounded", "features_real", "directions_true", "faultless")


def main() -> None:
    """Score all, compare each pair, write benchmarks/results/serialisations-<data set>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lakes", type=Path, nargs="+", required=True, help="two or more lakes with stage 10K")
    parser.add_argument("--tokenizer", help="folder or hub id of a real tokenizer")
    chosen = parser.parse_args()
    measured = {(found := measure(lake.absolute(), chosen.tokenizer))["serialisation"]: found for lake in chosen.lakes}
    if len(measured) != len(chosen.lakes) or len(measured) < 2:
        parser.error("give two or more lakes, each written in another serialisation")
    same = [found.pop("same") for found in measured.values()]
    if other := next((one for one in same if one != same[0]), None):
        parser.error(f"the lakes differ in more than the serialisation: {same[0]} and {other}")
    records = side_records(chosen.lakes[0].absolute() / "evaluation_split" / "records.parquet", SIDE)
    scored = {kind: found.pop("scored") for kind, found in measured.items()}
    pairs = {
        f"{first}_minus_{second}": compare_predictions(records, scored[first], scored[second], *common(same[0]))
        for first, second in combinations(scored, 2)
    }
    save(
        f"serialisations-{same[0]['dataset']}",
        {"question": "accuracy and tokens a flow by serialisation", "side": SIDE, "same": same[0], **measured, **pairs},
    )


def common(same: dict[str, Any]) -> tuple[list[str], int]:
    """Classes and seed of the evaluation."""
    return load_spec(same["dataset"]).classes, same["seed"]


def folder_of(lake: Path, asset: str) -> Path:
    """Folder of the student of track original, or of what was measured of it."""
    return Lake(lake).folder(ArtefactId(asset, Trained(load_settings().seeds[0], "original").key))


def measure(lake: Path, tokenizer: str | None) -> dict[str, Any]:
    """Scores and counts of a lake's student of stage 10K, track original."""
    checkpoint, split = folder_of(lake, "lora_checkpoint_10K"), lake / "evaluation_split" / "records.parquet"
    used = json.loads((folder_of(lake, "eval_metrics_10K") / "manifest.json").read_text())["settings"]
    writer = FlowTextWriter.load(lake / "flow_texts", load_spec(used["setting dataset"]))
    spec, kind, ranks = writer.spec, writer.serialisation, writer.ranks
    flows = side_texts(lake / "flow_texts" / "texts.parquet", split, SIDE)
    prompts = flows["text"].tolist()
    records = side_records(split, SIDE)
    rows = records.groupby("flow_group")["rows"].sum().loc[flows["flow_group"]].to_numpy()
    student = Student.load(lake / "base_model" / "model", checkpoint)
    scored = (flows["flow_group"].tolist(), student.score_labels(prompts, spec.classes))
    training = json.loads((checkpoint / "training.json").read_text())
    counters = {"tiny base": str(lake / "base_model" / "model")} | ({"real": tokenizer} if tokenizer else {})
    recipe = {k: v for k, v in training["config"].items() if k not in ("base", "tensors", "validation", "out")}
    return {
        "serialisation": kind,
        "validation_flows": len(flows),
        "accuracy": accuracy(records, scored, spec.classes, used["setting seed"]),
        "explanations": explained(student, prompts, scored[1], spec, ranks, used["setting seed"]),
        "tokens_a_flow": {name: tokens(load_tokenizer(path), prompts, rows) for name, path in counters.items()},
        "characters_a_flow": round(sum(map(len, prompts)) / len(prompts), 1),
        "tokens_trained": training["facts"]["tokens_read"],
        "train_seconds": training["timings"]["train_seconds"],
        "example": prompts[0].splitlines(),
        "scored": scored,
        "same": {"dataset": spec.name, "seed": used["setting seed"], "recipe": recipe},
    }


def accuracy(records: pd.DataFrame, scored: tuple[list[str], np.ndarray], classes: list[str], seed: int) -> Any:
    """Accuracy and macro-F1 by view, each with its interval."""
    views = evaluate_predictions(records, *scored, classes, seed)["views"]
    return {
        view: {name: [found[name], *found["intervals"][name]] for name in ("accuracy", "macro_f1")}
        for view, found in views.items()
        if found
    }


def explained(
    student: Student, prompts: list[str], scores: np.ndarray, spec: Any, ranks: Any, seed: int
) -> dict[str, Any]:
    """Shares of true claims in explanations of some flows, as the asset explanation_quality measures them."""
    picked = sorted(np.random.default_rng(seed).permutation(len(prompts))[:EXPLAINED].tolist())
    flows, labels = [prompts[i] for i in picked], [spec.classes[scores[i].argmax()] for i in picked]
    written = student.explain(flows)
    found = score_explanations(flows, written, labels, spec.classes, ranks, spec.standardised)["aggregate"]
    return {"explained": found["explained"], **{name: found[name] for name in SHARES}}


def tokens(tokenizer: Any, prompts: list[str], rows: np.ndarray) -> dict[str, float]:
    """Mean tokens of a flow's text over all rows (`rows` of each prompt), and over distinct flows."""
    counts = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in prompts]
    return {"rows": round(float(np.average(counts, weights=rows)), 1), "distinct": round(float(np.mean(counts)), 1)}


if __name__ == "__main__":
    main()
