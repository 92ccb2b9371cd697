"""Tables as Markdown, HTML and plain rows for Dagster, and the number formats they share."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
MISSING = "–"


def accuracy(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Format an accuracy as `0.9312 [0.92, 0.94]`; the bounds of narrow intervals get up to 4 decimals."""
    if value is None:
        return MISSING
    if low is None or high is None:
        return f"{value:.4f}"
    digits = 2 if high - low >= 0.0145 else 3 if high - low >= 0.00145 else 4
    return f"{value:.4f} [{low:.{digits}f}, {high:.{digits}f}]"


def signed(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Format a difference with sign and interval: `+0.0040 [-0.0020, +0.0100]`."""
    if value is None:
        return MISSING
    interval = "" if low is None or high is None else f" [{low:+.4f}, {high:+.4f}]"
    return f"{value:+.4f}{interval}"


def percent(value: float | None) -> str:
    """Format a share from 0 to 1 as `85.31 %`."""
    return MISSING if value is None else f"{100 * value:.2f} %"


def whole(value: float | None) -> str:
    """Format a count with thousands separators: `347,685`."""
    return MISSING if value is None else f"{value:,.0f}"


def number(value: float | None) -> str:
    """Format a number with four significant digits, without exponent at everyday sizes: `0.1234`, `123,457`."""
    if value is None:
        return MISSING
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def seconds(value: float | None) -> str:
    """Format a duration: `6.1 ms`, `1.21 s`, `42 s`, `3 min 05 s`, `2 h 07 min`."""
    if value is None:
        return MISSING
    if value < 1:
        return f"{1000 * value:.3g} ms"
    if value < 10:
        return f"{value:.2f} s"
    if value < 120:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def dollars(value: float | None) -> str:
    """Format US dollars with the cents that matter: `$0`, `$0.0042`, `$0.42`, `$1,440`."""
    if value is None:
        return MISSING
    if value == 0:
        return "$0"
    return f"${value:.4f}" if abs(value) < 0.1 else f"${value:.2f}" if abs(value) < 100 else f"${value:,.0f}"


def text(value: Any) -> str:
    """Format any value for a reader: numbers rounded, lists joined, None as a dash."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(text(item) for item in value)
    return str(value)


@dataclass(frozen=True)
class Column:
    """Table column: row key, heading, formatter, and True if it is numeric (right-aligned)."""

    key: str
    title: str = ""
    write: Callable[[Any], str] = text
    numeric: bool = False

    @property
    def heading(self) -> str:
        """Column title, or the key in words."""
        return self.title or self.key.replace("_", " ")

    def cell(self, row: Row) -> str:
        """Format the row's value for this column; the key may be missing."""
        return self.write(row.get(self.key))


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """Build a column for every key, in order of first use; numeric if every value present is a number."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return [Column(key, numeric=all(_is_number(row.get(key)) for row in rows)) for key in keys]


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def to_markdown(rows: Sequence[Row], columns: Sequence[Column] | None = None) -> str:
    """Render a GitHub table; pipes, newlines and HTML in cells are escaped. No rows give an empty string."""
    if not rows:
        return ""
    columns = columns or columns_of(rows)
    head = [_cell(column.heading) for column in columns]
    rule = ["---:" if column.numeric else "---" for column in columns]
    body = [[_cell(column.cell(row)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *body]) + "\n"


def to_html(rows: Sequence[Row], columns: Sequence[Column] | None = None, caption: str = "") -> str:
    """Render an HTML table with its caption, all text escaped; on a narrow screen the table scrolls."""
    if not rows:
        return ""
    columns = columns or columns_of(rows)
    kind = ['class="n"' if column.numeric else "" for column in columns]
    head = "".join(f'<th scope="col" {k}>{html.escape(c.heading)}</th>' for c, k in zip(columns, kind, strict=True))
    lines = []
    for row in rows:
        cells = "".join(f"<td {k}>{html.escape(c.cell(row))}</td>" for c, k in zip(columns, kind, strict=True))
        mark = f' class="{html.escape(str(row["row_class"]), quote=True)}"' if row.get("row_class") else ""
        lines.append(f"<tr{mark}>{cells}</tr>")
    title = f'<p class="caption">{html.escape(caption)}</p>' if caption else ""
    return (
        f'{title}<div class="scroll" tabindex="0" role="region"'
        f' aria-label="{html.escape(caption or "table", quote=True)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def plain_rows(rows: Sequence[Row], columns: Sequence[Column] | None = None) -> list[dict[str, str]]:
    """Return rows of formatted text by heading, for Dagster's table metadata and the terminal."""
    columns = columns or columns_of(rows)
    return [{column.heading: column.cell(row) for column in columns} for row in rows]


def _cell(value: str) -> str:
    return html.escape(value, quote=False).replace("|", "\\|").replace("\r", "").replace("\n", "<br>")
