"""IOT_SPLIT=publisher through the assets: from two files to texts, with the publisher's rows and no others tested."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pandas as pd
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs.flows.assets import flows, raw_flows
from iot_pipeline.defs.splits.assets import evaluation_split, flow_texts, leakage_report, training_order
from iot_pipeline.flows.publisher import TEST_ROWS
from iot_pipeline.flows.split import DROPPED
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.simulator.simulate import simulate_farm_flow
from iot_pipeline_tests.defs.test_sides import make

TRAIN, TEST = 600, 200


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    """A lake whose source is a train and a test file, named as Farm-Flow's are."""
    simulate_farm_flow(tmp_path / "all.parquet", rows=TRAIN + TEST)
    rows = pq.read_table(tmp_path / "all.parquet")
    pa_csv.write_csv(rows.slice(0, TRAIN), tmp_path / "Farm-Flow_Train_Multiclass.csv")
    pa_csv.write_csv(rows.slice(TRAIN), tmp_path / "Farm-Flow_Test_Multiclass.csv")
    monkeypatch.setenv("IOT_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("IOT_SOURCE", f"{tmp_path}/Farm-Flow_*_Multiclass.csv")
    monkeypatch.setenv("IOT_SPLIT", "publisher")
    settings_module.settings.cache_clear()
    yield Lake(tmp_path / "lake")
    settings_module.settings.cache_clear()


def test_the_test_side_is_the_publishers_and_what_repeats_it_is_left_out(lake: Lake) -> None:
    make(raw_flows, flows, evaluation_split, training_order, flow_texts, leakage_report)
    for asset in ("flows", "evaluation_split", "training_order", "flow_texts"):
        manifest = lake.manifest(ArtefactId(asset))
        assert manifest is not None
        failed = {name for name, check in manifest.checks.items() if not check["passed"]}
        assert failed <= {"every_class_on_every_side"}
    folder = lake.folder(ArtefactId("evaluation_split"))
    records, dropped = pd.read_parquet(folder / "records.parquet"), pd.read_parquet(folder / DROPPED)
    table = pd.read_parquet(lake.folder(ArtefactId("flows")) / "flows.parquet").set_index("row_id")
    # Files are read in the order of their names: Test, then Train.
    held_out = pd.read_parquet(lake.folder(ArtefactId("flows")) / TEST_ROWS)["row_id"]
    assert held_out.tolist() == list(range(TEST))
    test = records[records["side"] == "test"]
    assert test["rows"].sum() == TEST and set(test["flow_group"]) == set(table.loc[held_out, "flow_group"])
    assert records["rows"].sum() + dropped["rows"].sum() == TRAIN + TEST
    order = pd.read_parquet(lake.folder(ArtefactId("training_order")) / "order.parquet")
    assert len(order) and not set(order["flow_group"]) & set(test["flow_group"])

    split = json.loads((folder / "split.json").read_text())
    report = json.loads((lake.folder(ArtefactId("leakage_report")) / "leakage.json").read_text())
    assert report["passed"] and report["leak_free"]["shared_groups"] == 0
    train_flows = set(table.drop(held_out)["flow_group"])
    seen = table.loc[held_out, "flow_group"].isin(train_flows).mean()
    assert 0.5 < seen == pytest.approx(split["publisher"]["shared_test_share"])
    assert split["publisher"]["dropped_rows"] == report["publisher"]["dropped_rows"] == dropped["rows"].sum()
    assert report["publisher"]["model"]["row"] > 0.5


def test_by_default_the_publishers_files_are_rows_like_any_others(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IOT_SPLIT")
    settings_module.settings.cache_clear()
    make(raw_flows, flows, evaluation_split)
    assert not (lake.folder(ArtefactId("flows")) / TEST_ROWS).exists()
    folder = lake.folder(ArtefactId("evaluation_split"))
    assert not (folder / DROPPED).exists() and "publisher" not in json.loads((folder / "split.json").read_text())
    assert pd.read_parquet(folder / "records.parquet")["rows"].sum() == TRAIN + TEST


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("IOT_SOURCE", "simulate", "^IOT_SPLIT=publisher: simulated flows have no test rows"),
        ("IOT_DATASET", "rt_iot2022", "^IOT_SPLIT=publisher: data set rt_iot2022 has no key publisher_split"),
    ],
)
def test_what_has_no_publishers_split_stops_before_a_row_is_read(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    settings_module.settings.cache_clear()
    with pytest.raises(dg.Failure, match=message):
        make(raw_flows)
