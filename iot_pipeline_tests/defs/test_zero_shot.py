"""The zero-shot teacher as an asset: asked only if it is wanted, every answer counted, all models on the same flows."""

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.commands.dry_run import _requests
from iot_pipeline.commands.estimate import estimate
from iot_pipeline.definitions import defs
from iot_pipeline.defs.evaluation.zero_shot import zero_shot_teacher
from iot_pipeline.defs.flows import assets as flows
from iot_pipeline.defs.plan import wanted
from iot_pipeline.defs.prompts import assets as prompts
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.defs.resources import EMBEDDED_LABEL, TeacherResource
from iot_pipeline.defs.splits import assets as splits
from iot_pipeline.evaluation.predictions import write_predictions
from iot_pipeline.flows.dataset import side_records
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.settings import load_settings, settings
from iot_pipeline.teacher.request import Answer, Request
from iot_pipeline.teacher.summary import Summary

CLASSES = list(load_spec("farm_flow").classes)
ASSET = ArtefactId("zero_shot_teacher")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A lake of real splits and texts, with predictions of a student and of baselines that know the classes."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("zero_shot")
        values = {"IOT_ROWS": "1000", "IOT_LAKE": str(root), "IOT_TRACKS": "original", "IOT_VALIDATION_FLOWS": "12"}
        for name, value in values.items():
            patch.setenv(name, value)
        settings_module.settings.cache_clear()
        for asset in (flows.raw_flows, flows.flows, splits.evaluation_split, splits.training_order, splits.flow_texts):
            make(asset)
        make(prompts.prompt, "zero_shot")
        right = labels(Lake(root))
        predicted(Lake(root), ArtefactId("eval_metrics_10K", "2027|original"), {"predictions": 0.9}, right)
        baselines = {"automl": 1.0, "lightgbm": 0.8, "nearest": 0.7, "majority": 0.0}
        files = {f"predictions_{name}": share for name, share in baselines.items()}
        predicted(Lake(root), ArtefactId("automl_baseline", "10K"), files, right)
        yield root
    settings_module.settings.cache_clear()


@pytest.fixture
def lake(root: Path) -> Iterator[Lake]:
    settings_module.settings.cache_clear()
    yield Lake(root)
    settings_module.settings.cache_clear()


def make(asset: dg.AssetsDefinition, partition: str | None = None, fails: bool = False) -> dg.ExecuteInProcessResult:
    done = dg.materialize(
        [asset],
        partition_key=partition,
        instance=dg.DagsterInstance.ephemeral(),
        resources={"lake": LakeResource(), "teacher": TeacherResource()},
        raise_on_error=not fails,
    )
    assert done.success is not fails
    return done


def labels(lake: Lake) -> dict[str, str]:
    """The most frequent label of each test flow group."""
    records = side_records(lake.folder(ArtefactId("evaluation_split")) / "records.parquet", "test")
    return dict(records.sort_values("rows").groupby("flow_group")["label"].last())


def predicted(lake: Lake, artefact: ArtefactId, files: dict[str, float], right: dict[str, str]) -> None:
    """Put predictions into the lake that are right on about such a share of the test flows."""
    with lake.replacing(artefact) as folder:
        for name, share in files.items():
            certain = np.full((len(right), len(CLASSES)), -9.0)
            for row, label in enumerate(right.values()):
                certain[row, (CLASSES.index(label) + (row % 10 >= 10 * share)) % len(CLASSES)] = 0
            write_predictions(folder / f"{name}.parquet", list(right), certain, CLASSES)
        finish_artefact(folder, Manifest(artefact.asset, artefact.partition, "", "1", {}, {}, {}), set())


def ask_for(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setenv("IOT_ZERO_SHOT_FLOWS", str(count))
    settings_module.settings.cache_clear()


def read(lake: Lake) -> Any:
    return json.loads((lake.folder(ASSET) / "zero_shot.json").read_text())


def answers_of(lake: Lake) -> pd.DataFrame:
    return pq.read_table(lake.folder(ASSET) / "answers.parquet").to_pandas()


class Engine:
    """A teacher that answers by a rule and keeps what it was asked."""

    def __init__(self, answer: Callable[[int, Request], tuple[str, str, tuple[str, ...]]]) -> None:
        self.source, self.summary, self.answer = "https://teacher.example", Summary(), answer

    def stream(self, requests: Iterable[Request], check: Any, take: Callable[[Answer], None]) -> None:
        for place, request in enumerate(requests):
            status, text, reasons = self.answer(place, request)
            take(Answer(request.key, status, text, "stop", "some-model", self.source, reasons=reasons))  # type: ignore


def stand_in(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[int, Request], tuple[str, str, tuple[str, ...]]]
) -> None:
    engine = Engine(answer)
    monkeypatch.setattr(TeacherResource, "open", lambda *_: contextlib.nullcontext(engine))


def test_it_is_not_asked_unless_it_is_wanted(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings({}).evaluation.zero_shot_flows == 0
    monkeypatch.setattr(TeacherResource, "open", lambda *_: pytest.fail("it was asked"))
    make(zero_shot_teacher)
    assert read(lake) == {"asked": 0}
    planned = [str(p.artefact) for p in wanted(defs(), load_settings({}))]
    assert "prompt[zero_shot]" not in planned
    planned = [str(p.artefact) for p in wanted(defs(), load_settings({}, zero_shot_flows=10))]
    assert planned.index("prompt[zero_shot]") < planned.index("zero_shot_teacher") < planned.index("paper_report")


def test_every_model_is_measured_on_the_flows_that_it_was_asked_about(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for(monkeypatch, 40)
    make(zero_shot_teacher)
    found, answers, right = read(lake), answers_of(lake), labels(lake)
    assert found["asked"] == len(answers) == 40 and set(answers["flow_group"]) < set(right)
    assert found["outcomes"] == {"named a class": 40} and found["embedded"]
    assert lake.manifest(ASSET).provenance["label"] == EMBEDDED_LABEL
    teacher, others = "zero-shot embedded-analyst", {"original 10K", "AutoML 10K", "LightGBM 10K", "1-NN 10K"}
    assert set(found["arms"]) == {teacher, "majority class 10K", *others} and found["teacher"] == teacher
    hits = np.mean(
        [right[group] == named for group, named in zip(answers["flow_group"], answers["class"], strict=True)]
    )
    assert found["arms"][teacher]["accuracy"]["mean"] == pytest.approx(hits, abs=0.03)  # conflicting labels
    places = list(right)
    student = np.mean([places.index(group) % 10 < 9 for group in answers["flow_group"]])
    assert found["arms"]["original 10K"]["accuracy"]["mean"] == pytest.approx(student, abs=0.03)
    pairs = {(row["first"], row["second"]) for row in found["contrasts"]}
    assert pairs == {(name, teacher) for name in found["arms"] if name != teacher}
    assert all(row["low"] <= row["difference"] <= row["high"] for row in found["contrasts"])


def test_answers_are_kept_and_a_larger_sample_asks_for_the_rest_only(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def attempts() -> int:
        with sqlite3.connect(tmp_path / "answers.sqlite") as connection:
            return int(connection.execute("SELECT count(*) FROM attempts").fetchone()[0])

    monkeypatch.setenv("IOT_TEACHER_STORE", str(tmp_path / "answers.sqlite"))
    for count in (15, 15, 40):
        ask_for(monkeypatch, count)
        make(zero_shot_teacher)
        assert attempts() == len(answers_of(lake)) == count


def test_an_answer_without_a_class_is_wrong_and_counted_apart(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pq.read_table(lake.folder(ArtefactId("flow_texts")) / "texts.parquet").to_pandas()
    group_of, right = dict(zip(texts["text"], texts["flow_group"], strict=True)), labels(lake)

    def answer(place: int, request: Any) -> tuple[str, str, tuple[str, ...]]:
        true = f"CLASSIFICATION: {right[group_of[request.flow]]}"
        kinds = [("ok", true, ()), ("ok", "CLASSIFICATION: Worm", ()), ("quarantined", true, ("refused",))]
        return kinds[place % 4] if place % 4 < 3 else ("quarantined", true, ("cut off",))

    ask_for(monkeypatch, 40)
    stand_in(monkeypatch, answer)
    make(zero_shot_teacher)
    found = read(lake)
    assert found["outcomes"] == {"named a class": 10, "no valid class": 10, "refused": 10, "cut off": 10}
    assert found["arms"]["zero-shot some-model"]["accuracy"]["mean"] == pytest.approx(0.25, abs=0.03)
    assert not found["embedded"] and found["source"] == "https://teacher.example"
    assert "label" not in lake.manifest(ASSET).provenance
    assert Counter(answers_of(lake)["class"].isna()) == {True: 30, False: 10}


def test_a_request_without_an_answer_is_no_wrong_answer(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for(monkeypatch, 40)
    stand_in(monkeypatch, lambda place, _: ("quarantined", "", ("no answer: timed out",)))
    done = make(zero_shot_teacher, fails=True)
    (event,) = [event for event in done.all_events if event.is_step_failure]
    told = event.step_failure_data.user_failure_data.description
    assert told == "40 of 40 flows have no answer (timed out); run again, the rest is kept"


def test_the_estimate_counts_its_requests(lake: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IOT_TEACHER_STORE", str(tmp_path / "none.sqlite"))
    monkeypatch.setenv("IOT_TEACHER", "openai")
    parts = []
    for count in (0, 40):
        ask_for(monkeypatch, count)
        found = estimate(settings())
        parts.append({part["name"]: part for part in found["parts"]})
        counted = _requests(settings(), [ASSET], set())
        assert counted == ({ASSET: {"requests": 40, "usd": found["parts"][-1]["usd_requests"]}} if count else {})
        assert found["total"]["worst_usd"] == pytest.approx(sum(p["worst_usd"] for p in found["parts"]), abs=1e-4)
    assert "zero_shot_teacher" not in parts[0]
    told = parts[1].pop("zero_shot_teacher")
    assert parts[0] == parts[1] and told["to_ask"] == 40 and told["usd_requests"] > 0 and told["worst_usd"] > 0
