"""The cache of verdicts: what is stored comes back equal, by model, bounded, and whole after a kill."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.serving.cache import VerdictCache
from iot_pipeline.serving.classifier import Explanation, Verdict
from iot_pipeline.serving.evidence import Fact


def group(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def verdict(probability: float = 0.75, text: str = "") -> Verdict:
    said = Explanation(text, "grounded", ["malformed: no ANALYSIS"], [Fact("a", "1.0", "p97")]) if text else None
    return Verdict(
        "Normal", {"Normal": probability, "Flood": 1 - probability}, ["Normal"], ["a"], said, [Fact("b", "2", "p3")]
    )


@given(probability=st.floats(0, 1), text=st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=25, deadline=None)
def test_a_verdict_comes_back_equal(tmp_path_factory: pytest.TempPathFactory, probability: float, text: str) -> None:
    path = tmp_path_factory.mktemp("cache") / "verdicts.sqlite"
    VerdictCache(path, "model").put({group(1): verdict(probability, text)})
    assert VerdictCache(path, "model").get([group(1), group(2)]) == {group(1): verdict(probability, text)}


def test_another_model_has_its_own_verdicts(tmp_path: Path) -> None:
    VerdictCache(tmp_path / "c", "one").put({group(1): verdict(0.25)})
    other = VerdictCache(tmp_path / "c", "two")
    assert other.get([group(1)]) == {}
    other.put({group(1): verdict(0.5)})
    assert VerdictCache(tmp_path / "c", "one").get([group(1)]) == {group(1): verdict(0.25)}


def test_an_explanation_is_added_to_a_verdict(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path / "c", "one")
    cache.put({group(1): verdict()})
    cache.put({group(1): verdict(text="because")})
    assert cache.get([group(1)]) == {group(1): verdict(text="because")}


def test_the_oldest_go_first(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path / "c", "one", most=3)
    for number in range(5):
        cache.put({group(number): verdict()})
    assert set(cache.get([group(number) for number in range(5)])) == {group(2), group(3), group(4)}


def test_verdicts_that_are_stored_again_push_no_others_out(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path / "c", "one", most=10)
    for text in ("", "because", "therefore"):
        cache.put({group(number): verdict(text=text) for number in range(9)})
    cache.put({group(9): verdict()})
    assert len(cache.get([group(number) for number in range(10)])) == 10
    cache.put({group(10): verdict()})
    assert set(cache.get([group(number) for number in range(11)])) == {group(number) for number in range(1, 11)}


def test_many_groups_are_looked_up_at_once(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path / "c", "one")
    cache.put({group(number): verdict() for number in range(1200)})
    assert len(cache.get([group(number) for number in range(1300)])) == 1200


def test_another_database_is_left_as_it_is(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "answers.sqlite")) as base:
        base.execute("CREATE TABLE answers (key TEXT)")
    before = (tmp_path / "answers.sqlite").read_bytes()
    with pytest.raises(UserError, match="is another database, and no cache of verdicts"):
        VerdictCache(tmp_path / "answers.sqlite", "one")
    assert (tmp_path / "answers.sqlite").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["answers.sqlite"]


def test_processes_may_begin_one_cache_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for made in pool.map(lambda number: VerdictCache(tmp_path / "c", str(number)), range(16)):
            made.close()


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("not a database at all, and long enough to be read as one\n" * 50)
    with pytest.raises(UserError, match=r"cache of verdicts .* cannot be used"):
        VerdictCache(tmp_path / "c", "one")
