"""Lines that are no rows: they are counted, and the first ones told, however many a file has."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import duckdb

from iot_pipeline.flows.reading.json_lines import broken_lines
from iot_pipeline.flows.reading.rejects import rejected_lines

MANY, SLOW = 20_000, 5_000
KEPT_BYTES = 1_000_000  # a record of each line takes 270 bytes


def peak_of(call: Callable[[], object]) -> int:
    """Return the most bytes that Python holds during a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_table_of_rejected_lines_is_counted_and_its_first_lines_are_told() -> None:
    with duckdb.connect() as connection:
        connection.execute(
            f"CREATE TABLE part_rejects AS SELECT {MANY} - range AS line, 'text' AS csv_line, CASE WHEN range = "
            f"{MANY - 8} THEN 'TOO MANY COLUMNS' ELSE 'MISSING COLUMNS' END AS error_type FROM range({MANY})"
        )
        connection.execute("INSERT INTO part_rejects SELECT * FROM part_rejects")  # a line may have several errors
        assert peak_of(lambda: rejected_lines(connection, "x.csv", "part")) < KEPT_BYTES
        lost = rejected_lines(connection, "x.csv", "part")
    assert lost.rows == {"too few columns": MANY - 1, "too many columns": 1} and lost.number == MANY
    assert [one["line"] for one in lost.examples] == [1, 2, 3, 4, 5]
    assert lost.first["too many columns"] == {"file": "x.csv", "line": 8, "reason": "too many columns"}
    assert lost.commonest() == f"most often: too few columns ({MANY - 1:,} lines), first in x.csv, line 1."


def test_lines_of_several_files_are_told_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1, "a": 2}\n{"b": 1, "b": 2}\n' + "{\n" * 2)
    lost = broken_lines("x.json", tmp_path / "x.json", 0, ["a"])
    (tmp_path / "y.json").write_text("{\n" * SLOW)
    assert peak_of(lambda: lost.include(broken_lines("y.json", tmp_path / "y.json", 0, []))) < KEPT_BYTES
    assert lost.number == SLOW + 4 and list(lost.rows) == [one["reason"] for one in lost.examples[:3]]
    told = [(one["file"], one["line"]) for one in lost.examples]
    assert told == [("x.json", 1), ("x.json", 2), ("x.json", 3), ("x.json", 4), ("y.json", 1)]
