"""Scales fitted on the train pool: no evaluation row has a say, no prompt stands on two sides."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.dataset import distinct_flows
from iot_pipeline.flows.scaling import fit_scaling, keep_prompts_apart, refuse_lost_sides
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.split import split_by_group, split_report
from iot_pipeline.flows.texts import FlowTextWriter, fit_ranks
from iot_pipeline_tests.quality.factories import made_spec

FEATURES = [{"name": name, "unit": "s", "meaning": "made"} for name in ("pkts", "iat.avg")]
SPEC = made_spec(features=FEATURES, scaling="train_pool")
Rows = list[tuple[float, float, int]]


def split(folder: Path, rows: Rows, spec: DatasetSpec = SPEC) -> tuple[Path, Path]:
    """flows.parquet and records.parquet of some rows."""
    pd.DataFrame(rows, columns=[*spec.feature_names, "kind"]).to_parquet(folder / "raw")
    build_flows(spec, folder / "raw", folder / "flows")
    split_by_group(folder / "flows", folder / "records", seed=7)
    return folder / "flows", folder / "records"


def shared_texts(spec: DatasetSpec, flows: Path, records: Path) -> int:
    """Count the texts on more than one side."""
    table = pd.read_parquet(flows).merge(pd.read_parquet(records)[["row_id", "side"]], on="row_id")
    sides = table["side"].groupby(np.array(FlowTextWriter(spec, "values").texts(table), object)).nunique()
    return int((sides > 1).sum())


# A far value makes a wide scale, under which the near ones read alike.
VALUES = st.one_of(st.sampled_from([0.0, -0.0, 1e-300, 0.001, 1e300, 5000.0]), st.floats(-10, 10))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES, st.integers(0, 2)), min_size=1, max_size=80))
def test_no_prompt_is_on_two_sides_and_no_row_is_lost(rows: Rows) -> None:
    with TemporaryDirectory() as name:
        flows, records = split(Path(name), rows)
        before = pd.read_parquet(records)
        fitted = fit_scaling(SPEC, flows, records)
        shared = shared_texts(fitted, flows, records)
        moved = keep_prompts_apart(fitted, flows, records)
        after = pd.read_parquet(records)
        assert shared_texts(fitted, flows, records) == 0
        assert (moved > 0) == (shared > 0)
        changed = before["side"] != after["side"]
        assert before.loc[changed, "flow_group"].nunique() == moved and set(after.loc[changed, "side"]) <= {"train"}
        pd.testing.assert_frame_equal(before.drop(columns="side"), after.drop(columns="side"))
        assert sum(split_report(records, seed=7).rows.values()) == len(rows)


def test_flows_that_a_wide_scale_makes_alike_go_to_the_train_side(tmp_path: Path) -> None:
    flows, records = split(tmp_path, [(float(n), 0.0, 0) for n in range(100)] + [(1e9, 0.0, 0)] * 20)
    assert set(pd.read_parquet(records)["side"]) == {"train", "validation", "calibration", "test"}
    fitted = fit_scaling(SPEC, flows, records)
    outside = int((pd.read_parquet(records)["side"] != "train").sum())
    before = split_report(records, seed=7)
    assert keep_prompts_apart(fitted, flows, records) == outside > 0
    assert set(pd.read_parquet(records)["side"]) == {"train"}
    refuse_lost_sides(before, before, 2)
    with pytest.raises(UserError, match=r"class Normal alike .* side has 0 of its distinct flows, 2 are"):
        refuse_lost_sides(before, split_report(records, seed=7), 2)


def test_scales_are_those_of_the_train_rows_alone(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    rows: Rows = [(round(a, 3), 4.0, n % 3) for n, a in enumerate(random.normal(9, 3, 400))]
    flows, records = split(tmp_path, rows)
    scales = fit_scaling(SPEC, flows, records).fitted_scales
    table = pd.read_parquet(flows)
    sides = pd.read_parquet(records).drop_duplicates("flow_group").set_index("flow_group")["side"]
    side = table["flow_group"].map(sides)
    train = table.loc[side == "train", "pkts"]
    assert (scales["pkts"].mean, scales["pkts"].std) == pytest.approx((train.mean(), train.std(ddof=0)), rel=1e-12)
    assert (scales["iat.avg"].mean, scales["iat.avg"].std, scales["iat.avg"].basis) == (4.0, 1.0, "fitted")
    table.loc[side != "train", "pkts"] *= 100
    table.to_parquet(flows)
    assert fit_scaling(SPEC, flows, records).fitted_scales == scales


def test_texts_and_ranks_show_scaled_values_the_same_for_all_rows_of_a_group(tmp_path: Path) -> None:
    rows: Rows = [(1.0, 0.0, 0), (1.0004, 0.0, 0), (3.0, 0.0, 1), (5.0, 0.0, 1)]
    pd.DataFrame(rows, columns=[*SPEC.feature_names, "kind"]).to_parquet(tmp_path / "raw")
    build_flows(SPEC, tmp_path / "raw", tmp_path / "flows")
    groups = pd.read_parquet(tmp_path / "flows")["flow_group"].unique()
    pd.DataFrame({"flow_group": groups, "side": "train", "row_id": [0, 2, 3]}).to_parquet(tmp_path / "records")
    fitted = fit_scaling(SPEC, tmp_path / "flows", tmp_path / "records")
    # Mean 2.5, deviation sqrt(2.75) of 1, 1, 3, 5.
    assert [FlowTextWriter(fitted, "values").text(row[:2]) for row in rows] == [
        "pkts: -0.905\niat.avg: 0.000", "pkts: -0.905\niat.avg: 0.000",
        "pkts: 0.302\niat.avg: 0.000", "pkts: 1.508\niat.avg: 0.000",
    ]  # fmt: skip
    ranks = fit_ranks(fitted, tmp_path / "flows", tmp_path / "records")
    assert ranks.values["pkts"] == [-0.905, 0.302, 1.508] and ranks.cumulative["pkts"] == [2, 3, 4]
    train = distinct_flows(tmp_path / "flows", tmp_path / "records", "train").sort_values("pkts")
    assert [text.split("\n")[0] for text in FlowTextWriter(fitted, "ranked", ranks).texts(train)] == [
        "pkts: -0.905 p25", "pkts: 0.302 p63", "pkts: 1.508 p88",
    ]  # fmt: skip


def test_a_written_scale_does_not_go_with_a_fitted_one() -> None:
    with pytest.raises(ValueError, match="feature pkts has a scale: with scaling train_pool it is fitted"):
        made_spec(scaling="train_pool")
