"""First lines of a CSV: a header missing, repeated or preceded; names doubled, in other cases, with blanks around."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.header import looks_like_data
from iot_pipeline.flows.reading.names import column_names
from iot_pipeline.flows.reading.rules import ReadingRules
from iot_pipeline_tests.flows.reading.tables import LINES, NAMES, TEXT, read

HEADLESS = "\n".join(LINES) + "\n"
# First lines of public sets: UNSW-NB15_1.csv (blank and hexadecimal cells), NSL-KDD, CTU-13, N-BaIoT without names.
DATA = [
    "59.166.0.0,1390,149.171.126.6,0x000b,udp,CON,0.001055,132,164,dns,,0",
    "0,tcp,ftp_data,SF,491,0,0,0,0,normal,20",
    "2011/08/10 09:46:53.047277,3550.1,udp,212.50.71.179,39678,  <->,147.32.84.229,13363,CON,0,0,12,875,413,Background",
    "1.0,60.0,0.0,1.0,60.0,1e-10",
]


def test_a_missing_header_is_told_with_the_number_of_columns_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"t.csv: the first line looks like data: .* its 5 columns with column_names"):
        read(tmp_path, HEADLESS)


@pytest.mark.parametrize("line", DATA)
def test_first_lines_of_public_sets_are_data(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match="the first line looks like data: the file has no header"):
        read(tmp_path, "\n".join([line] * 5 + [line.replace("0", "7")]) + "\n")


@pytest.mark.parametrize(
    "header",
    ["0,1,2,3,4", "1,2,3,4,5", "dur,2,rate,25%,label", ",orig_pkts,rate,proto,label", "id.orig_h,1st,2nd,3rd,4th"],
)
def test_odd_names_are_a_header_all_the_same(tmp_path: Path, header: str) -> None:
    found, report = read(tmp_path, "\n".join([header, *LINES]) + "\n")
    assert len(found) == len(LINES)
    assert report.columns == [name or "Unnamed: 0" for name in header.split(",")]


def test_given_names_are_used_where_the_first_line_is_not_those_names(tmp_path: Path) -> None:
    rules = ReadingRules(needed=tuple(NAMES), column_names=tuple(NAMES))
    wanted, _ = read(tmp_path, TEXT)
    for text in (HEADLESS, TEXT, "sep=,\n" + HEADLESS):
        found, report = read(tmp_path, text, rules)
        pd.testing.assert_frame_equal(found, wanted)
        assert report.columns == NAMES
    turned = wanted[NAMES[::-1]].to_csv(index=False)
    assert read(tmp_path, turned, rules)[1].columns == NAMES[::-1]


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        (HEADLESS, NAMES[:4], "has 5 columns, and column_names gives 4 names"),
        (TEXT.replace("dur,orig_pkts", "duration,packets"), NAMES, "has a header that differs .* 'duration' for 'dur'"),
    ],
)
def test_names_that_do_not_fit_are_told(tmp_path: Path, text: str, names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text, ReadingRules(column_names=tuple(names)))


@pytest.mark.parametrize(
    ("again", "line"),
    [
        (",".join(NAMES), 12),
        ("\ufeff" + ",".join(NAMES), 12),
        (",".join(f'"{name}"' for name in NAMES), 12),
        (" , ".join(NAMES), 12),
    ],
)
def test_lines_that_repeat_the_header_are_left_out_and_counted(tmp_path: Path, again: str, line: int) -> None:
    lines = [",".join(NAMES), *LINES[:10], again, *LINES[10:20], again, *LINES[20:]]
    found, report = read(tmp_path, "\n".join(lines) + "\n")
    pd.testing.assert_frame_equal(found, read(tmp_path, TEXT)[0])
    assert (report.left_out, report.rejected) == ({"repeats the header": 2}, {})
    assert report.notes == [f"t.csv, line {line}, repeats the header: 2 such lines are left out."]


def test_lines_of_blank_cells_are_left_out_and_counted_where_rows_have_labels(tmp_path: Path) -> None:
    blank = "," * (len(NAMES) - 1)
    text = "\n".join([",".join(NAMES), *LINES[:10], blank, ",,,,x", *LINES[10:], *[blank] * 300]) + "\n"
    rules = ReadingRules(needed=tuple(NAMES), label="label")
    found, report = read(tmp_path, text, rules)
    assert len(found) == len(LINES) + 1 and report.left_out == {"no cell is filled": 301}
    assert report.notes == ["t.csv: 301 lines in which no cell is filled are left out."]
    assert len(read(tmp_path, text, ReadingRules(needed=tuple(NAMES[:-1])))[0]) == len(LINES) + 302  # to be classified
    with pytest.raises(UserError, match="has column names but no rows"):
        read(tmp_path, f"{','.join(NAMES)}\n{blank}\n{blank}\n", rules)


def test_a_repeated_header_of_a_table_with_row_numbers_is_told_by_its_line(tmp_path: Path) -> None:
    """pandas writes row numbers as a first column without a name."""
    numbered = [f"{place},{line}" for place, line in enumerate(LINES)]
    header = "," + ",".join(NAMES)
    _, report = read(tmp_path, "\n".join([header, *numbered[:10], header, *numbered[10:]]) + "\n")
    assert report.notes == ["t.csv, line 12, repeats the header: 1 such lines are left out."]


@pytest.mark.parametrize("first", ["sep=;\n", '"SEP=;"\r\n', "\ufeffsep=;\n", "\n\n", "sep=;\n\n"])
def test_lines_before_the_header_are_passed_over(tmp_path: Path, first: str) -> None:
    text = TEXT.replace(",", ";").replace("\n", "\r\n" if "\r" in first else "\n")
    found, report = read(tmp_path, first + text)
    pd.testing.assert_frame_equal(found, read(tmp_path, TEXT)[0])
    cut = text.replace(text.splitlines()[4], "1;2", 1)
    report = read(tmp_path, first + cut, share=0.9)[1]
    assert report.examples[0]["line"] == 5 + first.count("\n")


def test_a_header_without_an_end_and_too_many_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="first line is longer than 1,000,000 bytes"):
        read(tmp_path, "a," * 600_000 + "\n1,2\n")
    with pytest.raises(UserError, match="has 3,000 columns; at most 2,000 are read"):
        read(tmp_path, ",".join(f"c{n}" for n in range(3000)) + "\n" + ",".join(["1"] * 3000) + "\n")


def stored(form: str, names: list[str], rows: list[list[object]]) -> bytes:
    """A table of these names, which may be equal, as CSV or Parquet."""
    if form == "csv":
        return pd.DataFrame(rows, columns=names).to_csv(index=False).encode()
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    columns = [pa.array(column) for column in zip(*rows, strict=True)]
    pq.write_table(pa.Table.from_arrays(columns, names=names), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"a\nb",c,label\n1,2,x\n', "first line has a quote that is never closed"),
        ("a\x1b[31m,b,label\n1,2,x\n", r"the name of column 1, 'a\\x1b\[31m', has a control character"),
        (f"a,{'b' * 9000},label\n1,2,x\n", r"the name of column 2 has 9,000 characters"),
    ],
)
def test_names_that_no_message_can_show_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, text)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_names_follow_one_rule_in_csv_and_parquet(tmp_path: Path, form: str) -> None:
    names = [" dur ", "Label", "dur", "label", "DUR", "rate\u00a0"]
    rows = [[1.5, "a", 2.5, "b", 3.5, 4.5], [1.25, "c", 2.25, "d", 3.25, 4.25]]
    found, report = read(tmp_path, stored(form, names, rows))
    assert report.columns == ["dur", "Label", "dur.1", "label.1", "DUR.2", "rate"]
    assert found.to_numpy().tolist() == rows
    assert "'dur' again as 'dur.1'" in report.notes[0]
    # A name that the data set needs is taken exactly, else ignoring case.
    assert read(tmp_path, stored(form, names, rows), ReadingRules(needed=("label", "Rate")))[1].columns == [
        "dur", "Label.1", "dur.1", "label", "DUR.2", "Rate",
    ]  # fmt: skip
    # Blanks that a data set's file copies from the header are no part of it either.
    padded = ReadingRules(needed=(" label", "RATE "))
    assert read(tmp_path, stored(form, names, rows), padded)[1].columns[3:] == [" label", "DUR.2", "RATE "]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_copies_of_a_needed_column_must_be_equal(tmp_path: Path, form: str) -> None:
    needed = ReadingRules(needed=("len", "label"))
    same = [[1, "a", 1], [2, "b", 2]]
    assert read(tmp_path, stored(form, ["len", "label", "len"], same), needed)[1].columns == ["len", "label", "len.1"]
    with pytest.raises(UserError, match=r"has the column 'len' twice, with other values in 1 rows"):
        read(tmp_path, stored(form, ["len", "label", "len"], [[1, "a", 1], [2, "b", 3]]), needed)
    named = ReadingRules(needed=("len", "len.1", "label"))
    assert len(read(tmp_path, stored(form, ["len", "label", "len"], [[1, "a", 1], [2, "b", 3]]), named)[0]) == 2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["a", "A", "a ", "a.1", "A.1", "b", "label"]), min_size=1, max_size=8))
def test_names_are_distinct_whatever_the_file_has(raw: list[str]) -> None:
    columns, copies = column_names(raw, ["label", "a.1"])
    assert len({column.lower() for column in columns}) == len(raw)
    assert set(copies) <= set(columns) and set(copies.values()) <= set(columns)
    assert all(column in columns for column in ("label", "a.1") if column in raw)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(-9, 9).map(str), min_size=3, max_size=3), min_size=3, max_size=6))
def test_a_row_of_numbers_is_data_and_a_row_of_words_is_not(rows: list[list[str]]) -> None:
    assert looks_like_data(rows[0], rows[1:])
    assert not looks_like_data(["a", "b", "c"], rows)
