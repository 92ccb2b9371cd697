"""The side of the split that each asset reads: real splits, and stand-ins for models that keep what they are given."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
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
from iot_pipeline.defs.augmentation import assets as augmentation
from iot_pipeline.defs.baseline import assets as baseline
from iot_pipeline.defs.evaluation import assets as evaluation
from iot_pipeline.defs.flows import assets as flows
from iot_pipeline.defs.prompts import assets as prompts
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.defs.resources import TeacherResource, TrainerResource
from iot_pipeline.defs.splits import assets as splits
from iot_pipeline.defs.training import assets as training
from iot_pipeline.defs.training import paper
from iot_pipeline.evaluation.evaluate import align, evaluate_predictions
from iot_pipeline.evaluation.metrics import fit_temperature
from iot_pipeline.evaluation.views import read_side
from iot_pipeline.flows.dataset import side_records
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.texts import FlowTextWriter, fit_ranks
from iot_pipeline.lake.atomic import write_json
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.quality.patterns import attack_patterns
from iot_pipeline.sft.tensors import load_tensors
from iot_pipeline_tests.tiny_model import make_base

CLASSES = list(load_spec("farm_flow").classes)
STUDENT = "2027|original"
VALUES = {"IOT_ROWS": "900", "IOT_EXPLAINED_FLOWS": "20", "IOT_AUDIT_ROWS": "64", "IOT_VALIDATION_FLOWS": "24"}


class Seen(Exception):
    """Raised by a stand-in once it has seen what the asset gave it."""


class Sides:
    """Sides of a lake's flow groups and texts."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.records = lake.folder(ArtefactId("evaluation_split")) / "records.parquet"
        table = pq.read_table(self.records).to_pandas()
        self.groups = {side: set(found["flow_group"]) for side, found in table.groupby("side")}
        written = pq.read_table(lake.folder(ArtefactId("flow_texts")) / "texts.parquet").to_pandas()
        of_group = dict(zip(table["flow_group"], table["side"], strict=True))
        self.group_of = dict(zip(written["text"], written["flow_group"], strict=True))
        self.of_text = {text: of_group[group] for text, group in self.group_of.items()}

    def of(self, texts: Sequence[str]) -> set[str]:
        """Return the sides of flows that occur in `texts` (prompts hold a flow's text whole)."""
        found = [next((side for text, side in self.of_text.items() if text in given), "unknown") for given in texts]
        return set(found)

    def records_of(self, side: str) -> pd.DataFrame:
        return side_records(self.records, side)

    def read(self, artefact: ArtefactId, name: str) -> Any:
        return json.loads((self.lake.folder(artefact) / name).read_text())


def make(*assets: dg.AssetsDefinition, partition: str | None = None) -> None:
    """Make assets one after the other; re-raise `Seen`."""
    for asset in assets:
        dg.materialize(
            [asset],
            partition_key=partition,
            instance=dg.DagsterInstance.ephemeral(),
            resources={"lake": LakeResource(), "teacher": TeacherResource(), "trainer": TrainerResource()},
        )


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """A lake with real splits, texts and answers, a base of a few steps and a student that is only a folder."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("lake")
        for name, value in (VALUES | {"IOT_LAKE": str(root)}).items():
            patch.setenv(name, value)
        settings_module.settings.cache_clear()
        lake = Lake(root)
        make(flows.raw_flows, flows.flows, splits.evaluation_split, splits.training_order, splits.flow_texts)
        make(prompts.prompt, partition="original")
        with lake.replacing(ArtefactId("base_model")) as folder:
            make_base(folder / "model")
            write_json(folder / "base.json", {"kind": "tiny", "name": "model"})
            finish_artefact(folder, Manifest("base_model", "", "", "1", {}, {}, {}), set())
        make(augmentation.original, partition="10K")
        make(augmentation.validation_answers)
        with lake.replacing(ArtefactId("lora_checkpoint_10K", STUDENT)) as folder:
            finish_artefact(folder, Manifest("lora_checkpoint_10K", STUDENT, "", "1", {}, {}, {}), set())
        yield Sides(lake)
    settings_module.settings.cache_clear()


def scores_of(texts: Sequence[str]) -> np.ndarray:
    """Class scores that are the same for equal texts, and sure of themselves by a factor of their own."""
    rows = [
        np.random.default_rng(list(text.encode()[-40:])).normal(0, 1 + len(text) % 7, len(CLASSES)) for text in texts
    ]
    return np.log(np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True))


class Student:
    """Scores and explains at once, and keeps what it was asked."""

    def __init__(self) -> None:
        self.scored: list[str] = []
        self.explained: list[str] = []

    def score_labels(self, prompts: list[str], classes: list[str], **_: Any) -> np.ndarray:
        self.scored += prompts
        return scores_of(prompts)

    def explain(self, prompts: list[str], longest: int, **_: Any) -> list[tuple[str, bool]]:
        self.explained += prompts
        return [("CLASSIFICATION: Normal", True) for _ in prompts]


@pytest.fixture
def student(monkeypatch: pytest.MonkeyPatch) -> Student:
    opened = Student()
    for module in (evaluation, paper):
        monkeypatch.setattr(module, "opened_student", lambda *_: contextlib.nullcontext(opened))
    return opened


def catch(seen: dict[str, Any], *names: str) -> Callable[..., Any]:
    """A stand-in that keeps its arguments by `names` and ends the asset."""

    def stand_in(*arguments: Any, **_: Any) -> None:
        seen.update(zip(names, arguments, strict=False))
        raise Seen

    return stand_in


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


def test_a_student_trains_on_train_flows_and_its_loss_is_of_validation_flows(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(training.training_splits[0], partition="original")
    seen: dict[str, Any] = {}
    monkeypatch.setattr(TrainerResource, "train", catch(seen, "self", "step", "configs"))
    with pytest.raises(Seen):
        make(training.lora_checkpoints[0], partition=STUDENT)
    (config,) = seen["configs"]
    tokenizer = load_tokenizer(config.base)
    for path, side in ((config.tensors, "train"), (config.validation, "validation")):
        tensors = load_tensors(path)
        texts = [tokenizer.decode(tensors.row(index)[0]) for index in range(len(tensors))]
        assert sides.of(texts) == {side}


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


def test_a_student_is_calibrated_apart_from_the_side_that_it_is_measured_on(sides: Sides, student: Student) -> None:
    make(evaluation.metrics_assets[0], partition=STUDENT)
    found = sides.read(ArtefactId("eval_metrics_10K", STUDENT), "eval.json")
    texts = pq.read_table(sides.lake.folder(ArtefactId("flow_texts")) / "texts.parquet").to_pandas()
    text_of = dict(zip(texts["flow_group"], texts["text"], strict=True))
    assert_measured(sides, found, text_of.__getitem__)
    validation = measured_on(sides, "validation", text_of.__getitem__, found["calibration"]["temperature"])
    assert found["validation"]["views"] == validation["views"]
    assert sides.of(student.scored) == {"validation", "calibration", "test"}


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


def test_explanations_and_speed_are_measured_on_test_flows(
    sides: Sides, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(evaluation.quality_assets[0], partition=STUDENT)
    assert len(student.explained) >= 20 and sides.of(student.explained) == {"test"}
    assert sides.of(student.scored) == {"test"}
    seen: dict[str, Any] = {}
    monkeypatch.setattr(evaluation, "benchmark_variants", catch(seen, "base", "adapter", "texts"))
    with pytest.raises(Seen):
        make(evaluation.inference_benchmark)
    assert sides.of(seen["texts"]) == {"test"}


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
