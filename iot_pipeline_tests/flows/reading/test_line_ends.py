"""Line ends of several kinds, marks before formats, headers and quotes amid the rows: read, or told with the line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.rules import ReadingRules
from iot_pipeline.flows.source import read_tables
from iot_pipeline_tests.flows.reading.tables import LINES, NAMES, TEXT, read
from iot_pipeline_tests.flows.reading.test_zeek import METER

JSON = "".join(json.dumps(dict(zip(NAMES, line.split(","), strict=True))) + "\n" for line in LINES)
ARFF = "@relation t\n" + "".join(f"@attribute {name} string\n" for name in NAMES) + "@data\n" + "\n".join(LINES) + "\n"
ZEEK = METER + "C1\t7\nC2\t8\nC3\t9\n"
FORMS = pytest.mark.parametrize("text", [TEXT, JSON, ARFF, ZEEK], ids=["csv", "json", "arff", "zeek"])


@FORMS
@pytest.mark.parametrize("place", [1, 3])
@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_of_several_kinds_are_read_alike_and_told(tmp_path: Path, text: str, place: int, end: str) -> None:
    head, tail = text.split("\n")[:place], text.split("\n")[place:]
    found, report = read(tmp_path, end.join(head) + end + "\n".join(tail))
    pd.testing.assert_frame_equal(found, read(tmp_path, text)[0])
    assert report.notes[0] == "t.csv has line ends of several kinds, which are read alike."


def test_line_ends_that_differ_far_behind_are_found(tmp_path: Path) -> None:
    again = "\n".join(LINES) + "\n"
    found, _ = read(tmp_path, TEXT + again * 2000 + again.replace("\n", "\r\n"))
    assert len(found) == 2002 * len(LINES)


@FORMS
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_format_is_known_behind_a_mark_and_in_utf_16(tmp_path: Path, text: str, encoding: str) -> None:
    found, _ = read(tmp_path, text.encode(encoding))
    pd.testing.assert_frame_equal(found, read(tmp_path, text)[0])


def test_a_json_array_in_utf_16_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a JSON array: write one object a line"):
        read(tmp_path, json.dumps([{"a": 1}]).encode("utf-16"))


def test_a_damaged_byte_in_an_arff_file_costs_its_line(tmp_path: Path) -> None:
    data = ARFF.encode().replace(LINES[3].encode(), b"\xff" + LINES[3].encode()[1:])
    found, report = read(tmp_path, data, share=0.1)
    assert (len(found), report.rejected) == (39, {"not UTF-8": 1})


def test_a_character_that_utf_8_lacks_costs_its_line_of_json(tmp_path: Path) -> None:
    lines = JSON.splitlines()
    lines[4] = lines[4].replace("tcp", "\\ud800").replace("udp", "\\ud800")
    found, report = read(tmp_path, "\n".join(lines), share=0.1)
    assert len(found) == 39 and report.examples[0]["line"] == 5


@pytest.mark.parametrize(
    "again",
    [
        ",".join(NAMES[::-1]),
        ",".join(name.upper() for name in [*NAMES[1:], NAMES[0]]),
        ",".join(["duration", *NAMES[1:-2], NAMES[-1], NAMES[-2]]),
    ],
)
def test_another_header_amid_the_rows_is_told_with_its_line(tmp_path: Path, again: str) -> None:
    text = "\n".join([",".join(NAMES), *LINES[:10], again, *LINES[10:]]) + "\n"
    with pytest.raises(UserError, match="line 12, begins a table with another header: give it as a file"):
        read(tmp_path, text)


def test_a_header_that_comes_again_in_another_case_is_left_out(tmp_path: Path) -> None:
    text = "\n".join([",".join(NAMES), *LINES[:10], ",".join(NAMES).upper(), *LINES[10:]]) + "\n"
    found, report = read(tmp_path, text)
    pd.testing.assert_frame_equal(found, read(tmp_path, TEXT)[0])
    assert report.left_out == {"repeats the header": 1}


def test_a_cell_that_is_a_columns_name_makes_no_header(tmp_path: Path) -> None:
    lines = [line.replace("DoS", "label") for line in LINES]
    found, report = read(tmp_path, "\n".join([",".join(NAMES), *lines]) + "\n")
    assert len(found) == len(LINES) and not report.left_out


@pytest.mark.parametrize("further", [1, 3])
def test_a_quote_that_is_closed_in_a_later_row_is_told(tmp_path: Path, further: int) -> None:
    lines = list(LINES)
    lines[5] = lines[5].replace("udp", '"udp')
    lines[5 + further] = lines[5 + further].replace("tcp", 'tcp"').replace("udp", 'udp"')
    with pytest.raises(UserError, match=f"line 7, has a quote that is closed in line {7 + further} only"):
        read(tmp_path, "\n".join([",".join(NAMES), *lines]) + "\n")


def test_a_cell_may_have_line_breaks_and_delimiters(tmp_path: Path) -> None:
    lines = [line.replace("tcp", '"tcp, or\nso, then"') for line in LINES]
    assert len(read(tmp_path, "\n".join([",".join(NAMES), *lines]) + "\n")[0]) == len(LINES)


@pytest.mark.parametrize("names", [[*NAMES, ""], ["", *NAMES], [*NAMES[:2], "", *NAMES[2:], ""]])
def test_columns_without_a_name_are_named_by_their_place(tmp_path: Path, names: list[str]) -> None:
    rows = [",".join(dict(zip(NAMES, line.split(","), strict=True)).get(name, "") for name in names) for line in LINES]
    found, report = read(tmp_path, "\n".join([",".join(names), *rows[:9], ",".join(names), *rows[9:]]) + "\n")
    assert report.columns == [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    pd.testing.assert_frame_equal(found[NAMES], read(tmp_path, TEXT)[0])


def test_quoted_names_may_have_blanks_before_them(tmp_path: Path) -> None:
    found, _ = read(tmp_path, TEXT.replace(",".join(NAMES), ", ".join(f'"{name}"' for name in NAMES)))
    pd.testing.assert_frame_equal(found, read(tmp_path, TEXT)[0])


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_last_line_of_a_zeek_log_without_an_end_is_lost_and_told(tmp_path: Path, cut: int) -> None:
    text = ZEEK.replace("C3\t9", "C3\t12345")
    found, report = read(tmp_path, text[:-cut], share=0.5)
    assert found["fwd_pkts_tot"].tolist() == [7, 8]
    assert report.examples == [{"file": "t.csv", "line": 7, "reason": "the line has no end"}]


@pytest.mark.parametrize("line", ["#separator \\x2c", "#unset_field\tNULL"])
def test_a_zeek_header_that_changes_how_rows_read_is_told(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match=rf"line 8, begins a log with other {line.split()[0]}: give it as a file of"):
        read(tmp_path, f"{ZEEK}{line}\nC4\t1\n")


def test_names_of_two_files_that_differ_in_case_are_one_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(TEXT)
    (tmp_path / "b.csv").write_text(TEXT.replace("proto", "Proto"))
    rules = ReadingRules(needed=("dur", "label"))
    report = read_tables(f"{tmp_path}/a.csv,{tmp_path}/b.csv", tmp_path / "raw.parquet", rules)
    assert (report.rows, report.columns, report.notes) == (80, NAMES, [])


def test_fields_that_no_line_of_a_json_conn_log_sets_are_unset(tmp_path: Path) -> None:
    line = {"uid": "C1", "id.orig_h": "10.0.0.1", "proto": "udp", "orig_pkts": 3}
    found, report = read(tmp_path, json.dumps(line), ReadingRules(needed=("proto", "service", "duration", "orig_pkts")))
    assert found["service"].tolist() == ["-"] and found["duration"].isna().all()
    assert report.notes == ["t.csv: no line of it sets service, duration."]


def test_a_named_pipe_is_told_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "flows")
    with pytest.raises(UserError, match="'flows' is a pipe, which can be read once only"):
        read_tables(str(tmp_path / "flows"), tmp_path / "raw.parquet", ReadingRules())
