"""Flows in raw units over HTTP: read as `classify` reads them, and refused where values contradict the units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.commands.classify import check_units
from iot_pipeline.errors import UserError
from iot_pipeline.flows.serialise import printed
from iot_pipeline.flows.texts import RankTable
from iot_pipeline.serving.features import FeatureReader
from iot_pipeline.serving.units import Units, published_scales
from iot_pipeline_tests.serving.served import FakeClassifier, fake, served, spec_of

SPEC = spec_of("farm_flow")
SIGNED = ("pkts_difference", "data_pkts_difference")


def drawn(count: int, seed: int) -> pd.DataFrame:
    """Raw flows: whole numbers but for rates and means, mostly 0 or small; only differences are below 0."""
    random = np.random.default_rng(seed)
    table = {}
    for feature in SPEC.features:
        scale = feature.scale
        assert scale is not None
        values = random.exponential(scale.offset + scale.width / 4, count) * (random.random(count) < 0.6)
        is_whole = ".avg" not in feature.name and feature.unit in ("packets", "bytes")
        sign = random.choice([-1, 1], count) if feature.name in SIGNED else 1
        table[feature.name] = sign * (np.rint(values) if is_whole else values)
    return pd.DataFrame(table)


def published(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({f.name: f.scale.from_raw(raw[f.name]) for f in SPEC.features if f.scale}).round(6)


def pool() -> RankTable:
    """Ranks of 2,000 drawn flows, as published and printed."""
    table = published(drawn(2000, 0))
    values = {name: sorted({float(printed(SPEC.format, value)) for value in table[name]}) for name in table}
    return RankTable(
        2000, values, {name: [2000 * (place + 1) // len(of) for place in range(len(of))] for name, of in values.items()}
    )


POOL = pool()


def classifier() -> FakeClassifier:
    known = fake()
    return replace(known, writer=replace(known.writer, ranks=POOL))


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with served(classifier()) as url, httpx2.Client(base_url=url, timeout=30) as client:
        yield client


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_raw_flows_are_of_the_groups_that_classify_gives_them(seed: int) -> None:
    raw, known = drawn(50, seed), classifier()
    flows, faults = Units(SPEC, POOL).read(raw, "raw", stated=True)
    reader = FeatureReader(SPEC, raw=True)
    assert faults == {}
    assert known.groups(flows) == reader.read(pa.Table.from_pandas(raw)).table["flow_group"].to_pylist()
    reader.close()
    assert known.groups(published(raw)) == known.groups(flows)


def test_raw_and_published_values_of_a_flow_get_one_verdict(client: httpx2.Client) -> None:
    raw = drawn(20, 1)
    parts = {"raw": raw.to_dict("records"), "scaled": published(raw).to_dict("records")}
    found = {units: client.post("/v1/classify", json={"flows": f, "units": units}).json() for units, f in parts.items()}
    assert found["raw"]["units"] == "raw" and found["scaled"]["units"] == "scaled"
    assert found["raw"]["results"] == found["scaled"]["results"]
    text = raw.head(1).to_csv(index=False)
    explained = client.post("/v1/explain", json={"text": text, "units": "raw"}).json()["results"][0]
    assert explained["probabilities"] == found["raw"]["results"][0]["probabilities"]
    ask = {"model": "farm_flow-10K-original", "messages": [{"role": "user", "content": text}], "units": "raw"}
    assert client.post("/v1/chat/completions", json=ask).json()["verdict"] == explained
    respond = {"model": "farm_flow-10K-original", "input": text, "units": "raw"}
    assert client.post("/v1/responses", json=respond).json()["verdict"] == explained
    scored = client.post("/v1/score", json={"query": text, "items": SPEC.classes, "units": "raw"}).json()["scores"]
    assert [row[0] for row in scored] == pytest.approx([*explained["probabilities"].values()], abs=1e-6)


def test_requests_in_both_units_share_a_batch() -> None:
    raw = drawn(40, 2)
    with served(classifier(), gather_s=0.3) as url, httpx2.Client(base_url=url, timeout=30) as client:
        from concurrent.futures import ThreadPoolExecutor

        def ask(place: int) -> Any:
            units, table = ("raw", raw) if place % 2 else ("scaled", published(raw))
            flows = table.iloc[place : place + 1].to_dict("records")
            return client.post("/v1/classify", json={"flows": flows, "units": units}).json()["results"][0]

        with ThreadPoolExecutor(16) as threads:
            together = list(threads.map(ask, range(40)))
        whole = client.post("/v1/classify", json={"flows": published(raw).to_dict("records"), "units": "scaled"})
    assert together == whole.json()["results"]


def test_values_that_contradict_the_units_are_named(client: httpx2.Client) -> None:
    raw = drawn(3, 3)
    scaled = published(raw)

    def refusal(table: pd.DataFrame, **more: str) -> str:
        answer = client.post("/v1/classify", json={"flows": table.to_dict("records"), **more})
        assert answer.status_code == 400 and answer.json()["error"]["param"].startswith("flows[")
        return str(answer.json()["error"]["message"])

    told = refusal(scaled, units="raw")
    assert told.startswith("flows[0]: orig_pkts = -") and "never negative" in told and "the units: scaled" in told
    half = raw.assign(orig_pkts=[1.0, 2.5, 3.0])
    assert "flows[1]: orig_pkts = 2.5 cannot be in raw units, where it is a whole number" in refusal(half, units="raw")
    flood = raw.assign(orig_ip_bytes=[4000.0, 5200.0, 6000.0])
    told = refusal(flood)  # units are not stated
    assert "flows[0]: " in told and "is out of the published range" in told and "state the units" in told
    assert client.post("/v1/classify", json={"flows": flood.to_dict("records"), "units": "scaled"}).status_code == 200
    assert client.post("/v1/classify", json={"flows": scaled.to_dict("records")}).json()["units"] == "scaled"
    huge = raw.assign(down_up_ratio=1e308, missed_bytes=1e308)
    assert client.post("/v1/classify", json={"flows": huge.to_dict("records"), "units": "raw"}).status_code == 200


def test_strange_flows_as_published_are_not_taken_for_raw_ones() -> None:
    units, table = Units(SPEC, POOL), published(drawn(500, 4))
    random = np.random.default_rng(0)
    for name in random.choice(table.columns, 12):
        table[name] = table[name] * random.uniform(1, 50, len(table))
    assert units.read(table, "scaled", stated=False)[1] == {}


def test_the_service_says_its_units_and_takes_others_as_its_default(client: httpx2.Client) -> None:
    units = client.get("/v1/models").json()["data"][0]["units"]
    assert units["default"] == "scaled" and units["accepted"] == ["scaled", "raw"]
    assert "missed_bytes" in units["assumed_scales"] and "orig_pkts" not in units["assumed_scales"]
    described = client.get("/openapi.json").json()["components"]["schemas"]["FlowsRequest"]["properties"]["units"]
    assert described["enum"] == ["scaled", "raw"] and described["default"] == "scaled"
    raw = drawn(5, 5)
    event = raw.iloc[0].drop("pkts_difference").to_dict() | {"fwd_pkts_tot": 9, "bwd_pkts_tot": 4}
    with served(classifier(), given="raw") as url, httpx2.Client(base_url=url, timeout=30) as other:
        found = other.post("/v1/classify", json={"flows": raw.to_dict("records")}).json()
        assert found["units"] == "raw"
        same = client.post("/v1/classify", json={"flows": raw.to_dict("records"), "units": "raw"}).json()
        assert found["results"] == same["results"]
        completed = other.post("/v1/classify", json={"flows": [event, {**event, "pkts_difference": 5}]})
        first, second = completed.json()["results"]
        assert first == second


def test_a_number_beyond_all_doubles_is_a_fault_of_its_flow(client: httpx2.Client) -> None:
    event = drawn(1, 5).iloc[0].drop("pkts_difference").to_dict() | {"fwd_pkts_tot": 10**400, "bwd_pkts_tot": 4}
    answer = client.post("/v1/classify", json={"flows": [event], "units": "raw"})
    assert answer.status_code == 400 and "flows[0]: " in answer.json()["error"]["message"]


def test_a_data_set_in_raw_units_has_no_other() -> None:
    with served(fake("rt_iot2022")) as url, httpx2.Client(base_url=url, timeout=30) as client:
        answer = client.post("/v1/classify", json={"flows": [{}], "units": "scaled"})
        assert answer.status_code == 400 and "is in raw units" in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"] == "units"
        assert client.get("/v1/models").json()["data"][0]["units"]["accepted"] == ["raw"]


def test_a_scale_that_is_not_known_is_named() -> None:
    features = [f.model_copy(update={"scale": None}) if f.name == "orig_pkts" else f for f in SPEC.features]
    spec = SPEC.model_copy(update={"features": features})
    units = Units(spec, POOL)
    assert units.accepted == ("scaled",)
    for ask in (lambda: units.check("raw"), lambda: published_scales(spec), lambda: FeatureReader(spec, raw=True)):
        with pytest.raises(UserError, match="the scale of orig_pkts is not known"):
            ask()


def test_classify_refuses_units_that_a_data_set_does_not_take() -> None:
    for dataset, taken in (("farm_flow", ("auto", "raw", "scaled")), ("rt_iot2022", ("auto", "raw"))):
        for units in taken:
            check_units(fake(dataset), units)
    with pytest.raises(UserError, match="is in raw units: its flows cannot be given scaled"):
        check_units(fake("rt_iot2022"), "scaled")
