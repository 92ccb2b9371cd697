"""Rows of the training order with their features."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.dataset import training_rows


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Flows and order in row groups of two: their dictionaries differ."""
    flows = {
        "row_id": [3, 1, 2, 0, 9],
        "flow_group": ["c", "a", "b", "a", "z"],
        "label": ["x", "x", "y", "x", "y"],
        "occurrence": [0, 1, 0, 0, 0],
        "dur": [0.3, 0.1, None, 0.0, 0.9],
        "pkts": [30, 10, 20, 0, 90],
    }
    order = {
        "position": [0, 1, 2, 3],
        "row_id": [2, 3, 0, 1],
        "flow_group": ["b", "c", "a", "a"],
        "label": ["y", "x", "x", "x"],
        "repeat": pa.array([0, 0, 0, 1], pa.int32()),
    }
    pq.write_table(pa.table(flows), tmp_path / "flows.parquet", row_group_size=2)
    pq.write_table(pa.table(order), tmp_path / "order.parquet", row_group_size=2)
    return tmp_path / "flows.parquet", tmp_path / "order.parquet"


def test_rows_come_in_order_with_their_features(files: tuple[Path, Path]) -> None:
    found = training_rows(*files, 0, 3)
    assert list(found) == ["position", "row_id", "flow_group", "label", "repeat", "dur", "pkts"]
    assert found.drop(columns="dur").to_numpy().tolist() == [
        [0, 2, "b", "y", 0, 20],
        [1, 3, "c", "x", 0, 30],
        [2, 0, "a", "x", 0, 0],
    ]
    pd.testing.assert_series_equal(found["dur"], pd.Series([None, 0.3, 0.0], name="dur", dtype="float64"))
    assert training_rows(*files, 2, 9)["repeat"].tolist() == [0, 1]
    empty = training_rows(*files, 4, 9)
    assert len(empty) == 0 and list(empty) == list(found)


def test_a_row_that_the_flows_lack_is_an_error(files: tuple[Path, Path]) -> None:
    flows, order = files
    pq.write_table(pq.read_table(flows).slice(0, 3), flows)
    with pytest.raises(UserError, match=r"order\.parquet names rows that .*flows\.parquet lacks"):
        training_rows(flows, order, 0, 4)
