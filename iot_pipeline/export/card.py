"""Card of an export, README.md: what it is, its figures beside the student's, how to ask it, where it comes from."""

import re
from pathlib import Path
from typing import Any

from iot_pipeline.errors import printable
from iot_pipeline.escaping import fenced, markdown_line

ROWS = (
    ("accuracy", "accuracy"),
    ("macro-F1", "macro_f1"),
    ("ECE", "ece"),
    ("explanations without a fault", "grounded"),
)


def card(facts: dict[str, Any]) -> str:
    """Render the card; texts of data sets, bases and settings are escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, autoescape=False)
    environment.filters |= {
        "line": lambda text: markdown_line(printable(str(text))),
        "code": _code,
        "fenced": lambda text: fenced(printable(str(text))),
        "share": lambda value: f"{100 * value:.2f} %",
        "figure": lambda value: "not measured" if value is None else f"{value:.4g}",
    }
    template = environment.from_string(Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8"))
    return template.render(rows=ROWS, **facts).rstrip() + "\n"


def _code(text: str) -> str:
    """Return text as code within a line of Markdown, between more backticks than any within it."""
    shown = " ".join(printable(text).split())
    mark = "`" * (1 + max((len(run) for run in re.findall(r"`+", shown)), default=0))
    inner = f" {shown} " if "`" in shown else shown
    return f"{mark}{inner}{mark}"
