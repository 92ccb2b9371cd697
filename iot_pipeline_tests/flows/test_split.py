"""No group on two sides, nothing that depends on the order of rows, stages nested and stratified."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.serialise import group_id
from iot_pipeline.flows.split import (
    FRACTIONS,
    assign_class,
    order_training,
    rows_out_of_pool,
    split_by_group,
    stage_rows,
)
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline_tests.quality.factories import made_spec

ROWS = st.lists(st.tuples(st.integers(0, 40), st.sampled_from("abc")), min_size=1, max_size=300)


def flows_table(path: Path, rows: list[tuple[int, str]]) -> Path:
    """flows.parquet without features: (group, label) pairs in order."""
    frame = pd.DataFrame({"flow_group": [f"g{group}" for group, _ in rows], "label": [label for _, label in rows]})
    frame.insert(0, "row_id", range(len(frame)))
    frame["occurrence"] = frame.groupby("flow_group").cumcount()
    frame.to_parquet(path)
    return path


@settings(max_examples=10, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_split_and_order_hold_on_any_table(rows: list[tuple[int, str]], shuffler: object) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        flows = flows_table(folder / "flows.parquet", rows)
        report = split_by_group(flows, folder / "records.parquet", seed=7)
        records = pd.read_parquet(folder / "records.parquet")
        assert records.groupby("flow_group").side.nunique().max() == 1
        assert records.groupby("flow_group").row_id.nunique().max() == 1
        assert records.rows.sum() == len(rows) == sum(report.rows.values())
        assert (records.groupby("flow_group").rows.transform("sum") == records.group_rows).all()

        moved = list(rows)
        shuffler.shuffle(moved)  # type: ignore[attr-defined]
        split_by_group(flows_table(folder / "moved.parquet", moved), folder / "moved_records.parquet", seed=7)
        again = pd.read_parquet(folder / "moved_records.parquet")
        pd.testing.assert_frame_equal(records.drop(columns="row_id"), again.drop(columns="row_id"))

        for order in ("natural", "distinct_first"):
            order_training(flows, folder / "records.parquet", folder / "order.parquet", seed=7, order=order)
            found = pd.read_parquet(folder / "order.parquet")
            order_training(
                folder / "moved.parquet", folder / "moved_records.parquet", folder / "moved_order.parquet", 7, order
            )
            pd.testing.assert_frame_equal(
                found.drop(columns="row_id"), pd.read_parquet(folder / "moved_order.parquet").drop(columns="row_id")
            )
            train = set(records[records.side == "train"].flow_group)
            assert found.position.tolist() == list(range(report.rows["train"]))
            assert set(found.flow_group) == train
            assert found.row_id.is_unique
            assert (found.groupby(["flow_group", "label"]).cumcount() == found["repeat"]).all()
            if order == "distinct_first":
                assert (found["repeat"] > 0).is_monotonic_increasing
            else:
                # At every prefix each class has its share of the pool, to within one row.
                for label, total in found.label.value_counts().items():
                    share = (found.label == label).cumsum() - (found.position + 1) * total / len(found)
                    assert share.abs().max() <= 3


# 1.0 and its neighbours print alike, and so do the numbers around 0; 1e300 and 1e-300 are no errors.
VALUES = st.sampled_from([0.0, -0.0, 1e-300, -0.0004, 1.0, 1.0001, 0.9999, 1e300])


@settings(max_examples=6, deadline=None)
@given(
    st.lists(st.tuples(VALUES, VALUES, st.integers(0, 2)), min_size=1, max_size=60), st.randoms(use_true_random=False)
)
def test_the_row_that_stands_for_a_group_does_not_hang_on_the_order_of_the_source(
    rows: list[tuple[float, float, int]], shuffler: object
) -> None:
    spec = made_spec()
    features = spec.feature_names
    moved = list(rows)
    shuffler.shuffle(moved)  # type: ignore[attr-defined]
    seen: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    with TemporaryDirectory() as name:
        for number, table in enumerate((rows, moved)):
            folder = Path(name) / str(number)
            folder.mkdir()
            pd.DataFrame(table, columns=[*features, "kind"]).to_parquet(folder / "raw")
            build_flows(spec, folder / "raw", folder / "flows")
            split_by_group(folder / "flows", folder / "records", seed=7)
            order_training(folder / "flows", folder / "records", folder / "order", seed=7)
            flows = pd.read_parquet(folder / "flows").set_index("row_id")
            seen.append(
                (
                    flows.loc[pd.read_parquet(folder / "records").row_id, features].reset_index(drop=True) + 0.0,
                    flows.loc[pd.read_parquet(folder / "order").row_id, [*features, "flow_group"]].reset_index(
                        drop=True
                    ),
                )
            )
    pd.testing.assert_frame_equal(seen[0][0], seen[1][0], check_exact=True)
    pd.testing.assert_frame_equal(seen[0][1], seen[1][1], check_exact=True)


# (group sizes, label) of classes as adversarial as they come.
SIZES = st.lists(
    st.tuples(st.one_of(st.integers(1, 3), st.integers(10, 40), st.integers(500, 3000)), st.sampled_from("abc")),
    min_size=1, max_size=60,
)  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(SIZES)
def test_every_class_of_four_groups_is_on_every_side_and_train_keeps_its_half(groups: list[tuple[int, str]]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        rows = [(index, label) for index, (size, label) in enumerate(groups) for _ in range(size)]
        report = split_by_group(flows_table(folder / "f", rows), folder / "r", seed=3)
        for label in {label for _, label in groups}:
            sizes = [size for size, other in groups if other == label]
            held = {side: report.by_class[side].get(label) for side in FRACTIONS}
            assert sum(part["rows"] for part in held.values() if part) == sum(sizes)
            assert sum(part["share"] for part in held.values() if part) == pytest.approx(1)
            assert held["train"]
            if len(sizes) >= 4:
                assert all(held.values())
        assert set(report.row_ceiling.values()) == {1.0}


def test_sides_have_their_shares_of_rows_and_of_distinct_flows(tmp_path: Path) -> None:
    sizes = [300] * 40 + [20] * 200 + [1] * 4000
    rows = [(index, "a") for index, size in enumerate(sizes) for _ in range(size)]
    report = split_by_group(flows_table(tmp_path / "f", rows), tmp_path / "r")
    for side, share in FRACTIONS.items():
        assert report.groups[side] / len(sizes) == pytest.approx(share, abs=0.005)
        assert report.rows[side] / len(rows) == pytest.approx(share, abs=0.005)


def test_large_groups_make_good_what_a_giant_holds_in_train() -> None:
    # 600 of 1,000 rows are one group: the rest gives the evaluation sides their 20 % of all rows all the same.
    sides = assign_class([600] + [20] * 20, FRACTIONS)
    assert sides[0] == "train"
    assert Counter(sides) == {"train": 11, "test": 5, "validation": 3, "calibration": 2}


def test_a_giant_does_not_empty_the_train_pool_of_the_other_patterns() -> None:
    sides = assign_class([100_000] + [20] * 100, FRACTIONS)
    assert Counter(sides) == {"train": 51, "test": 25, "validation": 13, "calibration": 12}


def test_a_group_larger_than_a_sides_whole_share_is_not_on_it() -> None:
    # Of 10,000 rows validation's share is 500: the groups of 800 may be in test (1,000) but not there.
    sides = assign_class([800] * 5 + [1] * 6000, FRACTIONS)
    assert set(sides[:5]) <= {"train", "test"}
    assert assign_class([5, 1, 1], FRACTIONS) == ["train"] * 3
    assert assign_class([250] * 4, FRACTIONS) == ["train", "calibration", "validation", "test"]


def test_the_report_gives_the_row_ceiling_of_each_side_and_class(tmp_path: Path) -> None:
    rows = [(0, "a")] * 6 + [(0, "b")] * 2 + [(1, "b")] * 2
    report = split_by_group(flows_table(tmp_path / "f", rows), tmp_path / "r")
    assert report.row_ceiling == {"train": 0.8}
    assert report.by_class["train"] == {
        "a": {"rows": 6, "groups": 1, "share": 1.0, "row_ceiling": 1.0},
        "b": {"rows": 4, "groups": 1, "share": 1.0, "row_ceiling": 0.5},
    }


AWKWARD = (0.0, -0.0, 0.0004, -0.0004, 0.0006, 1.0, 1.0000001, 1e-300, -1e-300, 1e300, -1e300)
AWKWARD_ROWS = st.lists(
    st.tuples(st.sampled_from(AWKWARD), st.sampled_from(AWKWARD), st.sampled_from(["Normal", "Flood", "Scan"])),
    min_size=1, max_size=60,
)  # fmt: skip


@settings(max_examples=10, deadline=None)
@given(AWKWARD_ROWS)
@example([(0.0, -0.0, "Normal")] * 50)
@example([(0.0, 1e300, "Normal"), (-0.0, 1e300, "Flood")] * 20 + [(1e-300, 1.0, "Scan")])
def test_awkward_values_have_stable_groups_on_one_side_each(rows: list[tuple[float, float, str]]) -> None:
    spec = made_spec()
    with TemporaryDirectory() as name:
        folder = Path(name)
        pd.DataFrame(rows, columns=["pkts", "iat.avg", "kind"]).to_parquet(folder / "raw")
        build_flows(spec, folder / "raw", folder / "f")
        flows = pd.read_parquet(folder / "f")
        printed = [tuple(float(format(value, ".3f")) + 0.0 for value in row[:2]) for row in rows]
        assert flows.flow_group.tolist() == [
            group_id(FlowTextWriter(spec, "values").text(list(row[:2]))) for row in rows
        ]
        assert flows.flow_group.nunique() == len(set(printed))
        split_by_group(folder / "f", folder / "r")
        records = pd.read_parquet(folder / "r")
        assert records.groupby("flow_group").side.nunique().max() == 1
        assert set(records.flow_group) == set(flows.flow_group)
        assert records.rows.sum() == len(rows)


def test_another_seed_is_another_split(tmp_path: Path) -> None:
    flows = flows_table(tmp_path / "f", [(group, "a") for group in range(200)])
    sides = []
    for seed in (1, 2):
        split_by_group(flows, tmp_path / "r", seed=seed)
        sides.append(pd.read_parquet(tmp_path / "r").side.tolist())
    assert sides[0] != sides[1]


def test_stages() -> None:
    assert stage_rows("10K", 278_148) == (0, 10_000, 10_000)
    assert stage_rows("30K", 278_148) == (10_000, 30_000, 30_000)
    assert stage_rows("ALL", 278_148) == (150_000, 278_148, None)
    assert stage_rows("10K", 400) == (0, 400, 10_000)
    assert stage_rows("ALL", 400) == (400, 400, None)
    with pytest.raises(UserError, match="10K, 30K, 70K, 150K, ALL"):
        stage_rows("20K", 400)


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    flows = flows_table(tmp_path / "f", [(1, "a")])
    with pytest.raises(UserError, match="sum to 1"):
        split_by_group(flows, tmp_path / "r", fractions={"train": 0.5, "test": 0.5})
    split_by_group(flows, tmp_path / "r")
    with pytest.raises(UserError, match="natural, distinct_first"):
        order_training(flows, tmp_path / "r", tmp_path / "o", order="random")


def test_an_order_that_is_not_one_of_the_train_pool_is_told_by_what_is_wrong(tmp_path: Path) -> None:
    flows = flows_table(tmp_path / "flows.parquet", [(n % 12, "ab"[n % 2]) for n in range(120)])
    records, order = tmp_path / "records.parquet", tmp_path / "order.parquet"
    split_by_group(flows, records, seed=7)
    order_training(flows, records, order, seed=7)
    assert rows_out_of_pool(order, records) == {"of_other_sides": 0, "repeated": 0, "missing": 0}
    good = pd.read_parquet(order)
    tested = pd.read_parquet(records).query("side == 'test'").flow_group.iloc[0]
    bad = pd.concat([good.iloc[2:], good.iloc[[5]], good.iloc[[6]].assign(flow_group=tested, row_id=-1)])
    bad.to_parquet(order)
    assert rows_out_of_pool(order, records) == {"of_other_sides": 1, "repeated": 1, "missing": 2}
