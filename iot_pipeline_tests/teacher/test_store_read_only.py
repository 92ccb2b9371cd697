"""A store in a folder that cannot be written is read, also with the write-ahead log that a killed process left."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from iot_pipeline.teacher.request import Answer
from iot_pipeline.teacher.store.store import Store
from iot_pipeline_tests.read_only import cannot_write, lock, run_unprivileged, unlock

READ = """
import sys
from pathlib import Path
from iot_pipeline.teacher.archive import export_answers
from iot_pipeline.teacher.store.store import Store
with Store(Path(sys.argv[1]), read_only=True) as store:
    print([answer.text for answer in store.lookup(["k"], "s")], store.spent_usd())
print(export_answers(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "lake"
    folder.mkdir()
    yield folder
    unlock(folder)


@pytest.mark.parametrize("killed", [False, True])
def test_answers_are_read_and_exported_from_a_folder_that_cannot_be_written(
    folder: Path, tmp_path: Path, killed: bool
) -> None:
    with Store(tmp_path / "teacher.sqlite") as store:
        store.save([], [Answer("k", "ok", "said", "stop", "m", "s")])
        if killed:  # as it lies while the process runs: the answer is in the log alone
            for path in tmp_path.glob("teacher.sqlite*"):
                shutil.copy(path, folder)
    if not killed:
        shutil.copy(tmp_path / "teacher.sqlite", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert killed == (len(before.get("teacher.sqlite-wal", b"")) > 0)
    lock(folder)
    assert cannot_write(folder)
    done = run_unprivileged(READ, str(folder / "teacher.sqlite"), str(tmp_path / "out.parquet"))
    assert done.stdout.splitlines() == ["['said'] 0.0", "1"], done.stderr
    assert {path.name for path in folder.iterdir()} == before.keys()
