"""Files that people give in place of a CSV: ARFF is read, other formats are named in one sentence."""

import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.rules import ReadingRules
from iot_pipeline.flows.source import SourceReport, read_tables

ROWS = [["0", "http", "1.5", "normal"], ["3", "ftp,data", "", "dos"], ["7", "o'clock", "-2e3", "normal"]]
ARFF = """% made by hand
@RELATION 'flows'

@attribute duration numeric
@attribute 'the service' {'http','ftp,data'}
@attribute "rate" real
@attribute class {normal, dos}
@DATA
0, http, 1.5, normal
% a remark amid the rows
3, 'ftp,data', ?, dos

7, "o'clock", -2e3, normal
"""


def read(source: Path, folder: Path) -> tuple[SourceReport, list[list[str]]]:
    report = read_tables(str(source), folder / "raw.parquet", ReadingRules())
    table = pq.read_table(folder / "raw.parquet")
    return report, [list(row.values()) for row in table.to_pylist()]


def test_an_arff_file_is_read_as_the_csv_of_its_rows(tmp_path: Path) -> None:
    (tmp_path / "KDDTrain.arff").write_text(ARFF, encoding="utf-8-sig")
    report, rows = read(tmp_path / "KDDTrain.arff", tmp_path)
    assert report.columns == ["duration", "the service", "rate", "class"] and report.rejected == {}
    numbers = [[float(a), b, float(c) if c else None, d] for a, b, c, d in ROWS]
    assert rows == numbers


def test_an_arff_file_in_a_zip_is_a_table(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
        archive.writestr("Train.arff", ARFF)
    report, rows = read(tmp_path / "set.zip", tmp_path)
    assert report.rows == 3 and report.skipped == ["set.zip/readme.txt"] and len(rows[0]) == 4


def test_an_arff_row_with_a_cell_too_many_is_counted(tmp_path: Path) -> None:
    (tmp_path / "x.arff").write_text(ARFF + "1, http, 2, dos, 9\n" + "1, http, 2, dos\n" * 400)
    report, _ = read(tmp_path / "x.arff", tmp_path)
    assert report.rows == 403 and report.rejected == {"too many columns": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ARFF.replace("0, http", "{0 1, 2 3}\n0, http"), "sparse"),
        ("@relation x\n@data\n1,2\n", "without an @attribute"),
        ("@relation x\n@attribute\n@data\n1,2\n", "line 2, is no attribute"),
        (ARFF + "1, http, 2, 'dos\n1, http, 2, dos\n", "line 14, has a quote that is never closed"),
        (ARFF + "1, 'http, 2, dos\n" + "1, http, 2, dos\n" * 9000, "line 14, has a quote that is never closed"),
    ],
)
def test_an_arff_file_that_cannot_be_read_says_why(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.arff").write_text(text)
    with pytest.raises(UserError, match=said):
        read(tmp_path / "x.arff", tmp_path)


def test_an_open_quote_of_a_narrow_arff_file_swallows_no_row(tmp_path: Path) -> None:
    start = "@relation x\n@attribute a real\n@attribute b {c,d}\n@data\n"
    (tmp_path / "x.arff").write_text(start + "1,c\n2,'d\n" + "3,c\n" * 20)
    with pytest.raises(UserError, match=r"x\.arff, line 6, has a quote"):
        read(tmp_path / "x.arff", tmp_path)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00", "a packet capture: make flows"),
        (b"\x0a\x0d\x0d\x0a\x1c\x00\x00\x00", "a packet capture"),
        (b"ARROW1\x00\x00", "save it as Parquet"),
        (b"ORC\x0a\x0b\x00\x00", "an ORC file"),
        (b"SQLite format 3\x00", "export its table"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x80\x04\x95", "a pickle"),
        (b"\xd0\xcf\x11\xe0", "an Excel workbook"),
        (b"\n  <!doctype html><p>Sign in, please</p>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b'[{"a": 1}, {"a": 2}]', "a JSON array: write one object a line"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, start: bytes, said: str) -> None:
    (tmp_path / "data.csv").write_bytes(start + b"\n1,2\n" * 4)
    with pytest.raises(UserError, match=rf"data\.csv is .*{said}"):
        read(tmp_path / "data.csv", tmp_path)


def test_a_csv_may_begin_like_orc(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("ORCID,\u00e4,label\n1,2,a\n3,4,b\n")
    assert read(tmp_path / "x.csv", tmp_path)[1] == [[1, 2, "a"], [3, 4, "b"]]


def test_an_excel_workbook_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "book.xlsx", "w") as archive:
        archive.writestr("[Content_Types].xml", "<x/>")
        archive.writestr("xl/worksheets/sheet1.xml", "<x/>")
    with pytest.raises(UserError, match=r"book\.xlsx is an Excel workbook"):
        read(tmp_path / "book.xlsx", tmp_path)
