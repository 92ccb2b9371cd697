"""No group on two sides, nothing that depends on the order of rows, stages nested and stratified."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.flows.split import FRACTIONS, order_training, split_by_group, stage_rows

ROWS = st.lists(st.tuples(st.integers(0, 40), st.sampled_from("abc")), min_size=1, max_size=300)


def flows_table(path: Path, rows: list[tuple[int, str]]) -> Path:
    """flows.parquet without features: (group, label) pairs in order."""
    frame = pd.DataFrame(
        {"flow_group": [f"g{group}" for group, _ in rows], "label": [label for _, label in rows]}
    )
    frame.insert(0, "row_id", range(len(frame)))
    frame.to_parquet(path)
    return path


@settings(max_examples=25, deadline=None)
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
                folder / "moved.parquet",
                folder / "moved_records.parquet",
                folder / "moved_order.parquet",
                7,
                order,
            )
            pd.testing.assert_frame_equal(
                found.drop(columns="row_id"),
                pd.read_parquet(folder / "moved_order.parquet").drop(columns="row_id"),
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


def test_sides_have_their_shares_and_large_groups_stay_in_train(tmp_path: Path) -> None:
    rows = [(group, "abc"[group % 3]) for group in range(3000)] + [(0, "a")] * 5000
    report = split_by_group(flows_table(tmp_path / "f", rows), tmp_path / "r")
    assert report.groups == {"train": 2400, "validation": 150, "calibration": 150, "test": 300} or all(
        abs(report.groups[side] - 3000 * share) <= 4 for side, share in FRACTIONS.items()
    )
    assert all(abs(report.groups_by_class["test"][label] - 100) <= 1 for label in "abc")
    records = pd.read_parquet(tmp_path / "r")
    assert records[records.flow_group == "g0"].side.tolist() == ["train"]
    assert report.strata_train_only == 1


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
