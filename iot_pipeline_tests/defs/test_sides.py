"""The side of the split that each asset reads: real splits, and stand-ins for models that keep what they are given."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.augmentation import label_judge, variation
from iot_pipeline.baseline.lightgbm import train_model
from iot_pipeline.baseline.result import BaselineResult
from iot_pipeline.definitions import defs
from iot_pipeline.defs.augmentation import assets as augmentation
from iot_pipeline.defs.baseline import assets as baseline
from iot_pipeline.defs.evaluation import assets as evaluation
from iot_pipeline.defs.evaluation import zero_shot
from iot_pipeline.defs.prompts import assets as prompts
from iot_pipeline.defs.resources import TeacherResource, TrainerResource
from iot_pipeline.defs.training import assets as training
from iot_pipeline.defs.training import grid, paper
from iot_pipeline.evaluation.evaluate import align, evaluate_predictions
from iot_pipeline.evaluation.metrics import fit_temperature
from iot_pipeline.evaluation.unknown.detector import Unknown
from iot_pipeline.evaluation.unknown.outputs import Outputs
from iot_pipeline.evaluation.views import read_side
from iot_pipeline.flows.dataset import distinct_flows
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.texts import FlowTextWriter, fit_ranks
from iot_pipeline.lake.atomic import write_json
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.quality.patterns import attack_patterns
from iot_pipeline.sft.tensors import load_tensors
from iot_pipeline.teacher.request import Answer
from iot_pipeline.teacher.summary import Summary
from iot_pipeline.vocabulary import TRACKS, Trained
from iot_pipeline_tests.defs.sides import (
    CLASSES,
    STUDENT,
    TRAINED,
    Seen,
    Sides,
    Student,
    as_read,
    assert_of_sides,
    catch,
    make,
    scores_of,
)

FILES = (("flows", "flows.parquet"), ("evaluation_split", "records.parquet"))


def test_the_training_order_and_the_ranks_of_values_are_of_train_flows(sides: Sides, tmp_path: Path) -> None:
    order = pq.read_table(sides.lake.folder(ArtefactId("training_order")) / "order.parquet")
    assert set(order["flow_group"].to_pylist()) <= sides.groups["train"]
    spec, source = load_spec("farm_flow"), sides.lake.folder(ArtefactId("flows")) / "flows.parquet"
    table = pq.read_table(source).to_pandas()
    table.loc[~table["flow_group"].isin(sides.groups["train"]), spec.feature_names] = 0.0
    table.to_parquet(tmp_path / "flows.parquet", index=False)
    written = FlowTextWriter.load(sides.lake.folder(ArtefactId("flow_texts")), spec)
    assert written.ranks == fit_ranks(spec, tmp_path / "flows.parquet", sides.records)


def test_the_tiny_base_reads_train_flows_alone(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(TrainerResource, "build_base", catch(seen, "self", "step", "config"))
    with pytest.raises(Seen):
        make(training.base_model)
    texts = json.loads(Path(seen["config"].texts).read_text())
    assert len(texts) > 100 and sides.of(texts) == {"train"}


def test_the_control_base_reads_the_flows_of_its_stage_alone(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(TrainerResource, "build_base", catch(seen, "self", "step", "config"))
    monkeypatch.setattr(training, "stage_rows", lambda stage, pool: (0, {"10K": 40, "ALL": pool}[stage], None))
    order = pq.read_table(sides.lake.folder(ArtefactId("training_order")) / "order.parquet").to_pylist()
    for stage, count in (("10K", 40), ("ALL", len(order))):
        monkeypatch.setenv("IOT_BASE_POOL", stage)
        settings_module.settings.cache_clear()
        with pytest.raises(Seen):
            make(training.base_model)
        texts = json.loads(Path(seen["config"].texts).read_text())
        groups = {row["flow_group"] for row in order if row["position"] < count}
        assert {sides.group_of[text] for text in texts} == groups and len(texts) == len(groups)
    monkeypatch.delenv("IOT_BASE_POOL")
    settings_module.settings.cache_clear()


def test_tracks_are_of_train_flows_and_validation_answers_of_validation_flows(sides: Sides) -> None:
    for artefact, side in ((ArtefactId("original", "10K"), "train"), (ArtefactId("validation_answers"), "validation")):
        with (sides.lake.folder(artefact) / "track.jsonl").open() as lines:
            asked = [json.loads(line)["messages"][0]["content"] for line in lines]
        assert len(asked) > 10 and sides.of(asked) == {side}


class InProcess(label_judge.JudgeApart):
    """The judge of varied flows without a process of its own."""

    def __init__(self, *fitted: Any) -> None:
        self._judge = label_judge.fit_judge(*fitted)
        self._shares = self._judge.shares

    def _ask(self, *question: Any) -> Any:
        return self._judge.probability(*question)

    def close(self) -> None:
        """Nothing has to end."""


def test_varied_flows_are_judged_by_models_of_train_flows_and_meet_no_evaluation_text(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(values: np.ndarray, *rest: Any, **changed: Any) -> Any:
        trained.extend(row.tobytes() for row in np.ascontiguousarray(values))
        return train_model(values, *rest, **changed)

    trained: list[bytes] = []
    monkeypatch.setattr(label_judge, "train_model", train)
    monkeypatch.setattr(variation, "JudgeApart", InProcess)
    make(prompts.prompt, partition="feature_varied")
    make(augmentation.feature_varied, partition="10K")
    table = pq.read_table(sides.lake.folder(ArtefactId("flows")) / "flows.parquet").to_pandas()
    values = np.ascontiguousarray(table[load_spec("farm_flow").feature_names].to_numpy(np.float64))
    group_of = {row.tobytes(): group for row, group in zip(values, table["flow_group"], strict=True)}
    assert len(trained) > 100 and {group_of[row] for row in trained} <= sides.groups["train"]
    folder = sides.lake.folder(ArtefactId("feature_varied", "10K"))
    with (folder / "track.jsonl").open() as lines:
        written = {json.loads(line)["messages"][0]["content"] for line in lines}
    assert not {sides.of_text.get(text, "train") for text in written} - {"train"}
    report = json.loads((folder / "report.json").read_text())
    assert report["share_varied"] == round(report["variations"]["varied"] / report["repeat_rows"], 4) > 0
    assert report["repeat_rows"] == sum(row["repeat_rows"] for row in report["variations_by_class"])


def test_the_zero_shot_teacher_sees_test_flows_and_nothing_of_it_reaches_a_training(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def stream(requests: Any, check: Any, take: Callable[[Answer], None]) -> None:
        for request in requests:
            asked.append(request)
            take(Answer(request.key, "ok", "CLASSIFICATION: Normal", "stop", "some-model", "stand-in"))

    engine = SimpleNamespace(source="stand-in", summary=Summary(), stream=stream)
    monkeypatch.setattr(TeacherResource, "open", lambda *_: contextlib.nullcontext(engine))
    monkeypatch.setenv("IOT_ZERO_SHOT_FLOWS", "30")
    settings_module.settings.cache_clear()
    make(prompts.prompt, partition="zero_shot")
    make(zero_shot.zero_shot_teacher)
    monkeypatch.delenv("IOT_ZERO_SHOT_FLOWS")
    settings_module.settings.cache_clear()
    users = [request.messages[-1]["content"] for request in asked]
    assert len(asked) == 30 and sides.of(users) == {"test"}
    assert not any(name in user for user in users for name in CLASSES)
    for artefact in (ArtefactId("original", "10K"), ArtefactId("validation_answers")):
        keys = pq.read_table(sides.lake.folder(artefact) / "requests.parquet")["key"].to_pylist()
        assert keys and not {request.key for request in asked} & {*keys}
    graph = defs().resolve_asset_graph()
    asset = dg.AssetKey("zero_shot_teacher")
    below = {key for key in graph.get_all_asset_keys() if asset in graph.get_ancestor_asset_keys(key)}
    assert below and {graph.get(key).group_name for key in below} == {"report"}


def test_a_cell_of_the_grid_trains_on_train_flows(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    make(training.training_splits[0], partition="original")
    other = ArtefactId("lora_checkpoint_30K", STUDENT)
    with sides.lake.replacing(other) as folder:
        write_json(folder / "training.json", {"facts": {"tokens_read": 100_000}})
        finish_artefact(folder, Manifest(other.asset, other.partition, "", "1", {}, {}, {}), set())
    seen: dict[str, Any] = {}
    monkeypatch.setattr(TrainerResource, "train", catch(seen, "self", "step", "configs"))
    with pytest.raises(Seen):
        make(grid.data_grids[0], partition="2027|30K")
    (config,) = seen["configs"]
    shutil.rmtree(sides.lake.folder(other))  # a checkpoint of a larger stage would be the one whose speed is measured
    assert config.max_tokens == 100_000
    assert_of_sides(sides, config)


def test_a_cell_of_the_grid_is_scored_on_validation_and_test_side(
    sides: Sides, student: Student, tmp_path: Path
) -> None:
    step = SimpleNamespace(
        spec=load_spec("farm_flow"), settings=settings_module.settings(), folder=tmp_path, log=print,
        input=lambda asset: sides.lake.folder(ArtefactId(asset)), json=lambda name, value: found.update(value),
    )  # fmt: skip
    found: dict[str, Any] = {}
    grid.score(step, tmp_path)  # type: ignore[arg-type]
    assert sides.of(student.scored) == {"validation", "test"}
    assert found["groups"] == len(sides.groups["test"])
    assert found["validation"]["groups"] == len(sides.groups["validation"])


@pytest.mark.parametrize("arm", TRAINED)
def test_a_student_trains_on_train_flows_and_its_loss_is_of_validation_flows(
    arm: str, sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(training.training_split("10K"), partition=arm)
    assert_changed_as_told(sides.lake, arm)
    seen: dict[str, Any] = {}
    monkeypatch.setattr(TrainerResource, "train", catch(seen, "self", "step", "configs"))
    with pytest.raises(Seen):
        make(training.lora_checkpoint("10K"), partition=Trained(2027, arm).key)
    (config,) = seen["configs"]
    assert_of_sides(sides, config, arm)


def assert_changed_as_told(lake: Lake, arm: str) -> None:
    """The rows of a control differ from those of `original` in what its definition says."""
    track, made = ArtefactId("original", "10K"), ArtefactId("training_split_10K", arm)
    before, after = (
        [json.loads(line) for line in (lake.folder(of) / name).read_text().splitlines()]
        for of, name in ((track, "track.jsonl"), (made, "train.jsonl"))
    )
    flows, told = [[row["messages"][i]["content"] for row in after] for i in (0, 1)]
    own = [[row["messages"][i]["content"] for row in before] for i in (0, 1)]
    labels = [answer.split("\n")[0] for answer in own[1]]
    if arm == "repeated_originals":
        assert set(zip(flows, told, strict=True)) == set(zip(*own, strict=True)) and len(flows) != len(own[0])
        return
    assert flows == [as_read(text, arm) for text in own[0]]
    assert [answer.split("\n")[0] for answer in told] == labels
    assert all((answer.count("\n") == 0) == (arm == "label_only") for answer in told)
    kept = sum(one == other for one, other in zip(told, own[1], strict=True)) / len(told)
    assert kept == 1 if arm == "original" else kept < 0.1


def test_baselines_train_on_train_flows_and_are_measured_on_the_test_side(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[pd.DataFrame] = []

    def run(train: pd.DataFrame, both: pd.DataFrame, *rest: Any) -> BaselineResult:
        trained.append(train)
        return BaselineResult("automl", both["flow_group"].tolist(), scores_of(both["flow_group"]), {}, {})

    for name in ("run_automl", "run_lightgbm", "run_nearest", "run_hash_lookup", "run_majority"):
        monkeypatch.setattr(baseline, name, run)
    make(baseline.automl_baseline, partition="10K")
    assert len(trained) == 5
    assert all(set(train["flow_group"]) <= sides.groups["train"] for train in trained)
    assert_measured(sides, sides.read(ArtefactId("automl_baseline", "10K"), "eval_automl.json"), lambda group: group)


def test_a_split_by_row_is_measured_once_beside_the_whole_train_pool(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_: pd.DataFrame, both: pd.DataFrame, *rest: Any) -> BaselineResult:
        return BaselineResult("automl", both["flow_group"].tolist(), scores_of(both["flow_group"]), {}, {})

    def split(rows: pd.DataFrame, *rest: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        measured.append(rows)
        return {"accuracy": 0.5}, {"total_s": 1.0}

    measured: list[pd.DataFrame] = []
    for name in [name for name in vars(baseline) if name.startswith("run_")]:
        monkeypatch.setattr(baseline, name, run)
    monkeypatch.setattr(baseline, "run_row_split", split)
    make(baseline.automl_baseline, partition="10K")
    assert measured == []
    make(baseline.automl_baseline, partition="ALL")
    (rows,) = measured
    whole = pq.read_table(sides.lake.folder(ArtefactId("flows")) / "flows.parquet").to_pandas()
    assert len(rows) == len(whole) and {*rows} == {"flow_group", "label", *load_spec("farm_flow").feature_names}
    assert sides.read(ArtefactId("automl_baseline", "ALL"), "row_split.json") == {"accuracy": 0.5}


@pytest.mark.parametrize("arm", ["original", "shuffled_names", "untrained"])
def test_a_student_is_calibrated_apart_from_the_side_that_it_is_measured_on(
    arm: str, sides: Sides, student: Student
) -> None:
    partition = Trained(2027, arm).key
    make(evaluation.eval_metrics("10K"), partition=partition)
    found = sides.read(ArtefactId("eval_metrics_10K", partition), "eval.json")
    assert (student.adapter is None) == (arm == "untrained")
    texts = pq.read_table(sides.lake.folder(ArtefactId("flow_texts")) / "texts.parquet").to_pandas()
    text_of = {group: as_read(text, arm) for group, text in zip(texts["flow_group"], texts["text"], strict=True)}
    assert_measured(sides, found, text_of.__getitem__)
    validation = measured_on(sides, "validation", text_of.__getitem__, found["calibration"]["temperature"])
    assert found["validation"]["views"] == validation["views"]
    assert sides.of(student.scored, arm) == {"validation", "calibration", "test", *(["train"] if arm in TRACKS else [])}
    if arm in TRACKS:
        assert_fitted_apart(sides, ArtefactId("eval_metrics_10K", partition), found["unknown"])
    else:
        assert found["unknown"] is None


def assert_fitted_apart(sides: Sides, artefact: ArtefactId, told: dict[str, Any]) -> None:
    """Unknown flows are judged by train flows, the threshold is of the calibration side, the measure of the test."""
    fitted, features = Unknown.load(sides.lake.folder(artefact)), load_spec("farm_flow").feature_names
    assert fitted is not None and fitted.score_name == told["score"]
    of_side = {
        side: distinct_flows(*(sides.lake.folder(ArtefactId(name)) / file for name, file in FILES), side)
        for side in ("calibration", "test")
    }
    whole = pq.read_table(sides.lake.folder(ArtefactId("flows")) / "flows.parquet").to_pandas()
    train = fitted.reference.space.printed(whole[whole["flow_group"].isin(sides.groups["train"])])
    known = {tuple(row) for row in train[features].to_numpy()}
    assert {tuple(row) for row in fitted.reference.space.table[features].to_numpy()} <= known
    texts = FlowTextWriter.load(sides.lake.folder(ArtefactId("flow_texts")), load_spec("farm_flow"))

    def outputs(side: str) -> tuple[Outputs, pd.DataFrame]:
        written = texts.texts(of_side[side])
        return Outputs.of(scores_of(written), scores_of(written, 4), fitted.label_rows), of_side[side]

    name = fitted.score_name
    assert np.allclose(fitted.calibration, np.sort(fitted.reference.scores(*outputs("calibration"), [name])[name]))
    share = float((fitted.p_values(*outputs("test")) <= 0.05).mean())
    assert told["false_alarms"]["0.05"]["share"] == pytest.approx(share)


def measured_on(sides: Sides, side: str, given: Callable[[str], str], temperature: float) -> dict[str, Any]:
    """What the evaluation of a side has to be, as JSON gives it back."""
    groups = sorted(sides.groups[side])
    scores = scores_of([given(group) for group in groups])
    found = evaluate_predictions(sides.records_of(side), groups, scores, CLASSES, 2027, temperature)
    return json.loads(json.dumps(found))


def assert_measured(sides: Sides, found: dict[str, Any], given: Callable[[str], str]) -> None:
    """The temperature is that of the calibration side, and the metrics are those of the test side."""
    side = read_side(sides.records_of("calibration"), CLASSES)
    fitted = fit_temperature(side, align(side, side.group_ids, scores_of([given(group) for group in side.group_ids])))
    assert found["calibration"]["temperature"] == pytest.approx(fitted["temperature"])
    wanted = measured_on(sides, "test", given, found["calibration"]["temperature"])
    assert found["views"]["distinct"]["accuracy"] == wanted["views"]["distinct"]["accuracy"]
    assert found["views"]["row"]["log_loss"] == pytest.approx(wanted["views"]["row"]["log_loss"])
    assert found["groups"] == len(sides.groups["test"])


@pytest.mark.parametrize("arm", ["original", "shuffled_names"])
def test_explanations_are_measured_on_test_flows_and_read_with_true_names(
    arm: str, sides: Sides, student: Student
) -> None:
    partition = Trained(2027, arm).key
    make(evaluation.explanation_quality("10K"), partition=partition)
    assert len(student.explained) >= 20 and sides.of(student.explained, arm) == {"test"}
    assert sides.of(student.scored, arm) == {"test"}
    found = sides.read(ArtefactId("explanation_quality_10K", partition), "quality.json")
    for example in found["examples"]:
        first = example["flow"].split("\n")[0].replace(": ", " ")
        assert first in example["answer"] and first in example["grounded_answer"]
    assert found["aggregate"]["features_real"] == found["aggregate"]["values_true"] == 1


def test_speed_is_measured_on_test_flows(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(evaluation, "benchmark_variants", catch(seen, "base", "adapter", "texts"))
    with pytest.raises(Seen):
        make(evaluation.inference_benchmark)
    assert sides.of(seen["texts"]) == {"test"}
    assert seen["adapter"] == sides.lake.folder(ArtefactId("lora_checkpoint_10K", STUDENT))  # never a control's


def test_the_audit_trains_on_train_flows_and_scores_test_flows(
    sides: Sides, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(_: Any, step: Any, configs: list[Any], processes: int) -> list[dict[str, Any]]:
        tokenizer = load_tokenizer(configs[0].base)
        for config in configs:
            tensors = load_tensors(config.tensors)
            trained.extend(tokenizer.decode(tensors.row(index)[0]) for index in range(len(tensors)))
        return [{"facts": {}} for _ in configs]

    trained: list[str] = []
    monkeypatch.setattr(TrainerResource, "train", train)
    make(paper.paper_protocol)
    assert sides.of(trained) == {"train"} and sides.of([*student.scored, *student.explained]) == {"test"}


def test_rules_are_learned_without_the_labels_of_the_test_side(sides: Sides, tmp_path: Path) -> None:
    table = pq.read_table(sides.records).to_pandas()
    test = table["side"] == "test"
    table.loc[test, "label"] = np.random.default_rng(1).permutation(table.loc[test, "label"])
    table.to_parquet(tmp_path / "records.parquet", index=False)
    source, spec = sides.lake.folder(ArtefactId("flows")) / "flows.parquet", load_spec("farm_flow")
    whole, other = (attack_patterns(source, path, spec, 1) for path in (sides.records, tmp_path / "records.parquet"))
    assert whole["guide"] != other["guide"]  # measured on the test side
    for name in CLASSES:
        learned = [[rule["text"] for rule in report["classes"][name]["rules"]] for report in (whole, other)]
        assert learned[0] == learned[1]
