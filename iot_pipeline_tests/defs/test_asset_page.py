"""Pages of artefacts in the UI: label, links that hold, columns and where they come from, verdicts with advice."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from markdown_it import MarkdownIt

from iot_pipeline import settings as settings_module
from iot_pipeline.augmentation.join import PROVENANCE
from iot_pipeline.definitions import defs
from iot_pipeline.defs import plan
from iot_pipeline.defs.asset_page import REAL, page_metadata
from iot_pipeline.defs.catalogue import only_wanted
from iot_pipeline.defs.checks import CHECKS, describe_check
from iot_pipeline.defs.column_lineage import (
    MEANINGS,
    answers_columns,
    column_lineage,
    description,
    flows_columns,
    order_columns,
    texts_columns,
)
from iot_pipeline.defs.lake_state import freshness, report_state
from iot_pipeline.defs.partitions import baseline_stages, shown_stages
from iot_pipeline.env_file import ONLY_WANTED
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.lake.store import ArtefactId, Manifest
from iot_pipeline.settings import load_settings


@cache
def definitions() -> dg.Definitions:
    return defs()


def page(**changed: object) -> dict[str, object]:
    given = {
        "asset": "lora_checkpoint_10K", "partition": "2027|original", "data_version": "d", "code_version": "c",
        "inputs": {"original@10K": "abcdef0123456789", "flows@": "f"}, "settings": {"setting seed": 2027},
        "files": {"x y.md": {}, "report.html": {}}, "provenance": {"seconds": 1.5, "code_commit": "abc"},
    }  # fmt: skip
    found = page_metadata(ArtefactId("lora_checkpoint_10K", "2027|original"), Manifest(**(given | changed)))
    return {name: value.value if hasattr(value, "value") else value for name, value in found.items()}


def test_a_page_names_label_commit_and_seeds_and_links_inputs_and_files_without_a_host() -> None:
    found = page()
    assert (found["label"], found["code_commit"], found["seeds"]) == (REAL, "abc", "seed=2027")
    assert page(provenance={"labels": ["TINY base", "SIMULATED flows"]})["label"] == "TINY base; SIMULATED flows"
    assert "(/assets/original?view=partitions&partition=10K) | `abcdef012345`" in str(found["inputs"])
    assert "(/lake/original/10K/)" in str(found["inputs"]) and "(/assets/flows)" in str(found["inputs"])
    files = str(found["files"]).splitlines()
    assert files[0] == "- [report.html](/lake/lora_checkpoint_10K/2027/original/report.html)"
    assert "(/lake/lora_checkpoint_10K/2027/original/x%20y.md)" in files[1]
    assert "http" not in str(found)


def test_an_input_with_a_seed_and_a_track_is_one_cell_of_its_table() -> None:
    inputs = str(page(inputs={"lora_checkpoint_10K@2027|original": "abcdef0123456789"})["inputs"])
    assert r"2027\|original" in inputs and r"\\" not in inputs, (
        "Dagster's tables end a cell at a pipe behind two backslashes"
    )
    html = MarkdownIt("commonmark").enable("table").render(inputs)
    assert html.count("<td>") == 3 and ">lora_checkpoint_10K[2027|original]</a></td>" in html


def test_a_hostile_file_name_is_inert() -> None:
    assert "[x](javascript:" not in str(page(files={"[x](javascript:alert(1)).md": {}})["files"])


@pytest.mark.parametrize("name", ["farm_flow", "rt_iot2022_categories", "nsl_kdd", "unsw_nb15"])
def test_every_column_of_flows_comes_from_columns_that_the_source_has(name: str) -> None:
    spec = load_spec(name)
    columns = flows_columns(spec)
    needed = {("raw_flows", column) for column in spec.source_columns}
    assert {*spec.feature_names, "label", "flow_group"} <= columns.keys()
    empty = [feature.name for feature in spec.features if not columns[feature.name]]
    assert empty == (["missed_bytes"] if name == "rt_iot2022_categories" else [])  # which is 0 in every row
    assert {one for sources in columns.values() for one in sources} <= needed
    lineage = column_lineage(texts_columns(spec)).deps_by_column["text"]
    assert {dep.column_name for dep in lineage} >= set(spec.feature_names)


def test_a_column_says_what_it_means_and_is_made_from() -> None:
    text = description(MEANINGS["text"], texts_columns(load_spec("farm_flow"))["text"])
    assert text == (
        "the flow as teacher and student read it; from flows: missed_bytes, orig_pkts, orig_ip_bytes and 26 more; "
        "from evaluation_split: side"
    )
    assert description("", answers_columns("original")["label"]) == "from training_order: label"
    assert description("", ()) == "" and {*PROVENANCE.names} <= MEANINGS.keys()


def test_places_follow_from_groups_and_varied_answers_from_features() -> None:
    place = {("flows", name) for name in ("flow_group", "label", "occurrence")} | {("evaluation_split", "side")}
    assert {*order_columns()["position"]} == {*order_columns()["repeat"]} == place
    features = [("flows", name) for name in load_spec("farm_flow").feature_names]
    varied = answers_columns("feature_varied", load_spec("farm_flow").feature_names)
    for name in ("answer", "key", "varied_group"):
        assert {*features} < {*varied[name]}
    assert ("original", "answer") in varied["answer"] and ("flow_texts", "text") in varied["answer"]
    assert not {*features} & {*answers_columns("paraphrased", load_spec("farm_flow").feature_names)["answer"]}


def test_every_check_says_what_to_do_where_it_fails() -> None:
    declared = {
        check.name: check.description
        for asset in definitions().assets or []
        if isinstance(asset, dg.AssetsDefinition)
        for check in asset.check_specs
    }
    assert declared == {name: check.meaning for name, check in CHECKS.items()}
    assert "IOT_" in describe_check("base_is_fit", False, {"problem": "x"}) and "(problem: x)" in describe_check(
        "base_is_fit", False, {"problem": "x", "by_class": [1]}
    )
    assert describe_check("near_copies", True, {}) == CHECKS["near_copies"].meaning


def test_in_the_ui_all_is_what_the_settings_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = only_wanted(definitions(), list(definitions().assets or []))
    made = {one.key.to_user_string() for one in shown if isinstance(one, dg.AssetsDefinition)}
    assert "lora_checkpoint_10K" in made and not any("30K" in name or "grid" in name for name in made)
    assert len(shown) == len(list(definitions().assets or []))  # the others stay in the graph
    narrowed = dg.Definitions(assets=shown, resources=definitions().resources)
    chosen = settings_module.settings()
    assert plan.wanted(narrowed, chosen) == plan.wanted(definitions(), chosen)  # a job makes the same as before
    assert len(shown_stages()) == len(baseline_stages()) == 5
    monkeypatch.setenv(ONLY_WANTED, "1")
    monkeypatch.setenv("IOT_STAGES", "30K")
    settings_module.settings.cache_clear()
    assert (shown_stages(), baseline_stages()) == (["10K", "30K"], ["30K", "ALL"])
    settings_module.settings.cache_clear()


def test_what_the_manifests_say_is_reported_as_an_asset(tmp_path: Path) -> None:
    chosen = load_settings({"IOT_LAKE": str(tmp_path)})

    def reported() -> dict[str, Any]:
        report_state(instance, definitions(), chosen)
        event = instance.get_latest_materialization_event(dg.AssetKey(plan.STATE))
        assert event is not None and event.asset_materialization is not None
        return dict(event.asset_materialization.metadata)

    with dg.DagsterInstance.ephemeral() as instance:
        metadata = reported()
        (tmp_path / "flows").mkdir()
        (tmp_path / "flows" / "manifest.json").write_text("{")
        assert "flows/manifest.json is not a manifest" in str(reported()["problem"].value)
    assert metadata["missing"].value == len(plan.wanted(definitions(), chosen)) and metadata["fresh"].value == 0
    assert freshness(chosen) is None and freshness(load_settings({"IOT_AUTOMATION": "on"})) is not None
    assert os.environ.get(ONLY_WANTED) is None
