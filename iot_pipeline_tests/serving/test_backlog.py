"""Growing logs that come faster than their lines are answered: rotated again meanwhile, or one ahead of the other."""

from __future__ import annotations

import gzip
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from iot_pipeline.serving import lines, streams, tail
from iot_pipeline.serving.prepared import MOST_NOTES, Losses, Reading, rows_of
from iot_pipeline.serving.tail import Tail
from iot_pipeline_tests.flows.reading.zeek_logs import logs_of, tsv
from iot_pipeline_tests.serving.factories import csv_rows
from iot_pipeline_tests.serving.test_streams import SPEC, all_lines, follow, rotate_by_copy, rotate_by_name


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "LINGER_S", 0.05)
    monkeypatch.setattr(streams, "POLL_S", 0.01)


@pytest.mark.parametrize("rotate", [rotate_by_name, rotate_by_copy])
@pytest.mark.parametrize("looks", [False, True])
def test_a_log_that_is_rotated_twice_while_its_lines_are_answered_is_read_whole(
    tmp_path: Path, rotate: Callable[[Path], None], looks: bool
) -> None:
    path, notes = tmp_path / "x.log", list[str]()
    path.write_bytes(b"one 1\ntwo 2\n")
    reader = Tail(path, None, notes.append)
    found = reader.read(6)  # of a long file there is more, which it holds at the next look
    for text in (b"three 3\n", b"four 4\nfive 5\n", b"six 6\nseven 7\n"):
        with path.open("ab") as handle:
            handle.write(text)
        time.sleep(0.02)
        for number in (3, 2, 1):
            if (older := tmp_path / f"x.log.{number}").exists():
                older.rename(tmp_path / f"x.log.{number + 1}")
        rotate(path)
        if looks:
            found += reader.read(1)
    with path.open("ab") as handle:
        handle.write(b"eight 8\n")
    found += all_lines(reader, 8 - len(found), seconds=2)
    assert found == [b"one 1", b"two 2", b"three 3", b"four 4", b"five 5", b"six 6", b"seven 7", b"eight 8"]
    assert notes == []


def test_a_log_of_which_the_header_alone_was_read_is_told_from_one_with_the_same_header(tmp_path: Path) -> None:
    path, notes = tmp_path / "x.log", list[str]()
    path.write_bytes(b"a,b\n")
    reader = Tail(path, None, notes.append)
    assert reader.read(1 << 20) == [b"a,b"]
    with path.open("ab") as handle:
        handle.write(b"1,2\n")
    rotate_by_name(path)
    time.sleep(0.02)
    path.write_bytes(b"a,b\n3,4\n")
    later = Tail(path, reader.position(), notes.append)
    assert all_lines(later, 3, seconds=2) == [b"1,2", b"a,b", b"3,4"] and notes == []


def test_a_log_that_was_packed_before_it_was_seen_is_told(tmp_path: Path) -> None:
    path, notes = tmp_path / "x.log", list[str]()
    path.write_bytes(b"one 1\ntwo 2\n")
    reader = Tail(path, None, notes.append)
    found = reader.read(6)
    path.rename(tmp_path / "x.log.2")
    time.sleep(0.02)
    (tmp_path / "x.log.1.gz").write_bytes(gzip.compress(b"three 3\n"))
    path.write_bytes(b"four 4\n")
    assert [*found, *all_lines(reader, 2, seconds=2)] == [b"one 1", b"two 2", b"four 4"]
    assert notes == ["x.log.1.gz is packed: if it was rotated before it was read, its lines are missing"]


def test_a_log_that_is_copied_and_truncated_again_while_its_copy_is_read_comes_once(tmp_path: Path) -> None:
    path, notes = tmp_path / "x.log", list[str]()
    path.write_bytes(b"one 1\ntwo 2\n")
    reader = Tail(path, None, notes.append)
    found = reader.read(6)
    for number, text in ((2, b"three 3\n"), (1, b"four 4\n")):
        shutil.copy(path, tmp_path / f"x.log.{number}")
        path.write_bytes(text)
        found += reader.read(1)  # the first time of the copy, with the log open behind it
        time.sleep(0.02)
    assert [*found, *all_lines(reader, 3, seconds=2)] == [b"one 1", b"two 2", b"three 3", b"four 4"]
    assert notes == []


def test_what_was_rotated_while_older_files_are_read_is_read_after_them(tmp_path: Path) -> None:
    path, notes = tmp_path / "x.log", list[str]()
    path.write_bytes(b"one 1\n")
    place = None
    for number, text in enumerate((b"one 1\ntwo 2\n", b"three 3\n", b"four 4\n")):
        path.write_bytes(text)
        if number == 0:
            reader = Tail(path, None, notes.append)
            assert reader.read(6) == [b"one 1"]
            place = reader.position()
        time.sleep(0.02)
        path.rename(tmp_path / f"x.log.{3 - number}")
    reader = Tail(path, place, notes.append)  # x.log.3, and then .2 and .1
    for number in (3, 2, 1):
        (tmp_path / f"x.log.{number}").rename(tmp_path / f"x.log.{number + 1}")
    (tmp_path / "x.log.1").write_bytes(b"five 5\n")
    path.write_bytes(b"six 6\n")
    assert all_lines(reader, 5, seconds=2) == [b"two 2", b"three 3", b"four 4", b"five 5", b"six 6"]
    assert notes == []


def test_other_files_beside_a_log_are_not_read_after_its_rotation(tmp_path: Path) -> None:
    path, notes = tmp_path / "x.log", list[str]()
    path.write_bytes(b"one 1\ntwo 2\n")
    reader = Tail(path, None, notes.append, [tmp_path / "x.log.2026.events"])
    found, place = reader.read(6), reader.position()
    rotate_by_name(path)
    time.sleep(0.02)
    for name in ("x.log.offset", "x.log.2026.events", "x.log"):
        (tmp_path / name).write_bytes(b"six 6\n")
    for one in (reader, Tail(path, place, notes.append, [tmp_path / "x.log.2026.events"])):
        assert [*found, *all_lines(one, 3, seconds=0.5)] == [b"one 1", b"two 2", b"six 6"]
    assert notes == []


@pytest.mark.parametrize("wait_s", [0.0, 30.0])
def test_a_log_that_is_read_faster_than_the_other_one_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_s: float
) -> None:
    for module in (tail, streams):
        monkeypatch.setattr(module, "CHUNK", 10_000)
    monkeypatch.setattr(lines, "MOST_WAITING", 300)
    monkeypatch.setattr(streams, "AHEAD", 100)
    conn, meter = logs_of(SPEC, 1_200, 3)
    (tmp_path / "conn.log").write_text(tsv("conn", conn))
    (tmp_path / "flowmeter.log").write_text(tsv("flowmeter", meter))
    losses, paths = Losses(), [tmp_path / "conn.log", tmp_path / "flowmeter.log"]
    assert len(list(follow(paths, 1_200, losses, wait_s, seconds=8))) == 1_200 and not losses.rows


def test_long_lines_that_wait_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_WAITING_CHARACTERS", 1_000)
    losses = Losses()
    joiner = lines.Joiner(30.0, losses, "skip")
    given = [lines.Line("conn.log", "conn", "", f"{number}" + "x" * 399) for number in range(5)]
    assert all(joiner.add(line, f"C{number}") == [] for number, line in enumerate(given))
    assert [uid for uid, *_ in joiner.state()] == ["C3", "C4"] and joiner.kinds["conn"] == 2
    assert losses.rows == {"too many lines wait for the other log": 3}
    other = lines.Line("flowmeter.log", "flowmeter", "", "y")
    assert joiner.add(other, "C4") == [given[4], other] and joiner.add(given[0], "C5") == []
    assert [uid for uid, *_ in joiner.state()] == ["C3", "C5"]


def test_a_log_of_which_much_has_no_counterpart_does_not_stop_the_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (tail, streams):
        monkeypatch.setattr(module, "CHUNK", 10_000)
    monkeypatch.setattr(streams, "AHEAD", 100)
    conn, meter = logs_of(SPEC, 800, 3)
    (tmp_path / "conn.log").write_text(tsv("conn", conn[:600]))
    (tmp_path / "flowmeter.log").write_text(tsv("flowmeter", meter[300:]))
    losses, paths = Losses(), [tmp_path / "conn.log", tmp_path / "flowmeter.log"]
    assert len(list(follow(paths, 301, losses, wait_s=0.3, seconds=3))) == 300
    assert losses.rows == {"no line in flowmeter.log": 300, "no line in conn.log": 200}


def test_following_does_not_stop_for_idleness_before_a_rotated_log_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "LINGER_S", 0.5)
    path, losses, rows = tmp_path / "x.csv", Losses(), list[str]()
    header, *text = csv_rows(6, 6).splitlines(keepends=True)
    path.write_text(header + "".join(text[:3]))
    source = streams.Streams(Reading(SPEC, frozenset()), streams.tails({"x.csv": path}, {}, losses), losses, 30, {})
    for table in source.tables(lambda: False, 0.05):
        rows += [row.flow["uid"] for row in rows_of(table)]
        if len(rows) == 3:
            rotate_by_name(path)
            path.write_text(header + "".join(text[3:]))
    source.close()
    assert rows == [f"C{number:06d}" for number in range(6)]


def test_events_of_two_streams_have_different_names(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(csv_rows(3, 3))
    first, second = ({row.uid for row in follow([tmp_path / "x.csv"], 3, Losses())} for _ in range(2))
    assert len(first | second) == 6


def test_what_is_told_of_a_stream_is_bounded() -> None:
    losses = Losses()
    for number in range(1_000):
        losses.add(f"a line with {number}", "x.log")
    losses.note([f"such as {number}" for number in range(60)], MOST_NOTES)
    losses.note(["lines are missing"])  # of a log: told however many there are
    assert sum(losses.rows.values()) == 1_000 and len(losses.rows) == 201
    assert len(losses.notes) == 51 and losses.notes[-1] == "lines are missing"
