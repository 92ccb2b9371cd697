"""Controls in the graph and in the study: made where IOT_CONTROLS names them, and never taken for a track."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.commands.checkpoint import find
from iot_pipeline.defs.augmentation import assets as augmentation
from iot_pipeline.defs.evaluation.arms import contrasts
from iot_pipeline.defs.evaluation.assets import eval_metrics, largest_of
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.defs.report import assets as report
from iot_pipeline.defs.resources import TeacherResource, TrainerResource
from iot_pipeline.defs.training.assets import lora_checkpoint, training_split
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.reporting.gather import Facts
from iot_pipeline.reporting.report import render
from iot_pipeline.settings import load_settings
from iot_pipeline.vocabulary import CONTROLS, TRACKS, Trained
from iot_pipeline_tests.reporting.example import study

Keys = set[tuple[str, str]]
RESOURCES = {"lake": LakeResource(), "teacher": TeacherResource(), "trainer": TrainerResource()}


@pytest.fixture
def all_controls(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("IOT_CONTROLS", ",".join(CONTROLS))
    settings_module.settings.cache_clear()
    yield
    settings_module.settings.cache_clear()


def parents(graph: Any, asset: str, partition: str) -> Keys:
    """Assets and partitions that a partition is made of."""
    found = graph.get_parents_partitions(dg.AssetKey(asset), partition).parent_partitions
    return {(key.asset_key.to_user_string(), key.partition_key) for key in found}


def test_a_control_is_made_of_original_alone_or_also_of_what_it_is_as_long_as(all_controls: None) -> None:
    tracks = [augmentation.original, augmentation.paraphrased, augmentation.feature_varied]
    made = [training_split("30K"), lora_checkpoint("30K"), eval_metrics("30K")]
    graph = dg.Definitions([*tracks, *made], resources=RESOURCES).resolve_asset_graph()
    for control in CONTROLS:
        needed = ["original"] + ["paraphrased"] * (control == "repeated_originals")
        student = Trained(2027, control).key
        checkpoints: Keys = {("lora_checkpoint_30K", student)} if control != "untrained" else set()
        assert parents_of(graph, "eval_metrics_30K", student, "lora") == checkpoints
        if control == "untrained":
            assert control not in keys_of(graph, "training_split_30K")
            assert student not in keys_of(graph, "lora_checkpoint_30K")
            continue
        increments = {(track, stage) for track in needed for stage in ("10K", "30K")}
        found = {key for key in parents(graph, "training_split_30K", control) if key[0] in TRACKS}
        assert found == increments
        assert parents_of(graph, "lora_checkpoint_30K", student, "training") == {("training_split_30K", control)}


def parents_of(graph: Any, asset: str, partition: str, name: str) -> Keys:
    return {key for key in parents(graph, asset, partition) if key[0].startswith(name)}


def keys_of(graph: Any, asset: str) -> set[str]:
    return {str(key) for key in graph.get(dg.AssetKey(asset)).partitions_def.get_partition_keys()}


def planned(tmp_path: Path, **variables: str) -> set[str]:
    """Artefacts that a run in an empty lake would make."""
    command = [sys.executable, "-m", "iot_pipeline", "run", "--dry-run", "--json"]
    done = subprocess.run(
        command, env=os.environ | {"IOT_LAKE": str(tmp_path)} | variables, capture_output=True, text=True, check=True
    )
    return {row["artefact"] for row in json.loads(done.stdout)["artefacts"]}


def test_a_run_makes_the_controls_that_are_named_and_the_untrained_one_once(tmp_path: Path) -> None:
    made = planned(tmp_path, IOT_SEEDS="1,2", IOT_CONTROLS="untrained,label_only")
    assert {artefact for artefact in made if any(control in artefact for control in CONTROLS)} == {
        "training_split_10K[label_only]",
        *(f"{asset}_10K[{seed}|label_only]" for asset in ("lora_checkpoint", "eval_metrics") for seed in (1, 2)),
        "eval_metrics_10K[1|untrained]",
    }
    assert "eval_metrics_10K[2|feature_varied]" in made


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"IOT_CONTROLS": "untrained", "IOT_TRACKS": "paraphrased"}, "IOT_CONTROLS needs IOT_TRACKS to name original"),
        (
            {"IOT_CONTROLS": "untrained,repeated_originals", "IOT_TRACKS": "original"},
            "IOT_CONTROLS=repeated_originals needs IOT_TRACKS to name paraphrased",
        ),
    ],
)
def test_a_control_needs_the_tracks_that_it_is_held_against(variables: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=f"^{told}, "):
        load_settings(variables)
    assert load_settings({"IOT_CONTROLS": "untrained", "IOT_TRACKS": "original"}).run.controls == ["untrained"]


def test_a_control_is_held_against_original_of_its_stage_alone() -> None:
    arms = [f"{arm} {stage}" for stage in ("10K", "30K") for arm in (*TRACKS, "label_only", "untrained", "AutoML")]
    found = [pair for pair in contrasts(arms) if not {pair[0].split()[0], pair[1].split()[0]}.isdisjoint(CONTROLS)]
    assert found == [
        (f"{control} {stage}", f"original {stage}")
        for stage in ("10K", "30K")
        for control in ("label_only", "untrained")
    ]
    assert contrasts(["label_only 10K", "paraphrased 10K"]) == []


def test_a_control_is_no_checkpoint_to_serve_or_time(tmp_path: Path) -> None:
    made = [ArtefactId("lora_checkpoint_10K", Trained(1, "original").key)]
    made += [ArtefactId("lora_checkpoint_30K", Trained(1, control).key) for control in CONTROLS]
    assert largest_of(made)[1:] == ("10K", "original")
    with pytest.raises(UserError, match="no lora_checkpoint of a track"):
        largest_of(made[1:])
    with pytest.raises(UserError, match="label_only is a control of the study"):
        find(Lake(tmp_path), "10K", Trained(1, "label_only"))


class Step:
    """Stand-in for a step over a lake of the given artefacts."""

    settings = load_settings({"IOT_SEEDS": "1,2"})

    def __init__(self, *artefacts: ArtefactId) -> None:
        self.artefacts = artefacts

    def upstream_artefacts(self, name: str) -> list[ArtefactId]:
        return [artefact for artefact in self.artefacts if artefact.belongs_to(name)]

    def input(self, asset: str, partition: str) -> Path:
        return Path(asset) / partition


def test_reports_of_tracks_read_no_control() -> None:
    for asset, keys in (
        ("training_split", list),
        *((name, lambda arms: [Trained(1, arm).key for arm in arms]) for name in ("lora_checkpoint", "eval_metrics")),
    ):
        made = [ArtefactId(f"{asset}_10K", key) for key in keys([*TRACKS, *CONTROLS])]
        found = report.inputs(Step(*made), asset)  # type: ignore[arg-type]
        assert [*found] == made[: len(TRACKS)]


def test_the_report_shows_controls_in_a_table_of_their_own_with_their_questions() -> None:
    found = study(5)
    without = render("study.md.j2", Facts(study=found))
    metric, row = found["arms"]["original 10K"], found["contrasts"][0]
    found["arms"]["label_only 10K"] = metric
    found["contrasts"].append(row | {"first": "label_only 10K", "second": "original 10K"})
    text = render("study.md.j2", Facts(study=found))
    before, _, controls = text.partition("### Controls\n")
    assert "label_only" not in before.split("](data:")[0] and "### Controls" not in without
    assert f"**label_only**: {CONTROLS['label_only']}" in controls.replace("\\", "")
    assert controls.count("\n| label") == 2 and "paraphrased" not in controls
