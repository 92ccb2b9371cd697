"""Text of data in Markdown and spreadsheets: shown as it is, never obeyed."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from iot_pipeline.escaping import csv_cell, fenced, markdown_line
from iot_pipeline.lake.atomic import write_csv
from iot_pipeline.quality.patterns import guide_text

HOSTILE = [
    "<img src=http://x/y.png>", "![x](http://x/y.png)", "[x](javascript:alert(1))", "a | b", "*bold* ~~x~~ `code`",
    "one\n# two", "&lt;b&gt;", "<!-- x -->", "Scan <b>x</b>",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_text_within_a_line_of_markdown_shows_as_it_is(text: str) -> None:
    (_, inline, _) = MarkdownIt("commonmark", {"html": True}).enable("strikethrough").parse(f"x {markdown_line(text)}")
    kinds = {child.type for child in inline.children or []}
    assert kinds <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children or []) == f"x {' '.join(text.split())}"


@given(st.text(max_size=60))
def test_a_fence_cannot_be_left(text: str) -> None:
    body = text.replace("\r", "").replace("\0", "")
    blocks = MarkdownIt("commonmark").parse(f"before\n\n{fenced(body + '`' * 5)}\n\nafter")
    assert [block.type for block in blocks if block.level == 0 and block.nesting >= 0] == [
        "paragraph_open", "fence", "paragraph_open",
    ]  # fmt: skip


def test_no_cell_of_a_csv_is_a_formula_and_numbers_stay(tmp_path: Path) -> None:
    cells = ["=HYPERLINK(1)", "+1+cmd|x", "-2", "-1e-3", "@sum", "\tx", "Normal", "1 = 2", "-x"]
    write_csv(tmp_path / "t.csv", ["=class", "n"], [{"=class": cell, "n": -1.5} for cell in cells])
    with (tmp_path / "t.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["'=class", "n"]
    assert [row[0] for row in rows] == [
        "'=HYPERLINK(1)", "'+1+cmd|x", "-2", "-1e-3", "'@sum", "'\tx", "Normal", "1 = 2", "'-x",
    ]  # fmt: skip
    assert {row[1] for row in rows} == {"-1.5"} and csv_cell(None) is None and csv_cell(-3) == -3


def test_the_guide_of_a_class_with_a_hostile_name_shows_it() -> None:
    rule = {"text": "<b>x > 1</b> | y", "classes": ["a|b"], "source": "s"}
    measured = {"coverage": 0.5, "precision": 0.5, "caught": 1}
    rule |= {"distinct": measured, "row": measured}
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(
        guide_text({"<script>x</script>": {"rules": [rule], "combined": {"distinct": measured}}}, [rule])
    )  # fmt: skip
    assert "<script" not in html and "<b>" not in html and html.count("<td>") == 7
