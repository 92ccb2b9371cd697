"""Ordered joins: rows come in the query's order with the right rows of every file, however few are held at once."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iot_pipeline.flows import ordered_join as joining
from iot_pipeline.flows.ordered_join import numbered, ordered_join
from iot_pipeline.flows.sql import scan


@pytest.mark.parametrize(("window", "files"), [(10_000, 500), (7, 500), (7, 3)])
@pytest.mark.parametrize("rows", [0, 1, 200])
def test_each_row_gets_its_partner_or_nulls(
    rows: int, window: int, files: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(joining, "WINDOW", window)
    monkeypatch.setattr(joining, "MOST_FILES", files)
    random = np.random.default_rng(1)
    left, texts, marks = (tmp_path / f"{name}.parquet" for name in ("left", "texts", "marks"))
    keys = random.integers(0, 40, rows)
    pq.write_table(pa.table({"position": random.permutation(rows), "key": keys}), left, row_group_size=50)
    order = random.permutation(30)  # keys of 30 and more have no partner
    pq.write_table(pa.table({"key": order, "text": [f"text {key}" for key in order]}), texts, row_group_size=4)
    pq.write_table(pa.table({"mark": [[str(key)] for key in range(40)], "key": range(40)}), marks)
    query = f"""
        SELECT position, l.key, texts.place AS texts, marks.place AS marks FROM {scan(left)} l
        LEFT JOIN {numbered(texts, "key")} texts USING (key) JOIN {numbered(marks, "key")} marks USING (key)
        ORDER BY position"""
    found = []
    sources = {"texts": (texts, ["text"]), "marks": (marks, ["key", "mark"])}
    for batch, some_texts, some_marks in ordered_join(query, left, **sources):
        assert len(batch) <= window * (1 + rows // (window * files))
        columns = [batch["position"], batch["key"], some_texts["text"], some_marks["mark"], some_marks["key"]]
        found += zip(*(column.to_pylist() for column in columns), strict=True)
    by_position = dict(zip(*(pq.read_table(left)[name].to_pylist() for name in ("position", "key")), strict=True))
    assert found == [
        (at, by_position[at], f"text {by_position[at]}" if by_position[at] < 30 else None, [str(key)], key)
        for at, key in sorted(by_position.items())
    ]
