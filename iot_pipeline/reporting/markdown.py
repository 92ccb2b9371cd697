"""Markdown of the reports: escaped values, tables, figures and quotes; and HTML made from it.

Values come from data, data set descriptions, teachers and models, so any text may be hostile. `escape` makes each show
as it is, and the HTML parser reads no HTML: what is not escaped stands in a template.
"""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import pass_context
from jinja2.runtime import Context
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markupsafe import Markup

from iot_pipeline.escaping import SIGNS
from iot_pipeline.reporting import formats
from iot_pipeline.reporting.style import DPI, alternative, embed

# Signs that make a line a heading, a list, a rule, a table's second line or a link's definition.
AT_THE_START = re.compile(r"^(\d{1,9}(?=[.)](?: |$))|(?=#|\[|[-+](?: |$)|:-|-[-:]|=+$))")

ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')


def escape(value: Any) -> Markup:
    """Format a value as one line that Markdown shows unchanged: no HTML, link, image, emphasis, list or heading."""
    if isinstance(value, Markup):
        return value
    line = html.escape(" ".join(formats.text(value).split()), quote=False)
    return Markup(AT_THE_START.sub(r"\1\\", SIGNS.sub(r"\\\g<0>", line)))


def lines(text: str) -> Markup:
    """Escape text line by line, for a table's cell."""
    return Markup("<br>".join(str(escape(line)) for line in text.splitlines()))


def table(rows: Sequence[Mapping[str, Any]], caption: str = "", asset: str = "") -> Markup:
    """Render a table whose columns are the keys in order of first use; without rows, nothing.

    Columns of numbers are right-aligned. The caption names the asset that the table comes from.
    """
    if not rows:
        return Markup()
    keys = list(dict.fromkeys(key for row in rows for key in row))
    head: list[str] = [escape(key.replace("_", " ")) for key in keys]
    numeric = (all(type(row.get(key)) in (int, float, type(None)) for row in rows) for key in keys)
    rule = ["---:" if right else "---" for right in numeric]
    body: list[list[str]] = [[escape(row.get(key)) for key in keys] for row in rows]
    title = f"{escape(caption)} {cited(asset)}\n\n" if caption else ""
    return Markup(title + "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *body]))


def cited(assets: str) -> str:
    """Return the end of a caption, which names one asset or, between commas, several."""
    return f"Asset{'s' if ',' in assets else ''}: {escape(assets)}."


@pass_context
def figure(context: Context, image: bytes, alt: str, caption: str, asset: str) -> Markup:
    """Embed a figure with its caption; where the template has a list `images`, put it there and name its place.

    Args:
        context: Context of the template.
        image: PNG bytes.
        alt: Text for those who cannot see the figure.
        caption: Sentence below the figure.
        asset: Asset that the figure comes from.

    Returns:
        Markdown.
    """
    images = context.get("images")
    if images is None:
        shown = embed(image, alt)
    else:
        images.append(image)
        shown = f"![{alternative(alt)}](drawing:{len(images) - 1})"
    return Markup(f"{shown}\\\n*{escape(caption)} {cited(asset)}*")


def quote(title: str, parts: Sequence[tuple[str, str]]) -> Markup:
    """Quote texts from data or a model, (name, text), below a title; HTML shows them folded."""
    blocks = [f"**{escape(title)}**"]
    for name, text in parts:
        paragraphs = re.split(r"\n\s*\n", "\n".join(text.splitlines()).strip("\n"))
        written = ("\\\n".join(map(_indented, paragraph.split("\n"))) for paragraph in paragraphs)
        blocks += [f"{escape(name)}:", _quoted("\n\n".join(written))]
    return Markup(_quoted("\n\n".join(blocks)))


def _indented(line: str) -> str:
    """Escape a line, and keep its indentation."""
    return Markup("&nbsp;") * (len(line) - len(line.lstrip())) + escape(line)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def anchor(name: str) -> Markup:
    """Return an anchor, the one tag besides `<br>` that `to_html` reads."""
    return Markup(f'<a id="{name}"></a>')


def parse(text: str) -> list[Token]:
    """Parse Markdown into tokens with the lines that they are from."""
    return _parser().parse(text)


def to_html(text: str, fold: bool = True) -> str:
    """Render Markdown as HTML: tables scroll, images have a size, quotes `fold`; no HTML in the text is read."""
    parser = _parser()
    tokens = parser.parse(text)
    for at, token in enumerate(tokens):
        if token.type == "inline":
            for image in (child for child in token.children or [] if child.type == "image"):
                image.attrs |= _size(str(image.attrs["src"]))
        elif token.type == "table_open" and tokens[at - 1].type == "paragraph_close":
            token.content = "".join(child.content for child in tokens[at - 2].children or [])
        elif token.tag == "blockquote" and token.level > 0:
            token.attrs = {"tabindex": "0"} if token.nesting == 1 else {}  # it scrolls
        elif token.tag == "blockquote" and fold:
            token.tag = "details"
            if token.nesting == 1:
                tokens[at + 1].tag = tokens[at + 3].tag = "summary"
    return str(parser.renderer.render(tokens, parser.options, {}))


def _size(source: str) -> dict[str, str | int | float]:
    """Return width and height of an embedded PNG in CSS pixels, so that the page does not jump."""
    head = base64.b64decode(source.split(",")[1][:32])
    return {name: round(int.from_bytes(head[at : at + 4]) * 96 / DPI) for name, at in (("width", 16), ("height", 20))}


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "xhtmlOut": False}).enable("table")
    parser.inline.ruler.before("autolink", "line_break", _line_break)
    parser.inline.ruler.before("autolink", "anchor", _anchor)
    parser.add_render_rule("anchor", lambda _self, tokens, at, *_: f'<a id="{html.escape(tokens[at].meta["id"])}"></a>')
    parser.add_render_rule("table_open", _table_open)
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return parser


def _line_break(state: StateInline, silent: bool) -> bool:
    """Read `<br>`, the one way to end a line in a table's cell."""
    found = state.src.startswith("<br>", state.pos)
    if found:
        state.pos += 4
        if not silent:
            state.push("hardbreak", "br", 0)
    return found


def _anchor(state: StateInline, silent: bool) -> bool:
    """Read an anchor; text from data or models cannot have one, since `escape` leaves no `<`."""
    found = ANCHOR.match(state.src, state.pos)
    if found:
        state.pos = found.end()
        if not silent:
            state.push("anchor", "", 0).meta["id"] = found[1]
    return found is not None


def _table_open(_: RendererHTML, tokens: Sequence[Token], at: int, *_rest: Any) -> str:
    """Open a table that scrolls on a narrow screen, named by the paragraph before it."""
    name = html.escape(tokens[at].content or "table")
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table>\n'
