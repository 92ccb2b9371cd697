"""Which way of writing a flow does the student read best? Two lakes that differ in IOT_SERIALISATION only.

    IOT_TRACKS=original make run
    IOT_TRACKS=original IOT_SERIALISATION=values IOT_LAKE=data_lake/values make run
    .venv/bin/python benchmarks/serialisations.py --lakes data_lake/farm_flow-demo data_lake/values

Accuracy on the distinct flows of the validation side, not the test side: a choice is made with it. Same rows, recipe,
seed and steps; each lake has its own tiny base, because the base reads flows as they are written. Beside it the tokens
of a flow with the tiny base's tokenizer and, with `--tokenizer`, a real one's, and the training's cost.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from result import save

from iot_pipeline.evaluation.evaluate import compare_predictions
from iot_pipeline.flows.pool import distinct_flows, side_records
from iot_pipeline.flows.serialise import RankTable, texts
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.inference.student import Student
from iot_pipeline.sft.tokenizer import load_tokenizer

SIDE = "validation"
COUNTED = 500  # flows whose tokens are counted: they hardly differ in length


def main() -> None:
    """Score both, compare, write benchmarks/results/serialisations-<data set>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lakes", type=Path, nargs=2, required=True, help="two lakes with stage 10K")
    parser.add_argument("--tokenizer", help="folder or hub id of a real tokenizer")
    chosen = parser.parse_args()
    measured = {(found := measure(lake.absolute(), chosen.tokenizer))["serialisation"]: found for lake in chosen.lakes}
    if len(measured) != 2:
        parser.error("both lakes are written in the same serialisation")
    (first, second), (one, other) = measured, measured.values()
    if one["same"] != other["same"]:
        parser.error(f"the lakes differ in more than the serialisation: {one['same']} and {other['same']}")
    lake = chosen.lakes[0].absolute()
    paired = compare_predictions(
        side_records(lake / "evaluation_split" / "records.parquet", SIDE), one.pop("scored"), other.pop("scored"),
        one.pop("classes"), one["same"]["seed"],
    )
    other.pop("classes")
    save(
        f"serialisations-{one['same']['dataset']}",
        {"question": "accuracy and tokens a flow by serialisation", "side": SIDE, **measured,
         f"{first}_minus_{second}": paired},
    )


def measure(lake: Path, tokenizer: str | None) -> dict[str, Any]:
    """Scores and counts of a lake's student of stage 10K, track original."""
    used = json.loads((lake / "eval_metrics" / "10K" / "original" / "manifest.json").read_text())["settings"]
    spec, kind = load_spec(used["setting dataset"]), used["setting serialisation"]
    ranks = RankTable.from_json(json.loads((lake / "training_order" / "ranks.json").read_text()))
    flows = distinct_flows(lake / "flows" / "flows.parquet", lake / "evaluation_split" / "records.parquet", SIDE)
    prompts = texts(spec, kind, flows, ranks if kind == "ranked" else None)
    student = Student.load(lake / "base_model" / "model", lake / "lora_checkpoint" / "10K" / "original")
    scores = student.score_labels(prompts, spec.classes)
    training = json.loads((lake / "lora_checkpoint" / "10K" / "original" / "training.json").read_text())
    counters = {"tiny base": str(lake / "base_model" / "model")} | ({"real": tokenizer} if tokenizer else {})
    recipe = {k: v for k, v in training["config"].items() if k not in ("base", "tensors", "validation", "out")}
    return {
        "serialisation": kind, "validation_flows": len(flows),
        "tokens_a_flow": {name: tokens(load_tokenizer(path), prompts) for name, path in counters.items()},
        "tokens_trained": training["facts"]["tokens_read"], "train_seconds": training["timings"]["train_seconds"],
        "example": prompts[0].splitlines()[:4], "classes": spec.classes,
        "scored": (flows["flow_group"].tolist(), scores),
        "same": {"dataset": spec.name, "seed": used["setting seed"], "recipe": recipe},
    }


def tokens(tokenizer: Any, prompts: list[str]) -> float:
    """Mean tokens of a flow's text."""
    counts = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in prompts[:COUNTED]]
    return round(sum(counts) / len(counts), 1)


if __name__ == "__main__":
    main()
