"""Growing logs: no line is lost or comes twice, through both kinds of rotation, halves of lines, and restarts."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.flows.spec import load_spec
from iot_pipeline.serving import streams, tail
from iot_pipeline.serving.lines import Header
from iot_pipeline.serving.prepared import Losses, Reading, rows_of
from iot_pipeline.serving.streams import Streams, tails
from iot_pipeline.serving.tail import Tail
from iot_pipeline_tests.flows.reading.zeek_logs import json_log, logs_of, tsv

SPEC = load_spec("farm_flow")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "LINGER_S", 0.05)
    monkeypatch.setattr(streams, "POLL_S", 0.01)


def all_lines(reader: Tail, wanted: int, seconds: float = 10.0) -> list[bytes]:
    found: list[bytes] = []
    until = time.monotonic() + seconds
    while len(found) < wanted and time.monotonic() < until:
        found += reader.read(1 << 20)
    return found


def rotate_by_name(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}.1"))


def rotate_by_copy(path: Path) -> None:
    shutil.copy(path, path.with_name(f"{path.name}.1"))
    with path.open("r+b") as handle:
        handle.truncate(0)


@pytest.mark.parametrize("rotate", [rotate_by_name, rotate_by_copy])
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_every_line_comes_once_wherever_it_is_cut_and_read(
    tmp_path_factory: pytest.TempPathFactory, rotate: Callable[[Path], None], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("tail")
    path, notes = folder / "x.log", []
    written = [f"{number} {'x' * (number % 50)}".encode() for number in range(60)]
    text = b"".join(line + b"\n" for line in written)
    cuts = sorted(data.draw(st.lists(st.integers(1, len(text) - 1), min_size=2, max_size=5, unique=True)))
    turn = text.index(b"\n", cuts[len(cuts) // 2] - 1) + 1  # rotation comes between lines
    reader, found = Tail(path, None, notes.append), []
    at = 0
    for cut in sorted({*cuts, turn, len(text)}):
        with path.open("ab") as handle:
            handle.write(text[at:cut])
        if at == 0 or data.draw(st.booleans()):  # it looks at least once before the rotation
            found += reader.read(data.draw(st.sampled_from([7, 1 << 20])))
        if data.draw(st.booleans()):  # a restart
            reader = Tail(path, reader.position(), notes.append)
        if cut == turn:
            rotate(path)
        at = cut
    found += all_lines(reader, len(written) - len(found))
    assert found == written and notes == []


def test_lines_between_restarts_are_read_from_files_rotated_meanwhile(tmp_path: Path) -> None:
    path, notes = tmp_path / "x.log", []
    path.write_bytes(b"one 1\ntwo 2\n")
    reader = Tail(path, None, notes.append)
    assert reader.read(1 << 20) == [b"one 1", b"two 2"]
    place = reader.position()
    for number, lines in enumerate((b"three 3\n", b"four 4\nfive 5\n", b"six 6\n")):
        with path.open("ab") as handle:
            handle.write(lines)
        if number < 2:
            path.rename(tmp_path / f"x.{number}.log")
            time.sleep(0.02)
    assert all_lines(Tail(path, place, notes.append), 4) == [b"three 3", b"four 4", b"five 5", b"six 6"]
    assert notes == []


@pytest.mark.parametrize("begun", [b"", b"#sep"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_log_of_which_no_whole_line_was_read_is_found_again(begun: bytes, packed: bool, tmp_path: Path) -> None:
    path, notes = tmp_path / "x.log", list[str]()
    path.write_bytes(begun)
    reader = Tail(path, None, notes.append)
    assert reader.read(1 << 20) == []
    with path.open("ab") as handle:
        handle.write(b"#separator"[len(begun) :] + b"\none 1\n")
    old = path.rename(tmp_path / "x.log.1")
    time.sleep(0.02)
    path.write_bytes(b"#separator\ntwo 2\n")
    if packed:
        (tmp_path / "x.log.1.gz").write_bytes(gzip.compress(old.read_bytes()))
        old.unlink()
    found, whole = all_lines(Tail(path, reader.position(), notes.append), 2), [b"#separator", b"one 1"]
    if packed and not begun:  # it could be any file
        assert found == [b"#separator", b"two 2"] and "missing" in notes[0]
    else:
        assert found[:2] == whole and notes == []


def test_a_log_that_vanished_is_told(tmp_path: Path) -> None:
    path, notes = tmp_path / "x.log", []
    path.write_bytes(b"one 1\n")
    reader = Tail(path, None, notes.append)
    reader.read(1 << 20)
    path.write_bytes(b"another one, and longer\n")
    assert all_lines(Tail(path, reader.position(), notes.append), 1) == [b"another one, and longer"]
    assert len(notes) == 1 and "lines that came in between are missing" in notes[0]


def test_a_copy_that_is_packed_once_it_is_found_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, notes, holds = tmp_path / "x.log", list[str](), tail.holds

    def packed(file: Path, mark: bytes, offset: int) -> bool | None:
        found = holds(file, mark, offset)
        if found and file != path:
            file.unlink()
        return found

    path.write_bytes(b"one 1\ntwo 2\n")
    reader = Tail(path, None, notes.append)
    assert reader.read(1 << 20) == [b"one 1", b"two 2"]
    rotate_by_copy(path)
    path.write_bytes(b"three 3\n")
    monkeypatch.setattr(tail, "holds", packed)
    assert all_lines(reader, 1) == [b"three 3"] and "no copy is beside it" in notes[0]


def test_a_packed_log_is_read_once_and_then_what_replaces_it(tmp_path: Path) -> None:
    path, notes = tmp_path / "x.log.gz", list[str]()
    path.write_bytes(gzip.compress(b"one 1\ntwo 2\n"))
    reader = Tail(path, None, notes.append)
    assert all_lines(reader, 3, seconds=0.5) == [b"one 1", b"two 2"]
    (tmp_path / "new").write_bytes(gzip.compress(b"three 3\n"))
    (tmp_path / "new").replace(path)
    assert all_lines(reader, 2, seconds=0.5) == [b"three 3"] and notes == []


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: data[:-40] + b"\0" * 40])
def test_a_packed_log_that_is_damaged_is_told_and_its_last_half_line_is_none(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path, notes = tmp_path / "x.log", list[str]()
    path.write_bytes(b"one 1\n")
    reader = Tail(path, None, notes.append)
    assert reader.read(1 << 20) == [b"one 1"]
    place = reader.position()
    lines = [random.Random(number).randbytes(20).hex().encode() for number in range(50)]
    whole = b"one 1\n" + b"".join(line + b"\n" for line in lines)
    (tmp_path / "x.log.1.gz").write_bytes(damage(gzip.compress(whole)))
    path.write_bytes(b"last 2\n")
    found = all_lines(Tail(path, place, notes.append), 51, seconds=1)
    assert found[-1] == b"last 2" and found[:-1] == lines[: len(found) - 1] and len(found) < 51
    assert len(set(notes)) == 1 and "x.log.1.gz is damaged" in notes[0]


def test_a_damaged_file_beside_a_log_does_not_hide_where_it_was_read(tmp_path: Path) -> None:
    path, notes = tmp_path / "x.log", list[str]()
    path.write_bytes(b"one 1\n")
    reader = Tail(path, None, notes.append)
    assert reader.read(1 << 20) == [b"one 1"]
    (tmp_path / "x.log.1").write_bytes(b"one 1\ntwo 2\n")
    damaged = gzip.compress(b"an older line\n" * 50)
    (tmp_path / "x.log.2.gz").write_bytes(damaged[:10] + b"\xff" * 40)  # the unpacking of which fails at once
    path.write_bytes(b"three 3\n")
    assert all_lines(Tail(path, reader.position(), notes.append), 2, seconds=1)[:1] == [b"two 2"]


def test_a_log_that_is_being_packed_is_read_once(tmp_path: Path) -> None:
    path, notes = tmp_path / "x.log", list[str]()
    path.write_bytes(b"one 1\n")
    reader = Tail(path, None, notes.append)
    assert reader.read(1 << 20) == [b"one 1"]
    for name, lines in (("x.log.2", b"one 1\ntwo 2\n"), ("x.log.1", b"three 3\n"), ("x.log", b"four 4\n")):
        (tmp_path / name).write_bytes(lines)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(lines)[:-9]) if name != "x.log" else None
        time.sleep(0.02)
    found = all_lines(Tail(path, reader.position(), notes.append), 4, seconds=1)
    assert found == [b"two 2", b"three 3", b"four 4"] and notes == []


def follow(
    paths: list[Path], wanted: int, losses: Losses, wait_s: float = 30.0, seconds: float = 120.0, restart: bool = False
) -> Iterator[Any]:
    """The rows of streams, until there are `wanted`; with `restart`, each table is read by a new reader."""
    reading, position, seen = Reading(SPEC, frozenset(), skip_invalid=True), dict[str, Any](), 0
    until = time.monotonic() + seconds
    named = {str(path): path for path in paths}
    while seen < wanted and time.monotonic() < until:
        source = Streams(reading, tails(named, position, losses), losses, wait_s, position)
        for table in source.tables(lambda: time.monotonic() > until, None):
            seen += len(table)
            yield from rows_of(table)
            position = json.loads(json.dumps(source.position()))
            if restart or seen >= wanted:
                break
        source.close()


def interleaved(
    folder: Path,
    lines: int,
    form: Callable[[str, list[Any]], str],
    rotate: Callable[[Path], None],
    followed: threading.Event,
) -> None:
    """Write conn.log and flowmeter.log piece by piece, the second in another order, and rotate both in the middle.

    Rotation waits until they are `followed`: of a log that was rotated before, only the new file would be read.
    """
    conn, meter = logs_of(SPEC, lines, 3)
    for line in conn:
        line.pop("traffic")
    order, chance = random.Random(1), random.Random(2)
    # Zeek closes connections in another order than it writes flows: mix within 50 lines.
    mixed = sorted(range(lines), key=lambda place: (place // 50, order.random()))
    meter = [meter[place] for place in mixed]
    half = lines // 2
    for begin, end in ((0, half), (half, lines)):
        texts = [form("conn", conn[begin:end]).encode(), form("flowmeter", meter[begin:end]).encode()]
        files = [folder / "conn.log", folder / "flowmeter.log"]
        at = [0, 0]
        while at != [len(text) for text in texts]:
            which = chance.randrange(2)
            size = chance.randrange(1, 200_000)
            with files[which].open("ab") as handle:
                handle.write(texts[which][at[which] : at[which] + size])
            at[which] = min(len(texts[which]), at[which] + size)
            time.sleep(0.002)
        if begin == 0:
            followed.wait(60)
            for path in files:
                rotate(path)


@pytest.mark.parametrize(
    ("form", "rotate", "lines"),
    [(tsv, rotate_by_name, 10_000), (lambda _, lines: json_log(lines), rotate_by_copy, 1_000)],
    ids=["tsv, renamed", "json, copied"],
)
def test_a_zeek_log_with_a_rotation_in_its_middle_gives_each_connection_once(
    tmp_path: Path, form: Any, rotate: Any, lines: int
) -> None:
    followed, rows = threading.Event(), list[Any]()
    writer = threading.Thread(target=interleaved, args=(tmp_path, lines, form, rotate, followed))
    losses = Losses()
    writer.start()
    paths = [tmp_path / "conn.log", tmp_path / "flowmeter.log"]
    for row in follow(paths, lines, losses, restart=lines == 1_000):
        followed.set()
        rows.append(row)
    writer.join()
    wanted = {line["uid"] for line in logs_of(SPEC, lines, 3)[0]}
    assert len(rows) == lines and {row.flow["uid"] for row in rows} == wanted
    assert len({row.uid for row in rows}) == lines
    assert not losses.rows
    assert {row.time_of for row in rows} == {"flow"}


def test_a_followed_log_gives_the_flows_of_the_file(tmp_path: Path) -> None:
    from iot_pipeline.flows.unlabelled import read_unlabelled

    conn, meter = logs_of(SPEC, 300, 3)
    (tmp_path / "conn.log").write_text(tsv("conn", conn))
    (tmp_path / "flowmeter.log").write_text(tsv("flowmeter", meter[::-1]))
    table = read_unlabelled(SPEC, f"{tmp_path}/conn.log,{tmp_path}/flowmeter.log")
    wanted = dict(zip((line["uid"] for line in conn), table["flow_group"], strict=True))
    rows = follow([tmp_path / "conn.log", tmp_path / "flowmeter.log"], 300, Losses())
    assert {row.flow["uid"]: row.flow_group for row in rows} == wanted


@pytest.mark.parametrize("name", ["x.csv.gz", "x.zip", "x"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_followed_log_may_be_packed_and_have_any_name(tmp_path: Path, name: str, packed: bool) -> None:
    from iot_pipeline_tests.serving.factories import csv_rows

    text, losses = csv_rows(12, 12).encode(), Losses()
    (tmp_path / name).write_bytes(gzip.compress(text) if packed else text)
    rows = list(follow([tmp_path / name], 12, losses, seconds=20))
    assert [row.flow["uid"] for row in rows] == [f"C{n:06d}" for n in range(12)] and not losses.rows


def test_a_line_without_its_counterpart_is_counted(tmp_path: Path) -> None:
    conn, meter = logs_of(SPEC, 40, 3)
    (tmp_path / "conn.log").write_text(tsv("conn", conn[:30]))
    (tmp_path / "flowmeter.log").write_text(tsv("flowmeter", meter[10:]))
    losses = Losses()
    paths = [tmp_path / "conn.log", tmp_path / "flowmeter.log"]
    assert len(list(follow(paths, 21, losses, wait_s=0.3, seconds=3))) == 20
    assert losses.rows == {"no line in flowmeter.log": 10, "no line in conn.log": 10}


def test_one_bad_line_is_left_out_of_a_stream_and_counted(tmp_path: Path) -> None:
    from iot_pipeline_tests.serving.factories import csv_rows

    lines = csv_rows(20, 20).splitlines()
    lines[4] += '"'
    lines[8] = "a,b"
    lines[12] = lines[12].rsplit(",", 1)[0] + ",x"
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    losses = Losses()
    rows = list(follow([tmp_path / "x.csv"], 18, losses, seconds=4))
    assert [row.flow["uid"] for row in rows] == [f"C{n:06d}" for n in range(20) if n not in (3, 7, 11)]
    assert sum(losses.rows.values()) == 3 and losses.rows["too few columns"] == 1


@pytest.mark.parametrize("uid", ["[1]", "{}", "null", "true", '"-"', '""'])
def test_a_line_whose_uid_is_none_is_counted(tmp_path: Path, uid: str) -> None:
    conn, meter = logs_of(SPEC, 7, 3)
    (tmp_path / "conn.log").write_text(json_log(conn))
    (tmp_path / "flowmeter.log").write_text(f'{{"uid": {uid}, "flow_duration": 1.0}}\n' + json_log(meter))
    losses = Losses()
    rows = list(follow([tmp_path / "conn.log", tmp_path / "flowmeter.log"], 7, losses))
    assert len(rows) == 7 and losses.rows["no uid"] == 1


def test_a_header_is_read_of_each_form() -> None:
    zeek, needed = Header("conn.log"), ["a"]
    for line in ("#separator \\x09", "#path\tconn", "#fields\tts\tuid\ta", "#types\ttime\tstring\tcount"):
        assert zeek.take(line, needed) is None
    line = zeek.take("1\tC1\t5", needed)
    assert line is not None and line.kind == "conn" and zeek.uid_of(line) == "C1"
    assert zeek.take("#close\tx", needed) is None and "#close" not in zeek.lines
    table = Header("x.csv")
    assert table.take('"a",b', needed) is None and table.take("1,2", needed) is not None
    bare = Header("x.csv")
    assert bare.take("1,2", needed, ["a", "b"]) is not None


def test_a_pipe_without_line_ends_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_LINE", 1_000)
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as handle:
        handle.write(b"x" * 2_500)
    pipe, found = streams.Pipe(reading), list[bytes]()
    while not pipe.ended:
        found += pipe.read(400)
    os.close(reading)
    found += pipe.close()
    assert [len(line) for line in found] == [1_200, 1_200, 100]
