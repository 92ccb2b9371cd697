"""Standard input gives what the file gives, whatever its form, and a stream without a flow is an error."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from iot_pipeline.commands import classify as command
from iot_pipeline.commands import classify_run
from iot_pipeline.commands.classify_options import Options
from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.serving import streams
from iot_pipeline.serving.identity import identity, seconds_of
from iot_pipeline.serving.prepared import Losses, Reading, prepare, rows_of
from iot_pipeline.serving.streams import Pipe, Streams
from iot_pipeline.settings import load_settings
from iot_pipeline_tests.serving.factories import csv_rows
from iot_pipeline_tests.serving.test_classify import classify, events, student, table

assert student  # a fixture
SPEC = load_spec("farm_flow")
TEXT = csv_rows(30, 20)
HEAD, _, REST = TEXT.partition("\n")
NAMES, ROWS = HEAD.split(","), [line.split(",") for line in REST.splitlines()]


def lines(names: list[str], rows: list[list[str]]) -> str:
    """Names and rows as CSV."""
    return "".join(",".join(cells) + "\n" for cells in [names, *rows])


TURNED = [[*row[:7], *row[7:][::-1]] for row in [NAMES, *ROWS[10:]]]
FORMS: dict[str, str | bytes] = {
    "upper case": HEAD.upper() + "\n" + REST,
    "sep": "sep=;\n" + TEXT.replace(",", ";"),
    "quoted names": ", ".join(f'"{name}"' for name in NAMES) + "\n" + REST,
    "a delimiter at the end": TEXT.replace("\n", ",\n"),
    "columns in another order": lines(NAMES, ROWS[:10]) + lines(TURNED[0], TURNED[1:]),
    "the header again in another case": lines(NAMES, ROWS[:10]) + lines([n.upper() for n in NAMES], ROWS[10:]),
}


def groups_of_file(folder: Path, text: str) -> list[str]:
    """Flow groups of a file."""
    (folder / "x.csv").write_text(text)
    prepare(Reading(SPEC, frozenset()), str(folder / "x.csv"), folder / "out.parquet", lambda told: None)
    return list(pq.read_table(folder / "out.parquet")["flow_group"].to_pylist())


def groups_of_stdin(data: str | bytes, losses: Losses) -> list[str]:
    """Flow groups of standard input, eight lines at once."""
    reading, writing = os.pipe()
    raw = data if isinstance(data, bytes) else data.encode()
    writer = threading.Thread(target=lambda: (os.write(writing, raw), os.close(writing)))
    writer.start()
    stream = Streams(Reading(SPEC, frozenset(), "auto", True), {"stdin": Pipe(reading)}, losses, 0, {}, 8)
    try:
        tables = [*stream.tables(lambda: False, None), *stream.rest()]
    finally:
        writer.join()
        stream.close()
    return [group for one in tables for group in one["flow_group"].to_pylist()]


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_gives_the_flows_of_the_plain_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(streams, "POLL_S", 0.01)
    losses = Losses()
    assert groups_of_stdin(FORMS[form], losses) == groups_of_file(tmp_path, TEXT)
    assert not losses.rows


def test_a_log_without_its_header_is_told_at_once() -> None:
    with pytest.raises(UserError, match=r"stdin: its first line, .* has none of the columns that the data set needs"):
        groups_of_stdin(REST, Losses())


def from_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes, *arguments: str) -> Any:
    """Run classify with these bytes on standard input."""
    reading, writing = os.pipe()
    threading.Thread(target=lambda: (os.write(writing, data), os.close(writing))).start()
    kept = os.dup(0)
    os.dup2(reading, 0)
    monkeypatch.setattr("sys.stdin", os.fdopen(reading))
    try:
        return classify("-", *arguments)
    finally:
        os.dup2(kept, 0)
        os.close(kept)


@pytest.mark.parametrize(
    "spelt",
    [
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: "\n".join(
            ["@relation t", *(f"@attribute {n} string" for n in NAMES), "@data", *text.splitlines()[1:]]
        ).encode(),
    ],
    ids=["utf-16", "utf-16-le", "cr", "arff"],
)
def test_forms_that_are_no_lines_are_read_whole(spelt: Callable[[str], bytes]) -> None:
    assert command.is_whole(spelt(TEXT)) and not command.is_whole(TEXT.encode())


@pytest.mark.parametrize("text", [b"\n a,b\r\n1,2\r\n", b"a,b\r1,2\r", b"PAR1abc", b""])
def test_the_form_is_told_from_a_whole_line_though_it_comes_byte_by_byte(text: bytes) -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as handle:
            for place in range(len(text)):
                handle.write(text[place : place + 1])
                time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    begun = streams.beginning(reading)
    writer.join()
    os.close(reading)
    assert text.startswith(begun) and command.is_whole(begun) == command.is_whole(text)


@pytest.mark.parametrize(
    ("data", "told"),
    [(HEAD.encode() + b"\n", "it has a header alone"), (HEAD.encode() + b"\n" + b"1,2\n" * 9, "too few columns")],
)
def test_a_stream_without_a_flow_is_an_error(
    student: Any, monkeypatch: pytest.MonkeyPatch, data: bytes, told: str
) -> None:
    found = from_stdin(monkeypatch, data)
    assert isinstance(found.exception, UserError) and "no line of standard input is a flow" in str(found.exception)
    assert told in str(found.exception)


def test_a_run_goes_on_whose_glob_matches_its_own_output(
    student: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(tmp_path)
    monkeypatch.setattr("iot_pipeline.serving.run.BATCH", 64)
    score, calls = student.student.score_labels, iter(range(9))

    def stops(*given: Any, **named: Any) -> Any:
        if next(calls):
            raise KeyboardInterrupt
        return score(*given, **named)

    student.student.score_labels = stops
    assert classify(f"{tmp_path}/flows*", "--out", tmp_path / "flows.out").exit_code == 130
    student.student.score_labels = score
    assert classify(f"{tmp_path}/flows*", "--out", tmp_path / "flows.out").exit_code == 0
    assert len(events((tmp_path / "flows.out").read_text())) == 200


def test_times_that_are_not_read_are_told(student: Any, tmp_path: Path) -> None:
    path = table(tmp_path, rows=3, distinct=3)
    path.write_text(path.read_text().replace("\n1600000000.25", "\n03/07/2017 08:55:58"))
    found = classify(path, "--json")
    assert "times of column ts, such as '03/07/2017 08:55:58', are not read" in found.stderr
    assert [event["time_of"] for event in events(found.stdout)] == ["file", "flow", "flow"]


@pytest.mark.parametrize("value", ["9999-12-31T23:59:59.999999", "9999-12-31T23:00:00-05:00", "0001-01-01", 1e300])
def test_a_time_that_no_date_can_hold_is_none(value: Any) -> None:
    assert seconds_of(value) is None


def test_a_file_whose_name_has_control_characters_is_known_by_its_content_and_time(tmp_path: Path) -> None:
    source, uids = tmp_path / "flows\x1b[31m.csv", list[str]()
    for seed in (0, 1):
        source.write_text(csv_rows(3, 3, seed).replace("ts,uid", "begun,uid", 1))
        prepare(Reading(SPEC, frozenset()), str(source), tmp_path / "out", str)
        rows = rows_of(pq.read_table(tmp_path / "out"))
        uids += [row.uid for row in rows]
        assert {row.time_of for row in rows} == {"file"}
    assert len(set(uids)) == 6


def test_a_name_of_digits_keeps_its_zeros() -> None:
    cells = {"uid": "007", "src_port": "0443", "dest_port": "443", "service": "0"}
    assert identity(cells) == {"uid": "007", "src_port": "0443", "dest_port": 443, "service": 0}


def test_a_json_line_that_was_cut_at_its_beginning_costs_itself_alone() -> None:
    good = [json.dumps(dict(zip(NAMES, row, strict=True))) for row in ROWS]
    losses = Losses()
    assert len(groups_of_stdin("\n".join([good[0][40:], *good[1:]]) + "\n", losses)) == 29
    assert sum(losses.rows.values()) == 1


def test_standard_input_that_was_stopped_is_not_said_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(classify_run, "classify", stop)
    for inputs, goes_on in ((["-"], False), (["x.csv"], True)):
        assert classify_run.run_command(load_settings({}), Options(inputs, out=Path("out")), False) == 130
        told = capsys.readouterr().err
        assert "what is written stays" in told and ("the same command resumes here" in told) is goes_on
