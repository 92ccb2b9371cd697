"""Encodings and line ends: the same table whatever they are, and any other encoding than UTF-8 is announced."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline_tests.flows.reading.tables import TEXT, read

WORDS = TEXT.replace("DoS", "Größe – Attack").replace("Scan", "Scän")


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("utf-8", ""), ("utf-8-sig", ""), ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16-LE"),
        ("utf-16-be", "UTF-16-BE"), ("utf-32", "UTF-32"), ("cp1252", "Windows-1252"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_encoding_gives_the_same_table_and_is_announced(
    tmp_path: Path, encoding: str, told: str, end: str
) -> None:
    found, report = read(tmp_path, WORDS.replace("\n", end).encode(encoding))
    pd.testing.assert_frame_equal(found, read(tmp_path, WORDS)[0])
    assert report.encodings == ({"t.csv": told} if told else {})
    assert [note.partition(", such")[0].rstrip(".") for note in report.notes] == (
        [f"t.csv is not UTF-8: it is read as {told}"] if told else []
    )
    assert report.to_json().get("encodings", {}) == report.encodings


def test_bytes_that_windows_1252_lacks_are_read_as_latin_1(tmp_path: Path) -> None:
    found, report = read(tmp_path, TEXT.encode().replace(b"DoS", b"D\x81oS \xe9tat"))
    assert report.encodings == {"t.csv": "Latin-1"} and "D\x81oS état" in set(found["label"])


def test_a_damaged_byte_within_a_number_costs_its_line_and_changes_no_encoding(tmp_path: Path) -> None:
    lines = TEXT.encode().split(b"\n")
    lines[5] = b"\xff" + lines[5][1:]
    found, report = read(tmp_path, b"\n".join(lines), share=0.1)
    assert (len(found), report.rejected, report.encodings) == (39, {"not UTF-8": 1}, {})


def test_a_damaged_byte_among_words_in_utf_8_costs_its_line(tmp_path: Path) -> None:
    lines = WORDS.encode().split(b"\n")
    lines[3] = lines[3].replace("ä".encode(), b"\xe4")
    found, report = read(tmp_path, b"\n".join(lines), share=0.1)
    assert (len(found), report.rejected, report.encodings) == (39, {"not UTF-8": 1}, {})


def test_a_file_that_only_begins_like_utf_16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="begins like UTF-16 and cannot be decoded: save it as UTF-8"):
        read(tmp_path, TEXT.encode("utf-16") + b"\x00\xd8\x01")
