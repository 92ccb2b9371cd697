"""Drift: nothing is found where nothing moved, what moved is found, in one part or many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.drift import EDGES, Drift, psi, sentences
from iot_pipeline.flows.serialise import printer
from iot_pipeline.flows.spec import DatasetSpec, load_spec
from iot_pipeline.flows.texts import FlowTextWriter, RankTable


@pytest.fixture(scope="module")
def writer() -> FlowTextWriter:
    spec = load_spec("rt_iot2022_categories")
    return writer_of(spec, table(spec, 4000, 0))


def table(spec: DatasetSpec, rows: int, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame({
        feature.name: random.choice(["tcp", "udp"], rows, p=[0.8, 0.2])
        if feature.is_category
        else random.lognormal(1, 1, rows).round(3)
        for feature in spec.features
    })  # fmt: skip


def writer_of(spec: DatasetSpec, pool: pd.DataFrame) -> FlowTextWriter:
    show, values, cumulative, counts = printer(spec), {}, {}, {}
    for feature in spec.features:
        if feature.is_category:
            counts[feature.name] = pool[feature.name].value_counts().sort_index().to_dict()
            continue
        printed = np.array([float(show(feature.name, value)) for value in pool[feature.name]])
        distinct, number = np.unique(printed, return_counts=True)
        values[feature.name], cumulative[feature.name] = distinct.tolist(), np.cumsum(number).tolist()
    return FlowTextWriter(spec, "values", RankTable(len(pool), values, cumulative, counts))


def numbers(writer: FlowTextWriter) -> list[str]:
    return [feature.name for feature in writer.spec.features if not feature.is_category]


def report(writer: FlowTextWriter, new: pd.DataFrame) -> dict[str, Any]:
    counted = Drift(writer)
    counted.add(new)
    return counted.report()


def test_flows_of_the_same_kind_have_not_moved(writer: FlowTextWriter) -> None:
    found = report(writer, table(writer.spec, 1500, 1))
    assert found["moved"] == [] and all(row["psi"] < 0.05 for row in found["features"])
    assert sentences(found) == ["No feature of 1,500 rows moved against the train pool."]


def test_a_moved_number_and_a_new_value_are_found_and_named(writer: FlowTextWriter) -> None:
    new, name = table(writer.spec, 1500, 1), numbers(writer)[0]
    word = next(feature.name for feature in writer.spec.features if feature.is_category)
    new[name] *= 4
    new[word] = "icmp"
    found = report(writer, new)
    assert set(found["moved"]) == {name, word} and found["features"][0]["shift"] == "large"
    assert sentences(found)[0].startswith(f"2 of {len(writer.spec.features)} features moved against the train pool: ")


def test_values_that_the_train_pool_lacks_are_counted_as_one_however_many_there_are(writer: FlowTextWriter) -> None:
    word = next(feature.name for feature in writer.spec.features if feature.is_category)
    same, other = (table(writer.spec, 1500, 1) for _ in range(2))
    same[word], other[word] = "icmp", [f"w{number}" for number in range(1500)]
    one, many = (
        next(row for row in report(writer, new)["features"] if row["feature"] == word) for new in (same, other)
    )
    assert one == many and one["shift"] == "large"


@pytest.mark.parametrize(("usual", "value"), [(1.0, -3.0), (1.0, 3.0), (0.95, -3.0), (0.95, 0.1)])
def test_a_feature_that_was_constant_or_nearly_so_is_found_moved_either_way(usual: float, value: float) -> None:
    spec = load_spec("rt_iot2022_categories")
    pool, new = table(spec, 4000, 0), table(spec, 1500, 1)
    name = next(feature.name for feature in spec.features if not feature.is_category)
    pool[name] = np.where(np.arange(4000) < usual * 4000, 0.0, 5.0)
    new[name] = np.where(np.arange(1500) < usual * 1500, 0.0, 5.0)
    assert report(writer_of(spec, pool), new)["moved"] == []
    new[name] = value
    found = report(writer_of(spec, pool), new)
    row = found["features"][0]
    assert (found["moved"], row["shift"]) == ([name], "large")
    assert row["statistic"] == pytest.approx(usual if value > 0 else 1)


def test_the_statistic_is_that_of_scipy_and_parts_add_up(writer: FlowTextWriter) -> None:
    new, name = table(writer.spec, 700, 5), numbers(writer)[0]
    new[name] *= 1.3
    whole, parts = report(writer, new), Drift(writer)
    for start in range(0, 700, 90):
        parts.add(new.iloc[start : start + 90])
    assert parts.report() == whole
    row = next(row for row in whole["features"] if row["feature"] == name)
    show = printer(writer.spec)
    printed = [float(show(name, value)) for value in new[name]]
    known = np.repeat(writer.ranks.values[name], np.diff([0, *writer.ranks.cumulative[name]]))  # type: ignore[union-attr]
    true = ks_2samp(known, printed, method="asymp")
    assert row["statistic"] <= true.statistic + 1e-12 and true.statistic - row["statistic"] <= 1 / EDGES + 1e-12
    assert row["p"] == pytest.approx(float(true.pvalue), abs=0.02)


def test_rows_weigh_and_classes_and_unknown_flows_are_compared(writer: FlowTextWriter) -> None:
    new, counted = table(writer.spec, 200, 3), Drift(writer)
    counted.add(new, ["a"] * 150 + ["b"] * 50, [True] * 20 + [False] * 180, [2.0] * 200)
    found = counted.report({"a": 500, "b": 500}, alarm=0.01)
    assert found["rows"] == 400 and found["classes"]["shares"]["a"] == {"before": 0.5, "now": 0.75}
    assert found["classes"]["shift"] == "large" and found["unknown"]["more"] and found["unknown"]["share"] == 0.1
    assert "10.0% of the rows are of no known class" in sentences(found)[-1]
    assert counted.report()["classes"] is None and counted.report()["unknown"] is None
    with pytest.raises(UserError, match="no flow"):
        Drift(writer).report()


def test_psi_is_zero_for_equal_shares_and_finite_for_empty_bins() -> None:
    assert psi(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == 0
    assert 5 < psi(np.array([1.0, 0.0]), np.array([0.0, 1.0])) < 20
