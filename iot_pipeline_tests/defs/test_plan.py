"""Which partitions a choice of stages and tracks calls for, in which order, in which runs."""

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from iot_pipeline.definitions import defs
from iot_pipeline.defs.plan import Planned, batches, forecast, wanted
from iot_pipeline.defs.reads import file_version
from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import write_text
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest, finish_artefact
from iot_pipeline.settings import load_settings


@cache
def definitions() -> dg.Definitions:
    return defs()


def plan(**settings: Any) -> list[str]:
    return [str(p.artefact) for p in wanted(definitions(), load_settings({}, **settings))]


def test_until_an_asset_stops_at_it() -> None:
    made = [str(p.artefact) for p in wanted(definitions(), load_settings({}), "training_order")]
    assert made == ["raw_flows", "flows", "evaluation_split", "training_order"]
    made = [str(p.artefact) for p in wanted(definitions(), load_settings({}, tracks=["paraphrased"]), "paraphrased")]
    assert made[-1] == "paraphrased[10K]" and "original[10K]" in made
    with pytest.raises(UserError, match=r"--until flow: no such asset; there are: .*flows"):
        wanted(definitions(), load_settings({}), "flow")


def test_the_default_makes_stage_10k_of_every_track_and_automl_on_everything() -> None:
    made = plan()
    assert {"original[10K]", "lora_checkpoint_10K[2027|feature_varied]", "automl_baseline[ALL]"} <= set(made)
    assert not any("30K" in name for name in made)


def test_upstream_comes_first() -> None:
    made = plan()
    order = [
        "raw_flows",
        "flows",
        "evaluation_split",
        "training_order",
        "original[10K]",
        "paraphrased[10K]",
        "training_split_10K[paraphrased]",
        "lora_checkpoint_10K[2027|paraphrased]",
        "eval_metrics_10K[2027|paraphrased]",
        "track_comparison",
        "paper_report",
    ]
    places = [made.index(name) for name in order]
    assert places == sorted(places)


def test_a_stage_needs_the_increments_below_it_and_not_their_training() -> None:
    made = plan(stages=["30K"])
    assert {"original[10K]", "original[30K]", "lora_checkpoint_30K[2027|original]"} <= set(made)
    assert "lora_checkpoint_10K[2027|original]" not in made


def test_a_warm_start_needs_the_checkpoints_below_it() -> None:
    made = plan(stages=["30K"], stage_chain="warm_start")
    assert {"lora_checkpoint_10K[2027|original]", "training_split_10K[original]"} <= set(made)


def test_a_single_track_brings_the_original_answers_along_but_not_their_training() -> None:
    made = plan(tracks=["paraphrased"])
    assert {"original[10K]", "prompt[original]", "paraphrased[10K]"} <= set(made)
    assert not any(name in made for name in ("lora_checkpoint_10K[2027|original]", "prompt[feature_varied]"))


def test_nothing_chosen_is_an_error() -> None:
    with pytest.raises(UserError, match="IOT_STAGES"):
        plan(stages=[])


def toy(lake: Lake, artefact: ArtefactId, *inputs: ArtefactId, **recorded: Any) -> None:
    """Make an artefact of `inputs` that recorded reads (settings, gathered artefacts)."""
    with lake.replacing(artefact) as folder:
        write_text(folder / "x.txt", str(artefact))
        versions = {a.input_key: lake.manifest(a).data_version for a in inputs}
        manifest = Manifest(artefact.asset, artefact.partition, "", "1", versions, dict(recorded.get("seen", {})), {})
        finish_artefact(folder, manifest, set())


PROMPTS = [ArtefactId("prompt", track) for track in ("original", "paraphrased")]
TRACKS = [ArtefactId("track_10K", f"2027|{track}") for track in ("original", "paraphrased")]
REPORT, LAST = ArtefactId("report"), ArtefactId("last")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two prompts from files, a track of each, a report that gathers every track, and one of the report."""
    lake = Lake(tmp_path / "lake")
    for prompt, track in zip(PROMPTS, TRACKS, strict=True):
        file = tmp_path / f"{prompt.partition}.md"
        file.write_text("be brief")
        toy(lake, prompt, seen={f"file {file}": file_version(file, lake)})
        toy(lake, track, prompt)
    toy(lake, REPORT, *TRACKS, seen={"artefacts track": [str(track) for track in TRACKS]})
    toy(lake, LAST, REPORT)
    return lake


def expected(lake: Lake, accept_code: bool = False, **versions: str) -> dict[str, list[str]]:
    """What is stale of all, and why."""
    planned = [Planned(a, "g", versions.get(a.asset, "1")) for a in (*PROMPTS, *TRACKS, REPORT, LAST)]
    found = forecast(lake, load_settings({}), planned, accept_code)
    assert [*found] == [p.artefact for p in planned]
    return {str(artefact): why for artefact, why in found.items() if why}


def test_an_edited_file_makes_stale_all_that_follows_from_it_and_each_names_it(lake: Lake, tmp_path: Path) -> None:
    assert expected(lake) == {}
    file = tmp_path / "paraphrased.md"
    file.write_text("be very brief")
    root = f"follows from prompt[paraphrased]: file {file} changed"
    assert expected(lake) == {
        "prompt[paraphrased]": [f"file {file} changed"],
        "track_10K[2027|paraphrased]": [root],
        "report": [root],
        "last": [root],
    }


def test_what_a_run_makes_at_this_moment_is_told_without_what_may_follow(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "paraphrased.md").write_text("be very brief")
    chosen = load_settings({})
    assert forecast(lake, chosen, [Planned(TRACKS[1], "g", "1")]) == {TRACKS[1]: []}
    assert forecast(lake, chosen, [Planned(LAST, "g", "1")]) == {LAST: []}


def test_changed_code_is_a_root_cause_unless_it_is_accepted(lake: Lake) -> None:
    found = expected(lake, prompt="2")
    assert found["prompt[original]"] == ["code changed (1 -> 2)"]
    roots = [f"follows from {prompt}: code changed" for prompt in PROMPTS]
    assert found["track_10K[2027|original]"] == roots[:1] and found["report"] == found["last"] == roots
    assert expected(lake, accept_code=True, prompt="2") == {}


def test_a_missing_artefact_and_a_changed_byte_are_root_causes(lake: Lake) -> None:
    shutil.rmtree(lake.folder(PROMPTS[0]))
    found = expected(lake)
    root = "follows from prompt[original]: not made yet"
    assert found == {
        "prompt[original]": ["not made yet"],
        "track_10K[2027|original]": [root],
        "report": [root],
        "last": [root],
    }
    toy(lake, PROMPTS[0])
    assert expected(lake) == {}
    (lake.folder(TRACKS[1]) / "x.txt").write_text("x")
    found = expected(lake)
    assert found["last"] == ["follows from track_10K[2027|paraphrased]: file x.txt was changed"]
    assert found["track_10K[2027|paraphrased]"][0].startswith("file x.txt was changed (expected ")


def test_a_further_artefact_that_is_gathered_is_seen_before_it_is_made(lake: Lake) -> None:
    further = ArtefactId("track_30K", "2027|original")
    planned = [Planned(a, "g", "1") for a in (further, REPORT)]
    assert forecast(lake, load_settings({}), planned)[REPORT] == ["follows from track_30K[2027|original]: not made yet"]
    toy(lake, further)
    assert forecast(lake, load_settings({}), planned) == {further: [], REPORT: ["artefacts track changed"]}


def test_a_run_never_mixes_partitioned_assets() -> None:
    names = [("a", ""), ("b", ""), ("t", "10K|x"), ("l", "10K|x"), ("c", "")]
    planned = [Planned(ArtefactId(asset, partition), "g", "1") for asset, partition in names]
    assert [[str(p.artefact) for p in batch] for batch in batches(planned)] == [
        ["a", "b"],
        ["t[10K|x]"],
        ["l[10K|x]"],
        ["c"],
    ]
