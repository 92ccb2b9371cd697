"""Zeek logs as IOT_SOURCE through the assets: what reading found is in the artefacts and on their pages."""

import json
from pathlib import Path

import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs.flows.assets import flows, raw_flows
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline_tests.defs.test_sides import make
from iot_pipeline_tests.flows.reading.zeek_logs import logs_of, tsv

ROWS = 800


def test_notes_and_warnings_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conn, meter = logs_of(load_spec("farm_flow"), ROWS, 42)
    conn[5]["traffic"] = "99"
    (tmp_path / "conn.log").write_text(tsv("conn", conn))
    (tmp_path / "flowmeter.log").write_text(tsv("flowmeter", meter))
    monkeypatch.setenv("IOT_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("IOT_SOURCE", f"{tmp_path}/conn.log,{tmp_path}/flowmeter.log")
    settings_module.settings.cache_clear()
    make(raw_flows, flows)
    settings_module.settings.cache_clear()
    lake = Lake(tmp_path / "lake")
    source = json.loads((lake.folder(ArtefactId("raw_flows")) / "source.json").read_text())
    assert (source["rows"], [file["name"] for file in source["files"]]) == (ROWS, ["conn.log", "flowmeter.log"])
    assert any("put on the scale of the data set" in note for note in source["notes"])
    assert "put on the scale" in (lake.folder(ArtefactId("raw_flows")) / "notes.csv").read_text()
    folder = lake.folder(ArtefactId("flows"))
    assert json.loads((folder / "flows.json").read_text())["rejected"] == {"unknown label in traffic": 1}
    assert "the label '99' of column traffic is not known" in (folder / "warnings.csv").read_text()
