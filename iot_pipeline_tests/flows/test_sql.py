"""DuckDB connections: their temporary folder is private and does not remain."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.flows.sql import connect, literal


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
