"""Profile, patterns and samples: what the values of a class look like."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from iot_pipeline.defs.inputs import told_spec
from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.quality.mismatch import dataset_mismatch
from iot_pipeline.quality.patterns import Condition, attack_patterns, rule_text, short_threshold
from iot_pipeline.quality.profile import flow_profile, recover_grid
from iot_pipeline.quality.samples import sample_comparison
from iot_pipeline.reporting import figures_data
from iot_pipeline_tests.quality.factories import flow_table, made_spec, random_flows, record_table, save


def test_profile_statistics(tmp_path: Path) -> None:
    flows = [(float(value), 7.0, "Flood") for value in (0, 0, 1, 2, 3, 100)] + [(1.0, 1.0, "Scan")]
    spec = made_spec({"quartiles": {"Flood": {"pkts": [None, 1.4, 2.5]}}})
    summary, table = flow_profile(save(flow_table(spec, flows), tmp_path / "flows.parquet"), spec)
    row = table[(table["class"] == "Flood") & (table["feature"] == "pkts")].iloc[0]
    values = np.array([0, 0, 1, 2, 3, 100.0])
    assert row["count"] == 6 and row["min"] == 0 and row["max"] == 100
    assert [row["p25"], row["median"], row["p75"], row["p95"]] == np.quantile(values, [0.25, 0.5, 0.75, 0.95]).tolist()
    assert row["mean"] == pytest.approx(values.mean()) and row["std"] == pytest.approx(values.std())
    assert row["outlier_share"] == pytest.approx(1 / 6) and not row["zero_variance"]
    assert np.isnan(row["published_p25"]) and (row["published_median"], row["published_p75"]) == (1.4, 2.5)
    assert summary["zero_variance"] == {"Flood": ["iat.avg"], "Scan": ["pkts", "iat.avg"]}
    assert summary["rows_by_class"] == {"Flood": 6, "Scan": 1}
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize("huge", [1e300, 1e-300])
def test_values_at_the_ends_of_what_a_double_holds_have_their_spread(huge: float, tmp_path: Path) -> None:
    spec = made_spec({"zscored_3_decimals": {"distinct": 3}})
    flows = [(factor * huge, 1.0, name) for factor in (-1.0, 0.0, 1.0) for name in ("Flood", "Scan")]
    path = save(flow_table(spec, flows), tmp_path / "flows.parquet")
    _, table = flow_profile(path, spec)
    row = table[(table["class"] == "Flood") & (table["feature"] == "pkts")].iloc[0]
    assert row["std"] == pytest.approx(huge * np.sqrt(2 / 3)) and row["mean"] == 0 and row["max"] == huge
    agreed = dataset_mismatch(path, spec)["agreements"]
    assert "z-scored, 3 decimals: distinct" in [item["what"] for item in agreed]


@pytest.mark.parametrize("marks", [(1.0, -1.0), (1.0, 1.0), (-1.0, -1.0)])
def test_the_largest_double_as_a_mark_of_no_value_has_quartiles_that_are_drawn(
    marks: tuple[float, float], tmp_path: Path
) -> None:
    spec, largest = made_spec(), float(np.finfo(np.float64).max)
    flows = [(mark * largest, 1.0, "Flood") for mark in marks] + [(float(i), 1.0, "Flood") for i in range(3)]
    _, table = flow_profile(save(flow_table(spec, [*flows, (1.0, 2.0, "Scan")]), tmp_path / "flows.parquet"), spec)
    statistics = table[["min", "p25", "median", "p75", "p95", "max", "mean", "std", "outlier_share"]]
    assert np.isfinite(statistics.to_numpy()).all() and (table["p25"] <= table["p75"]).all()
    assert figures_data.profile(table).startswith(b"\x89PNG")


def test_recovers_the_scale_of_published_packet_counts() -> None:
    counts = np.array([0, 1, 2, 3, 5, 8, 40])
    grid = recover_grid(np.round((counts - 1.1431) / 2.1119, 6), np.array([9, 500, 80, 7, 5, 2, 1.0]))
    assert grid is not None
    assert grid["std_in_steps"] == pytest.approx(2.1119, rel=1e-4)
    assert grid["mean_in_steps_if_minimum_is_0"] == pytest.approx(1.1431, rel=1e-4)
    assert recover_grid(np.random.default_rng(0).random(200), np.ones(200)) is None


def test_patterns_find_the_rule_and_measure_it_on_the_test_side(tmp_path: Path) -> None:
    spec = made_spec()
    frame = flow_table(spec, random_flows(3000, conflict=0.0))
    records = record_table(frame)
    report = attack_patterns(
        save(frame, tmp_path / "flows.parquet"), save(records, tmp_path / "records.parquet"), spec, seed=1
    )
    rule = report["classes"]["Flood"]["rules"][0]
    assert [item["feature"] for item in rule["conditions"]] == ["pkts"]
    assert 1.5 <= rule["conditions"][0]["low"] < 1.75
    assert rule["text"].startswith("pkts > 1.6 (raw > 8.4 packets)")
    assert rule["distinct"]["precision"] == 1.0 and rule["row"]["coverage"] == 1.0
    tested = records[records["side"] == "test"]
    assert rule["row"]["of_class"] == tested.loc[tested["label"] == "Flood", "rows"].sum()
    assert "## Flood" in report["guide"] and "precision 100.0 %" in report["guide"]
    json.dumps(report, allow_nan=False)


def test_patterns_of_a_class_missing_from_train(tmp_path: Path) -> None:
    spec = made_spec()
    frame = flow_table(spec, [f for f in random_flows(400) if f[2] != "Scan"])
    records = save(record_table(frame), tmp_path / "records.parquet")
    report = attack_patterns(save(frame, tmp_path / "flows.parquet"), records, spec, seed=1)
    assert report["classes"]["Scan"] == {"rules": [], "combined": None}
    assert "No rule" in report["guide"] and "Coverage 0.0 %." in report["guide"]


def test_a_rule_that_catches_nothing_is_said_to(tmp_path: Path) -> None:
    spec = made_spec()
    train = flow_table(spec, [(n / 8, 0.0, "Normal") for n in range(4)] + [(9 + n / 8, 0.0, "Flood") for n in range(4)])
    test = flow_table(spec, [(0.7, 0.0, "Normal"), (0.6, 0.0, "Flood")]).assign(row_id=[20, 21])
    records = pd.concat([record_table(train, ("train",)), record_table(test, ("test",))])
    flows = save(pd.concat([train, test]), tmp_path / "flows.parquet")
    report = attack_patterns(flows, save(records, tmp_path / "records.parquet"), spec, seed=1)
    caught = report["classes"]["Flood"]["combined"]["distinct"]
    assert caught == {"coverage": 0.0, "precision": None, "caught": 0.0, "of_class": 0.0}
    told = "coverage 0.0 %, precision not measurable, no test flow is caught"
    assert report["guide"].count(told) == len(report["classes"]["Flood"]["rules"]) + 1


def prior(facts: list[dict], tmp_path: Path) -> dict:
    spec = made_spec({"prior_rules": facts})
    frame = flow_table(spec, [(1.0, 1.0, "Normal"), (1.0, 2.0, "Normal"), (3.0, 1.0, "Flood"), (4.0, 1.0, "Scan")] * 3)
    train = record_table(frame, ("train",))
    # The same flows on both sides: scores can be read off the table.
    records = pd.concat([train, train.assign(side="test")])
    return attack_patterns(
        save(frame, tmp_path / "flows.parquet"), save(records, tmp_path / "records.parquet"), spec, 1
    )


def test_rules_of_prior_work_are_scored_like_ours(tmp_path: Path) -> None:
    box = {"source": "box", "classes": ["Flood"], "conditions": [{"feature": "pkts", "low": 2.0, "high": 9.0}]}
    stump = {"source": "stump", "classes": ["Flood", "Scan"], "stump": "pkts"}
    report = prior([box, stump], tmp_path)
    scored = report["prior_rules"]
    assert scored[0]["distinct"] == {"coverage": 1.0, "precision": 0.5, "caught": 2.0, "of_class": 1.0}
    assert scored[0]["row"] == {"coverage": 1.0, "precision": 0.5, "caught": 6.0, "of_class": 3.0}
    assert scored[1]["text"].startswith("pkts > 2 ")
    assert scored[1]["distinct"] == {"coverage": 1.0, "precision": 1.0, "caught": 2.0, "of_class": 2.0}
    assert "Rules of prior work" in report["guide"] and "Flood, Scan | stump | 100.0 % | 100.0 %" in report["guide"]


def test_a_rule_of_prior_work_on_an_unknown_feature_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prior_rules of data set made name bytes"):
        prior([{"source": "x", "classes": ["Flood"], "stump": "bytes"}], tmp_path)


def test_a_rule_is_told_with_the_digits_that_it_splits_by() -> None:
    spec = load_spec("rt_iot2022")
    name = spec.feature_names[0]
    low, high = short_threshold(np.array([1234567.0, 1234568.0]), 1234567.25), 0.5
    assert rule_text([Condition(name, low, None)], spec) == f"{name} > {low!r}"
    assert rule_text([Condition(name, high, low)], spec) == f"0.5 < {name} <= {low!r}"
    assert rule_text([Condition(name, None, 1e6)], spec) == f"{name} <= 1e+06"


def test_short_threshold_splits_alike() -> None:
    values = np.array([0.1, 0.123456, 0.124, 3.0])
    threshold = short_threshold(values, 0.1235)
    assert threshold == 0.124 or 0.123456 <= threshold < 0.124
    assert ((values <= threshold) == (values <= 0.1235)).all()


def test_samples_are_seeded_distinct_and_marked(tmp_path: Path) -> None:
    spec = made_spec()
    flows = [(float(i % 50), float(i % 3), "Flood" if i % 50 > 25 else "Normal") for i in range(300)]
    path = save(flow_table(spec, flows), tmp_path / "flows.parquet")
    summary, table = sample_comparison(path, spec, seed=3)
    again, same = sample_comparison(path, spec, seed=3)
    assert summary == again and table.equals(same)
    assert summary["marked"][0] == "pkts" and summary["separation"]["pkts"] > 0.5
    assert list(summary["rows"]) == ["Normal", "Flood"]
    row = table[(table["class"] == "Flood") & (table["feature"] == "pkts")].iloc[0]
    assert row["raw"] == row["value"] * 4 + 2 and row["printed"] == f"{row['value']:.3f}"
    assert table["row_id"].nunique() == 6


def test_raw_values_of_guessed_scales_are_told_of_simulated_rows_only(tmp_path: Path) -> None:
    spec = load_spec("farm_flow")
    rows = [tuple([float(i % 5 + n / 100) for n in range(29)]) for i in range(40)]
    frame = pd.DataFrame(rows, columns=spec.feature_names)
    frame.insert(0, "row_id", range(40))
    frame["label"] = [spec.classes[i % 2] for i in range(40)]
    frame["flow_group"] = [f"{i % 5}:{i % 2}" for i in range(40)]
    frame["occurrence"] = frame.groupby("flow_group").cumcount()
    path = save(frame, tmp_path / "flows.parquet")
    guessed = {feature.name for feature in spec.features if feature.known_scale is None}
    assert len(guessed) == 21
    for used, unknown in ((spec, guessed), (spec.of_simulated_rows(), set())):
        table = sample_comparison(path, used, seed=1)[1]
        assert set(table.loc[table["raw"].isna(), "feature"]) == unknown
        for name in spec.feature_names:
            assert ("raw" in rule_text([Condition(name, 0.0, None)], used)) == (name not in unknown), name
        profile = flow_profile(path, used)[0]["scales"]
        assert not [name for name in unknown if "raw_units_per_step" in profile[name]]
        compared = dataset_mismatch(path, used)
        told = {
            item["what"].split(" in ")[0].removeprefix("median of ")
            for key in ("findings", "agreements")
            for item in compared[key]
            if item["source"] == "raw_medians"
        }
        assert told == {"fwd_header_size_max", "flow_pkts_per_sec", "flow_iat.tot"} - unknown


@pytest.mark.parametrize(("source", "known"), [("simulate", True), ("farm.csv", False)])
def test_the_source_says_whether_guessed_scales_are_known(source: str, known: bool) -> None:
    step = SimpleNamespace(spec=load_spec("farm_flow"), settings=SimpleNamespace(data=SimpleNamespace(source=source)))
    scales = {feature.name: feature.known_scale for feature in told_spec(step).features}  # type: ignore[arg-type]
    assert scales["orig_pkts"] is not None and (scales["fwd_iat.tot"] is not None) == known


def test_a_table_that_cannot_have_the_claimed_accuracy_is_told_so(tmp_path: Path) -> None:
    spec = made_spec({"prior_work": {"baseline_accuracy": 0.8}})
    what = "row ceiling of the exact values: at least the accuracy claimed"
    for other, ceiling in ((1.0, 0.75), (2.0, 1.0)):
        flows = [(1.0, 1.0, "Normal"), (other, 1.0, "Flood"), (3.0, 1.0, "Scan"), (3.0, 1.0, "Scan")]
        report = dataset_mismatch(save(flow_table(spec, flows), tmp_path / "flows.parquet"), spec)
        (found,) = [item for key in ("findings", "agreements") for item in report[key] if item["what"] == what]
        assert found["found"] == ceiling and found["agrees"] == (ceiling >= 0.8)
