"""Mismatches: every disagreement of the published facts, on a table of a row a class and on a whole simulated one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.quality.mismatch import dataset_mismatch, reconcile
from iot_pipeline_tests.quality.factories import flow_table, save
from iot_pipeline_tests.simulator.published import published_flows

SPEC = load_spec("farm_flow")
# What disagrees among the facts themselves, whatever the table: {what: (expected, found)}.
AMONG_FACTS = {
    "rows: rows_published against rows": (347_685, 405_296),
    "sum of class_rows_prior_work against the stated rows": (347_685, 347_634),
    "rows of Arp_Spoofing: class_rows_prior_work against class_rows": (57_611, 57_566),
    "rows of Arp_Spoofing: class_rows_prior_work against class_rows_published": (57_611, 57_566),
    "rows of ICMP_Flood: class_rows_prior_work against class_rows": (57_611, 57_605),
    "rows of ICMP_Flood: class_rows_prior_work against class_rows_published": (57_611, 57_605),
    "rows of BotNet_DDOS: class_rows_published against class_rows": (None, 57_611),
    "rows of BotNet_DDOS: class_rows_prior_work against class_rows_published": (57_611, None),
    "number of classes: class_rows_published against class_rows": (7, 8),
    "number of classes: class_rows_prior_work against class_rows_published": (8, 7),
    "class_rows has no row for UDP_Flood, a declared class": (None, 0),
    "class_rows_published has no row for UDP_Flood, a declared class": (None, 0),
    "class_rows_prior_work has no row for UDP_Flood, a declared class": (None, 0),
    "80:20 split: training + validation rows against rows_published": (405_296, 347_685),
    "80:20 split: training rows against 80 % of rows_published": (324_237, 278_148),
    "80:20 split: training + validation rows against the sum of class_rows_published": (405_296, 347_685),
    "80:20 split: training + validation rows against the sum of class_rows_prior_work": (347_634, 347_685),
    # An answer with a header of 40 bytes has 60 bytes of IP: 52 and 40 cannot both be the 75 % quantile.
    "75 % quantile of resp_ip_bytes in Arp_Spoofing, bytes: at least bwd_header_size_max + 20": (60.0, 52.0),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """flows.parquet of the simulated table at its published size."""
    return published_flows(tmp_path_factory)


def test_every_row_is_kept_rejected_or_left_out_and_a_lost_one_is_told(tmp_path: Path) -> None:
    base = dict.fromkeys(SPEC.feature_names, 0.0) | {"is_attack": 1.0}
    rows = [{"traffic": 1.0}, {"traffic": 3.0}, {"traffic": 2.0}, {"traffic": 3.0, "orig_pkts": float("nan")}]
    pd.DataFrame([base | row for row in rows]).to_parquet(tmp_path / "raw.parquet")
    files = tmp_path / "raw.parquet", tmp_path / "flows.parquet"
    built = build_flows(SPEC, *files, max_rejected_share=0.5)
    counted = {"rows_in": 4, "kept": 2, "rejected": 1, "left_out": 1, "unaccounted": 0}
    assert reconcile(*files, built.rejected, built.left_out) == counted
    save(pd.read_parquet(files[1]).iloc[:1], files[1])
    assert reconcile(*files, built.rejected, built.left_out) == counted | {"kept": 1, "unaccounted": 1}


def found_in(report: dict, kind: str) -> dict[str, tuple]:
    return {item["what"]: (item["expected"], item["found"]) for item in report["findings"] if item["kind"] == kind}


def test_every_disagreement_of_the_published_facts_is_found_beside_a_whole_table(whole: Path) -> None:
    report = dataset_mismatch(whole, SPEC)
    among = found_in(report, "facts")
    assert {what: among.get(what) for what in AMONG_FACTS} == AMONG_FACTS
    # Nothing else but scales and medians of another selection of rows.
    others = [item for item in report["findings"] if item["kind"] == "facts" and item["what"] not in AMONG_FACTS]
    assert {item["source"] for item in others} == {"recovered_scales", "recovered_scales, raw_scales", "raw_medians"}
    medians = "median of fwd_header_size_max in HTTP_Flood, raw bytes: raw capture against the published median"
    assert among[medians] == (32, pytest.approx(20, abs=0.01))
    assert among["std of orig_pkts: the published scaling against a scaler of the raw capture"] == (2227.876, 2.1119)
    assert found_in(report, "spec") == {
        "number of classes": (9, 7),
        "rows of BotNet_DDOS, a declared class": (None, 0),
        "rows of UDP_Flood, a declared class": (None, 0),
    }
    counts = [item for item in report["findings"] if item["kind"] == "data" and item["what"].startswith("rows of ")]
    assert {(item["what"], item["source"], item["difference"]) for item in counts} == {
        ("rows of Arp_Spoofing", "class_rows_prior_work", 45),
        ("rows of ICMP_Flood", "class_rows_prior_work", 6),
        ("rows of BotNet_DDOS", "class_rows_published", -57_611),
    }
    assert report["checked"] == len(report["findings"]) + len(report["agreements"])


def test_a_table_that_lacks_the_45_and_the_6_rows_is_told_so(whole: Path, tmp_path: Path) -> None:
    flows = pd.read_parquet(whole)
    lost = {"Arp_Spoofing": 45, "ICMP_Flood": 6}
    gone = pd.concat([flows[flows["label"] == name].tail(number) for name, number in lost.items()])
    report = dataset_mismatch(save(flows.drop(gone.index), tmp_path / "flows.parquet"), SPEC)
    counts = [item for item in report["findings"] if item["what"].startswith("rows of ") and item["kind"] == "data"]
    assert {(item["what"], item["difference"]) for item in counts if item["source"] == "class_rows"} == {
        ("rows of Arp_Spoofing", -45), ("rows of ICMP_Flood", -6),
    }  # fmt: skip
    assert not [item for item in counts if item["source"] == "class_rows_prior_work"]
    split = "80:20 split: training + validation rows against the rows found"
    assert found_in(report, "data")[split] == (347_685, 347_634)


def test_the_edition_of_eight_classes_finds_what_the_prior_work_left_out(tmp_path: Path) -> None:
    spec = load_spec("farm_flow_8")
    flows = [(*(float(n == i) for n in range(29)), label) for i, label in enumerate(spec.classes)]
    report = dataset_mismatch(save(flow_table(spec, flows), tmp_path / "flows.parquet"), spec)  # type: ignore[arg-type]
    among = found_in(report, "facts")
    assert among["rows: rows_prior_work against rows"] == (405_296, 347_685)
    assert among["sum of class_rows_prior_work against the stated rows"] == (347_685, 347_634)
    assert among["rows of Arp_Spoofing: class_rows_prior_work against class_rows"] == (57_611, 57_566)
    assert among["rows of BotNet_DDOS: class_rows_prior_work against class_rows"] == (57_611, None)
