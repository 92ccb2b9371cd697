"""The seal of a bundle holds every name of a file, or says which one it cannot hold."""

import json
import os
from pathlib import Path

import pytest

from iot_pipeline.bundle.contents import LINEAGE
from iot_pipeline.bundle.seal import SUMS, check_bundle, write_sums
from iot_pipeline.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / LINEAGE).write_text(json.dumps({"artefacts": []}))
    return tmp_path


@pytest.mark.parametrize("name", ["ü 数.yaml", "a\u2028b.yaml", "a\x85b", "a\rb", "a  b", " a/b ", "\u202egpj"])
def test_a_bundle_with_any_name_is_as_written(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    if name.startswith(" "):
        with pytest.raises(UserError, match="cannot hold the file"):
            write_sums(folder)
        return
    write_sums(folder)
    assert check_bundle(folder).mismatches == []
    (folder / name).write_text("y")
    assert [told.partition(":")[0] for told in check_bundle(folder).mismatches] == [name]


@pytest.mark.parametrize("name", [b"a\nb", b"a\xff"])
def test_a_name_that_no_line_can_hold_is_refused(name: bytes, folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text("x")
    with pytest.raises(UserError, match="cannot hold the file"):
        write_sums(folder)


def test_a_name_that_stands_twice_in_the_seal_is_told(folder: Path) -> None:
    write_sums(folder)
    with (folder / SUMS).open("a") as sums:
        sums.write(f"{'0' * 64}  {LINEAGE}\n")
    assert check_bundle(folder).mismatches == [f"{SUMS}: line 2 names {LINEAGE} again"]
