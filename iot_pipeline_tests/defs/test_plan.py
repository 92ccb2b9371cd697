"""Which partitions a choice of stages and tracks calls for, in which order, in which runs."""

from functools import cache
from typing import Any

import dagster as dg
import pytest

from iot_pipeline.definitions import defs
from iot_pipeline.defs.plan import Planned, batches, wanted
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId
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
    assert made[-1] == "paraphrased[10K|paraphrased]" and "original[10K|original]" in made
    with pytest.raises(UserError, match=r"--until flow: no such asset; there are: .*flows"):
        wanted(definitions(), load_settings({}), "flow")


def test_the_default_makes_stage_10k_of_every_track_and_automl_on_everything() -> None:
    made = plan()
    assert {"original[10K|original]", "lora_checkpoint/10K[10K|feature_varied]", "automl_baseline[ALL]"} <= set(made)
    assert not any("30K" in name for name in made)


def test_upstream_comes_first() -> None:
    made = plan()
    order = ["raw_flows", "flows", "evaluation_split", "training_order", "original[10K|original]",
             "paraphrased[10K|paraphrased]", "training_split[10K|paraphrased]", "lora_checkpoint/10K[10K|paraphrased]",
             "eval_metrics/10K[10K|paraphrased]", "track_comparison", "paper_report"]
    places = [made.index(name) for name in order]
    assert places == sorted(places)


def test_a_stage_needs_the_increments_below_it_and_not_their_training() -> None:
    made = plan(stages=["30K"])
    assert {"original[10K|original]", "original[30K|original]", "lora_checkpoint/30K[30K|original]"} <= set(made)
    assert "lora_checkpoint/10K[10K|original]" not in made


def test_a_warm_start_needs_the_checkpoints_below_it() -> None:
    made = plan(stages=["30K"], stage_chain="warm_start")
    assert {"lora_checkpoint/10K[10K|original]", "training_split[10K|original]"} <= set(made)


def test_a_single_track_brings_the_original_answers_along_but_not_their_training() -> None:
    made = plan(tracks=["paraphrased"])
    assert {"original[10K|original]", "prompt[original]", "paraphrased[10K|paraphrased]"} <= set(made)
    assert not any(name in made for name in ("lora_checkpoint/10K[10K|original]", "prompt[feature_varied]"))


def test_nothing_chosen_is_an_error() -> None:
    with pytest.raises(UserError, match="IOT_STAGES"):
        plan(stages=[])


def test_a_run_never_mixes_partitioned_assets() -> None:
    names = [("a", ""), ("b", ""), ("t", "10K|x"), ("l", "10K|x"), ("c", "")]
    planned = [Planned(ArtefactId(asset, partition), "g", "1") for asset, partition in names]
    assert [[str(p.artefact) for p in batch] for batch in batches(planned)] == [
        ["a", "b"], ["t[10K|x]"], ["l[10K|x]"], ["c"]
    ]
