"""YAML of others: plain data, or one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.lake.yaml_reader import parse_yaml, read_own_yaml, read_yaml
from iot_pipeline.settings import PROJECT_ROOT

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "more than 100,000 values"),
        ("a: &a [1, *a]", r"\*a contains itself"),
        ("[" * 2000 + "]" * 2000, "nested more than 30 deep"),
        ("{a: " * 40 + "1" + "}" * 40, "nested more than 30 deep"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: 2026-13-45", "month must be in"),
        ("a: !!bool x", "x"),
        ("a: !!int ''", "is not valid YAML"),
        ("a: !!timestamp x", "is not valid YAML"),
        ("a: " + "9" * 5000, "is not valid YAML"),
        ("a: *nothing", "undefined alias"),
        ("a: 1\nb: {c: 1, c: 2}", "line 2 names 'c' a second time"),
        ("x" * 1_000_001, "at most 1,000,000"),
    ],
)
def test_what_is_no_plain_data_is_one_sentence(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        parse_yaml(text, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml ") and "\n" not in str(caught.value)


def test_aliases_and_merges_work(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: &b {x: 1}\nother: {<<: *b, y: é}\nlist: [*b, *b]\nlast: {<<: *b, x: 2}\n")
    told = {"base": {"x": 1}, "other": {"x": 1, "y": "é"}, "list": [{"x": 1}] * 2, "last": {"x": 2}}
    assert read_yaml(tmp_path / "a.yaml") == told


def test_files_that_cannot_be_read_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: caf\xe9")
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(10**12)  # a sparse file of 1 TB
    for name, why in (("latin", "not UTF-8: byte 6"), ("huge", "larger than"), ("none", "cannot be read: No such")):
        with pytest.raises(UserError, match=f"{name}.yaml .*{why}"):
            read_yaml(tmp_path / f"{name}.yaml")


def test_files_of_the_project_follow_the_rules_for_those_of_users() -> None:
    files = list((PROJECT_ROOT / "iot_pipeline").rglob("*.yaml"))
    assert len(files) > 20
    for path in files:
        assert read_own_yaml(path) == read_yaml(path), path


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    "a",
                    ": ",
                    "- ",
                    "&x ",
                    "*x",
                    "[",
                    "]",
                    "{",
                    "}",
                    ",",
                    "\n",
                    "  ",
                    "!!int ",
                    "!!set ",
                    "<<: ",
                    "? ",
                    "|\n",
                    "'",
                    '"',
                    "1:60",
                    "0x",
                    "2026-01-01",
                    "!!binary ",
                    "\ud800",
                ]
            ),
            st.text(max_size=2),
        ),
        max_size=15,
    ).map("".join)
)
def test_any_text_is_data_or_one_sentence(text: str) -> None:
    try:
        parse_yaml(text, "mine.yaml")
    except UserError as error:
        assert "\n" not in str(error)
