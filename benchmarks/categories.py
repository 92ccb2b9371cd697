"""What are protocol and service worth, as categories beside the numbers of RT-IoT2022?

    python benchmarks/categories.py --file RT_IOT2022.csv.zip [--automl]
    python benchmarks/categories.py --file RT_IOT2022.csv.zip --prepare FOLDER
    python benchmarks/categories.py --file RT_IOT2022.csv.zip --lakes LAKE_WITHOUT LAKE_WITH --student STAGE KEY

Both arms are trained on the same rows and measured on the same test flows. Flows that the numbers alone cannot tell
apart stay on one side, so that neither arm has seen a test flow; the test flows are the distinct ones with categories.
The project's paired test compares the arms over SEEDS training seeds: LightGBM, and with --automl AutoML's fixed
configuration on one seed, which has no verdict. For students, --prepare writes the table with its side in a column and
two data set files; after `IOT_SPLIT=publisher IOT_DATASET=FOLDER/<name>.yaml IOT_SOURCE=FOLDER/flows.csv iot-pipeline
run` for each, --lakes compares what both students predict. Writes benchmarks/results/categories-rt_iot2022.json.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from result import save

from iot_pipeline.baseline.automl import AutoMLConfig, run_automl
from iot_pipeline.baseline.lightgbm import run_lightgbm
from iot_pipeline.baseline.result import BaselineResult
from iot_pipeline.evaluation.predictions import read_predictions
from iot_pipeline.evaluation.study import compare_seeds
from iot_pipeline.evaluation.views import read_side
from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.source import read_source
from iot_pipeline.flows.spec import DatasetSpec, load_spec
from iot_pipeline.flows.split import split_by_group

WITHOUT, WITH = "rt_iot2022", "rt_iot2022_categories"
SEEDS = (2027, 2028, 2029, 2030, 2031)
Train = Callable[[pd.DataFrame, pd.DataFrame, list[str], list[str], int], BaselineResult]


def main() -> None:
    """Measure what was asked for, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", required=True, help="RT_IOT2022.csv.zip, as the UCI repository has it (no. 942)")
    parser.add_argument("--automl", action="store_true", help="AutoML as well: about two minutes")
    parser.add_argument("--prepare", type=Path, help="folder for the table and data set files of both students")
    parser.add_argument("--lakes", type=Path, nargs=2, help="lakes of both students, without and with categories")
    parser.add_argument("--student", nargs=2, default=["10K", ""], help="stage and partition key of the students")
    chosen = parser.parse_args()
    spec = load_spec(WITH)
    with tempfile.TemporaryDirectory() as name:
        rows = prepare(Path(name), chosen.file)
    if chosen.prepare:
        write_tables(chosen.prepare, chosen.file, rows)
        return
    found: dict[str, Any] = {"lightgbm": compare(rows, spec, lightgbm, SEEDS)}
    if chosen.automl:
        found["automl"] = compare(rows, spec, automl, SEEDS[:1])
    if chosen.lakes:
        found["student"] = compare_students(rows, spec, chosen.lakes, *chosen.student)
    test = rows[rows["side"] == "test"]
    save("categories-rt_iot2022", {
        "question": "Are flows classified better with protocol and service as categories?",
        "test_flows": int(test["flow_group"].nunique()), "test_rows": len(test),
        "test_flows_by_numbers_alone": int(test["numbers_group"].nunique()),
        "seeds": list(SEEDS), **found,
    })  # fmt: skip


def prepare(folder: Path, file: str) -> pd.DataFrame:
    """Return all flows with categories, each with its group by numbers alone and the side of that group."""
    tables = {}
    for name in (WITHOUT, WITH):
        spec = load_spec(name)
        read_source(spec, file, folder / f"{name}-raw.parquet")
        build_flows(spec, folder / f"{name}-raw.parquet", folder / f"{name}.parquet")
        tables[name] = pd.read_parquet(folder / f"{name}.parquet").set_index("row_id")
    split_by_group(folder / f"{WITHOUT}.parquet", folder / "records.parquet", SEEDS[0])
    sides = pd.read_parquet(folder / "records.parquet").drop_duplicates("flow_group").set_index("flow_group")["side"]
    rows = tables[WITH].assign(numbers_group=tables[WITHOUT]["flow_group"])
    return rows.assign(side=rows["numbers_group"].map(sides)).reset_index()


def lightgbm(
    train: pd.DataFrame, test: pd.DataFrame, names: list[str], classes: list[str], seed: int
) -> BaselineResult:
    """LightGBM, with half of the features drawn for each tree: without a draw all seeds would give one model."""
    from iot_pipeline.baseline import lightgbm as module

    drawn = {"feature_fraction": 0.5, "num_threads": 1}  # two threads on busy cores wait more than they compute
    kept = dict(module.PARAMETERS)
    module.PARAMETERS.update(drawn)
    try:
        return run_lightgbm(train, test, names, classes, seed)
    finally:
        module.PARAMETERS.clear()
        module.PARAMETERS.update(kept)


def automl(train: pd.DataFrame, test: pd.DataFrame, names: list[str], classes: list[str], seed: int) -> BaselineResult:
    """AutoML in its fixed configuration."""
    return run_automl(train, test, names, classes, AutoMLConfig(seed=seed))


def compare(rows: pd.DataFrame, spec: DatasetSpec, train_model: Train, seeds: Sequence[int]) -> dict[str, Any]:
    """Train both arms on every seed and compare them, paired by seed and test flow."""
    train, test = rows[rows["side"] == "train"], rows[rows["side"] == "test"]
    distinct = test.drop_duplicates("flow_group").sort_values("flow_group")
    arms: dict[str, list[Any]] = {"without": [], "with": []}
    started = time.perf_counter()
    for seed in seeds:
        for arm, names in (("without", spec.number_names), ("with", spec.feature_names)):
            result = train_model(train, distinct, names, spec.classes, seed)
            arms[arm].append(result.log_probs.argmax(axis=1))
            print(f"{result.name} {arm}, seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    told = paired(test, spec, arms)
    return told | {"seconds": round(time.perf_counter() - started, 1)}


def paired(test: pd.DataFrame, spec: DatasetSpec, arms: dict[str, list[Any]]) -> dict[str, Any]:
    """Return the project's paired comparison of the arms, by distinct flows and by rows."""
    counted = test.groupby(["flow_group", "label"]).size().rename("rows").reset_index()
    counted["group_rows"] = counted.groupby("flow_group")["rows"].transform("sum")
    side = read_side(counted, spec.classes)
    views = {view: compare_seeds(side, arms, [("with", "without")], SEEDS[0], view) for view in ("distinct", "row")}
    return {view: {"arms": found["arms"], "contrasts": found["contrasts"]} for view, found in views.items()}


def write_tables(folder: Path, file: str, rows: pd.DataFrame) -> None:
    """Write flows.csv with the side of each row, and the data set files of both students."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(file, keep_default_na=False, dtype=str)
    table.assign(
        split=rows.sort_values("row_id")["side"].eq("test").map({True: "test", False: "train"}).to_numpy()
    ).to_csv(folder / "flows.csv", index=False)
    for name in (WITHOUT, WITH):
        told = f"extends: {name}\nname: {name}_paired\npublisher_split: {{column: split, test: [test]}}\n"
        (folder / f"{name}.yaml").write_text(told)
    print(f"{folder}: flows.csv, {WITHOUT}.yaml, {WITH}.yaml")


def compare_students(
    rows: pd.DataFrame, spec: DatasetSpec, lakes: Sequence[Path], stage: str, key: str
) -> dict[str, Any]:
    """Compare the predictions of two students on the flows with categories; each flow by its own arm's text."""
    test = rows[rows["side"] == "test"]
    distinct = test.drop_duplicates("flow_group").sort_values("flow_group")
    arms: dict[str, list[Any]] = {}
    for arm, lake, group in zip(("without", "with"), lakes, ("numbers_group", "flow_group"), strict=True):
        files = sorted(lake.glob(f"**/eval_metrics_{stage}/**/predictions.parquet"))
        used = [path for path in files if key in str(path)]
        if not used:
            raise SystemExit(f"{lake} has no predictions of stage {stage}")
        told = []
        for path in used:
            groups, log_probs = read_predictions(path, spec.classes)
            named = dict(zip(groups, log_probs.argmax(axis=1), strict=True))
            told.append(np.array([named[one] for one in distinct[group]]))
        arms[arm] = told
    return paired(test, spec, arms)


if __name__ == "__main__":
    main()
