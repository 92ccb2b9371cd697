"""Numbers as text; and text from anywhere, which Markdown and the HTML made from it show as it is."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from iot_pipeline.reporting import formats
from iot_pipeline.reporting.markdown import escape, lines, quote, table, to_html


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (formats.accuracy(0.93119, 0.9201, 0.9423), "0.9312 [0.92, 0.94]"),
        (formats.accuracy(0.93119, 0.9281, 0.9343), "0.9312 [0.928, 0.934]"),
        (formats.accuracy(0.93119, 0.93101, 0.93139), "0.9312 [0.9310, 0.9314]"),
        (formats.accuracy(1.0), "1.0000"),
        (formats.accuracy(None), "–"),
        (formats.percent(0.85311), "85.31 %"),
        (formats.whole(347685), "347,685"),
        (formats.number(0.000123456), "0.0001235"),
        (formats.number(3409.2), "3,409"),
        (formats.number(12345.6), "12,346"),
        (formats.seconds(0.0061), "6.1 ms"),
        (formats.seconds(0.9994), "999 ms"),
        (formats.seconds(0.9996), "1.00 s"),
        (formats.seconds(1.214), "1.21 s"),
        (formats.seconds(185), "3 min 05 s"),
        (formats.text([1.5, float("nan"), float("inf")]), "1.5, –, –"),
        (formats.seconds(7620), "2 h 07 min"),
        (formats.dollars(0), "$0"),
        (formats.dollars(0.00421), "$0.0042"),
        (formats.dollars(7.3), "$7.30"),
        (formats.dollars(1440), "$1,440"),
        (formats.text(True), "yes"),
        (formats.text({"a": 1, "b": [2, None]}), "a 1, b 2, –"),
    ],
)
def test_numbers_as_text(found: str, wanted: str) -> None:
    assert found == wanted


class Page(HTMLParser):
    """The tags of a page, and the text of the elements named `tag`."""

    def __init__(self, page: str, tag: str) -> None:
        super().__init__()
        self.tag, self.tags, self.texts = tag, set[str](), list[str]()
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == self.tag:
            self.inside = True
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside &= tag != self.tag

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data


def test_a_table_escapes_its_cells_and_aligns_numbers() -> None:
    rows = [{"class": "a|b", "rows": 1200, "a_share": 0.5}, {"class": "<i>", "rows": None, "a_share": 0.25}]
    assert table(rows, "Two rows.", "flows") == (
        "Two rows. Asset: flows.\n\n| class | rows | a share |\n| --- | ---: | ---: |\n| a\\|b | 1,200 | 0.5 |\n"
        "| &lt;i&gt; | – | 0.25 |"
    )
    assert table([], "None.") == ""
    page = to_html(str(table(rows, "Two <rows>.", "flows")))
    assert 'aria-label="Two &lt;rows&gt;. Asset: flows."' in page
    assert Page(page, "td").texts == ["a|b", "1,200", "0.5", "<i>", "–", "0.25"]


def test_lines_of_a_cell() -> None:
    made = to_html(f"| x |\n| --- |\n| {lines('a<br>' + chr(10) + 'b')} |\n")
    assert "<td>a&lt;br&gt;<br>\nb</td>" in made


def test_a_quote_is_folded_below_its_title_and_keeps_lines_and_indentation() -> None:
    made = quote("a [title]", [("flow", "---\n  x: *1*\n\n\n# y\n")])
    assert made == "> **a [title]**\n>\n> flow:\n>\n> > \\---\\\n> > &nbsp;&nbsp;x: \\*1\\*\n> >\n> > \\# y"
    page = to_html(str(made))
    assert page.startswith("<details>\n<summary><strong>a [title]</strong></summary>\n<p>flow:</p>\n")
    assert '<blockquote tabindex="0">\n<p>---<br>\n\xa0\xa0x: *1*</p>\n<p># y</p>\n</blockquote>' in page


# Every sign that means something to Markdown, more often than chance has it.
TEXTS = st.text(
    st.sampled_from("\\`*_{}[]()<>#+-.!|~=:&;'\"1a \n\r\t\u2028") | st.characters(exclude_categories=["Cs", "Cc"])
)


@given(TEXTS)
@example("[a](javascript:alert(1))")
@example("![a](data:image/png;base64,AAAA)")
@example("[a]: b")
@example("1) a")
@example("a_ _b_")
@example("&lt;")
@example("<script>")
def test_any_text_is_shown_as_it_is_and_adds_no_markup(value: str) -> None:
    shown = " ".join(value.split())
    assume(shown)
    made = escape(value)
    assert "\n" not in made
    assert not re.search(r"(?<!\\)(?:\\\\)*(?:[`*|<~]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_]))", made)
    for place, tag in {
        f"{made}\n": "p",
        f"- {made}\n": "li",
        f"### {made}\n": "h3",
        f"*a {made} b*\n": "em",
        f"| x | y |\n| --- | --- |\n| {made} | end |\n": "td",
        f"- x\n\na\\\n{made}\n": "p",
    }.items():
        page = Page(to_html(place), tag)
        assert page.tags <= {tag, "p", "ul", "li", "br", "div", "table", "thead", "tbody", "tr", "th", "td"}
        found = {"p": page.texts[-1].split("\n")[-1], "em": page.texts[0][2:-2]}.get(tag, page.texts[0])
        assert found.strip() == shown.replace("\0", "\ufffd")


@given(TEXTS)
def test_any_text_stays_in_its_quote(value: str) -> None:
    page = to_html(str(quote("title", [("name", value)])) + "\n\nend\n")
    assert page.count("<blockquote") == page.count("<details>") == 1
    assert Page(page, "x").tags <= {"details", "summary", "strong", "p", "blockquote", "br"}
    assert page.endswith("</details>\n<p>end</p>\n")
