"""Does a student give better reasons than a template over LightGBM and SHAP, or than a shallow tree in words?

    python benchmarks/right_reasons.py --lakes data_lake/farm_flow-demo data_lake/rt_iot2022-demo

Every student of the stage (lowest training seed) explains the same test flows of its lake in free writing, judged by
the rules of the asset `reasons`, with deletion on all flows. LightGBM and tree learn from the stage's rows. Writes
benchmarks/results/right_reasons.json after each student, so that a stopped run keeps what it has.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from result import save

from iot_pipeline.baseline.contributions import explain_lightgbm, explain_tree
from iot_pipeline.commands.checkpoint import find
from iot_pipeline.evaluation.free_explanations import tree_answers
from iot_pipeline.evaluation.right_reasons import FreeBaselines, compare_reasons
from iot_pipeline.evaluation.views import Side, read_side
from iot_pipeline.flows.dataset import distinct_flows, pool_size, side_records, side_texts, training_rows
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.split import stage_rows
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.inference.student import Student, room_for
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.sft.tasks import asked
from iot_pipeline.vocabulary import TRACKS, Trained, staged


def main() -> None:
    """Judge every student of every lake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lakes", type=Path, nargs="+", required=True, help="lakes with students and their metrics")
    parser.add_argument("--stage", default="10K")
    parser.add_argument("--flows", type=int, default=1000, help="most test flows to explain")
    parser.add_argument("--tracks", nargs="+", default=list(TRACKS))
    chosen = parser.parse_args()
    found: dict[str, Any] = {}
    for path in chosen.lakes:
        lake = Lake(path.absolute())
        for student in students(lake, chosen.stage, chosen.tracks):
            measured = measure(lake, chosen.stage, student, chosen.flows)
            found.setdefault(path.name, {})[student.track] = {"seed": student.seed, **measured}
            question = (
                "reasons of students, of a template over LightGBM and SHAP, and of a shallow tree, on the same flows"
            )
            save("right_reasons", {"question": question, "stage": chosen.stage, "students": found})


def students(lake: Lake, stage: str, tracks: list[str]) -> list[Trained]:
    """Measured students of a stage and some tracks, those of the lowest training seed; SystemExit if there are none."""
    asset = staged("explanation_quality", stage)
    made = sorted(Trained.parse(str(a.partition)) for a in lake.artefacts() if a.belongs_to(asset))
    made = [student for student in made if student.track in tracks]
    if not made:
        raise SystemExit(f"{lake.root} has no {asset} of {tracks}: `iot-pipeline run --until {asset}` makes it")
    return [student for student in made if student.seed == made[0].seed]


def measure(lake: Lake, stage: str, trained: Trained, count: int) -> dict[str, Any]:
    """Right reasons of one student beside the free baselines."""
    checkpoint = find(lake, stage, trained)
    manifest = lake.folder(ArtefactId(staged("explanation_quality", stage), trained.key)) / "manifest.json"
    used = {key.removeprefix("setting "): value for key, value in json.loads(manifest.read_text())["settings"].items()}
    writer = FlowTextWriter.load(lake.root / "flow_texts", load_spec(used["dataset"]))
    records, spec = lake.root / "evaluation_split" / "records.parquet", writer.spec
    table = side_texts(lake.root / "flow_texts" / "texts.parquet", records, "test")
    chosen = sorted(np.random.default_rng(used["seed"]).permutation(len(table))[:count])
    flows = dict(table.iloc[chosen].itertuples(index=False))
    student = Student.load(checkpoint.base, checkpoint.adapter)

    def score(texts: list[str]) -> np.ndarray:
        return student.score_labels([asked(text, "classify", used["tasks"]) for text in texts], spec.classes)

    labels = [spec.classes[best] for best in score([*flows.values()]).argmax(axis=1)]
    prompts = [asked(text, "explain", used["tasks"]) for text in flows.values()]
    answers = [text for text, _ in student.explain(prompts, room_for(used["explanation_words"]))]
    side = read_side(side_records(records, "test"), spec.classes)
    true = majority(side, spec.classes)
    free = baselines(lake, stage, writer, flows, used["seed"])
    result = compare_reasons(
        writer, flows, [true[group] for group in flows], (labels, answers), free, score, count, used["seed"]
    )
    return {"labels": checkpoint.labels, **result}


def majority(side: Side, classes: list[str]) -> dict[str, str]:
    """Majority label of each flow group of a side."""
    return {group: classes[code] for group, code in zip(side.group_ids, side.majority, strict=True)}


def baselines(lake: Lake, stage: str, writer: FlowTextWriter, flows: dict[str, str], seed: int) -> FreeBaselines:
    """LightGBM and tree on the stage's rows, asked about the flows."""
    spec, ranks = writer.spec, writer.ranks
    assert ranks is not None
    source, order = lake.root / "flows" / "flows.parquet", lake.root / "training_order" / "order.parquet"
    records = lake.root / "evaluation_split" / "records.parquet"
    train = training_rows(source, order, 0, stage_rows(stage, pool_size(order))[1])
    true = majority(read_side(side_records(records, "validation"), spec.classes), spec.classes)
    validation: pd.DataFrame = distinct_flows(source, records, "validation")
    validation = validation.assign(label=validation["flow_group"].map(true))
    table = distinct_flows(source, records, "test").set_index("flow_group").loc[[*flows]].reset_index()
    made = explain_lightgbm(train, table, spec.feature_names, spec.classes, seed)
    tree = explain_tree(train, validation, table, spec.feature_names, seed)
    return FreeBaselines(made.labels, made.values, tree.labels, tree_answers([*flows.values()], tree, ranks))


if __name__ == "__main__":
    main()
