"""Numbers as text, and one table in three forms."""

from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_pipeline.reporting import tables
from iot_pipeline.reporting.tables import Column


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (tables.accuracy(0.93119, 0.9201, 0.9423), "0.9312 [0.92, 0.94]"),
        (tables.accuracy(0.93119, 0.9281, 0.9343), "0.9312 [0.928, 0.934]"),
        (tables.accuracy(0.93119, 0.93101, 0.93139), "0.9312 [0.9310, 0.9314]"),
        (tables.accuracy(1.0), "1.0000"),
        (tables.accuracy(None), "–"),
        (tables.signed(0.004, -0.002, 0.01), "+0.0040 [-0.0020, +0.0100]"),
        (tables.percent(0.85311), "85.31 %"),
        (tables.whole(347685), "347,685"),
        (tables.number(0.000123456), "0.0001235"),
        (tables.number(12345.6), "12,346"),
        (tables.seconds(0.0061), "6.1 ms"),
        (tables.seconds(1.214), "1.21 s"),
        (tables.seconds(185), "3 min 05 s"),
        (tables.seconds(7620), "2 h 07 min"),
        (tables.dollars(0), "$0"),
        (tables.dollars(0.00421), "$0.0042"),
        (tables.dollars(7.3), "$7.30"),
        (tables.dollars(1440), "$1,440"),
        (tables.text(True), "yes"),
        (tables.text({"a": 1, "b": [2, None]}), "a 1, b 2, –"),
    ],
)
def test_numbers_as_text(found: str, wanted: str) -> None:
    assert found == wanted


ROWS: list[dict[str, Any]] = [
    {"class": "a|b", "rows": 1200, "share": 0.5},
    {"class": "<i>", "rows": None, "share": 0.25},
]
COLUMNS = [
    Column("class"),
    Column("rows", "n rows", tables.whole, True),
    Column("share", write=tables.percent, numeric=True),
]


def test_markdown() -> None:
    assert (
        tables.to_markdown(ROWS, COLUMNS)
        == "| class | n rows | share |\n| --- | ---: | ---: |\n| a\\|b | 1,200 | 50.00 % |\n| &lt;i&gt; | – |"
        " 25.00 % |\n"
    )
    assert tables.to_markdown([]) == ""


def test_html() -> None:
    made = tables.to_html(ROWS, COLUMNS, "A <caption>")
    assert "<td >&lt;i&gt;</td>" in made
    assert '<p class="caption">A &lt;caption&gt;</p>' in made
    assert tables.to_html([]) == ""


def test_plain_rows() -> None:
    assert tables.plain_rows(ROWS, COLUMNS)[0] == {"class": "a|b", "n rows": "1,200", "share": "50.00 %"}


def test_columns_of_finds_numbers() -> None:
    assert [(c.key, c.numeric) for c in tables.columns_of(ROWS)] == [("class", False), ("rows", True), ("share", True)]


class Texts(HTMLParser):
    """Collects the text of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag == "td"
        if self.inside:
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.cells[-1] += data


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_text_survives_html(value: str) -> None:
    parser = Texts()
    parser.feed(tables.to_html([{"x": value}], [Column("x")]))
    assert parser.cells == [value]


@given(st.text(max_size=40))
def test_any_text_stays_in_its_markdown_cell(value: str) -> None:
    made = tables.to_markdown([{"x": value, "y": "end"}], [Column("x"), Column("y")])
    line = made.split("\n| --- | --- |\n")[1]
    assert line.endswith(" | end |\n")
    assert line.replace("\\|", "").count("|") == 3
    assert "<" not in line.replace("<br>", "")
