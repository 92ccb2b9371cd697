"""Texts on disk: what was kept is found, in any order; a full disk is said."""

import tempfile
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_pipeline.augmentation.spill import Spill
from iot_pipeline.errors import UserError


@given(st.lists(st.tuples(st.binary(max_size=20_000), st.integers(0, 100))))
def test_what_is_kept_is_found_by_its_number(steps: list[tuple[bytes, int]]) -> None:
    spill, kept = Spill(), list[bytes]()
    for data, other in steps:
        assert spill.add(data) == len(kept)
        kept.append(data)
        assert spill[other % len(kept)] == kept[other % len(kept)]
    assert [spill[number] for number in range(len(spill))] == kept


def test_a_full_disk_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    full = partial(open, "/dev/full", "w+b")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda prefix: full())
    with pytest.raises(UserError, match=r"No space left on device.*set TMPDIR"):
        Spill().add(b"x" * 100_000)
