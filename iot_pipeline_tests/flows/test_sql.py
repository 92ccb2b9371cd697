"""DuckDB connections: their temporary folder is private and does not remain."""

import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.flows.source import find_files
from iot_pipeline.flows.sql import connect, file_literal, literal, opened, scan


def test_spilled_data_go_to_a_private_folder_that_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    guessable = tmp_path / f"iot_pipeline-duckdb-{os.getpid()}"
    guessable.symlink_to("/nonexistent")
    with connect() as connection:
        (folder,) = connection.execute("SELECT current_setting('temp_directory')").fetchone() or ("",)
        assert Path(folder) != guessable and Path(folder).stat().st_mode & 0o777 == 0o700
        assert Path(folder).parent == tmp_path
    del connection
    assert list(tmp_path.iterdir()) == [guessable]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=12).map(lambda text: text + "'\0x"))
def test_any_text_is_the_string_that_it_says(text: str) -> None:
    with connect() as connection:
        assert connection.execute(f"SELECT {literal(text)}").fetchall() == [(text,)]


# A name that is a pattern to DuckDB, and another name that it matches.
PATTERNS = {
    "st*ar": "stzar",
    "q?m": "qxm",
    "b[a]t": "bat",
    "b[!a]t": "bxt",
    "x**y": "xqy",
    "[": "a",
    "%41[a-c] d": "%41b d",
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_path_names_one_file_though_it_looks_like_a_pattern(tmp_path: Path, name: str) -> None:
    for number, folder in enumerate((name, PATTERNS[name])):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"x": [number]}), tmp_path / folder / "t.parquet")
        (tmp_path / folder / "t.csv").write_text(f"x\n{number}\n")
    table, text = tmp_path / name / "t.parquet", tmp_path / name / "t.csv"
    for readable in ([table, text], [tmp_path]):  # where the folder may be read, both would be
        with connect(*readable) as connection:
            assert connection.execute(f"SELECT x FROM {scan(table)}").fetchall() == [(0,)]
            assert connection.execute(f"SELECT x FROM read_csv({file_literal(text)})").fetchall() == [(0,)]
    with opened(flows=table) as connection:
        assert connection.execute("SELECT x FROM flows").fetchall() == [(0,)]
    assert find_files(f"{tmp_path}/{name}/*.csv") == [text]


def test_a_path_for_which_there_is_no_pattern_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="backslash"):
        connect(tmp_path / "a\\b[c].csv")
