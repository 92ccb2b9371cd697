"""Texts of data, teachers and models as they may stand in Markdown and in spreadsheets without being obeyed."""

import re
from typing import Any

# Signs that mean something within a line of Markdown: code, emphasis, a column's end, strikethrough, an escape, a
# link's middle; `_` means nothing between two letters or digits.
SIGNS = re.compile(r"[\\`*|~]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")
# The same, and what Markdown passes on to HTML: a tag, an entity.
MARKUP = re.compile(rf"{SIGNS.pattern}|<(?=[A-Za-z/!?])|&(?=#?\w+;)")
FORMULA = re.compile(r"[=+\-@\t\r]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)")


def markdown_line(text: str) -> str:
    """Escape text that stands within a line of Markdown; line breaks become blanks."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def fenced(text: str) -> str:
    """Return text as a Markdown code block, whose fence is longer than any within it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def csv_cell(value: Any) -> Any:
    """Put `'` before text that a spreadsheet would run as a formula; numbers stay as they are."""
    if isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value
