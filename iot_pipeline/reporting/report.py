"""Paper report: chapters rendered as one self-contained HTML file and one self-contained Markdown file."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from iot_pipeline.lake.atomic import write_text
from iot_pipeline.reporting import sections_baseline, sections_data, sections_front, sections_protocol, sections_student
from iot_pipeline.reporting.blocks import Section

TEMPLATES = Path(__file__).parent / "templates"
CHAPTERS = (
    sections_front.results,
    sections_front.about,
    sections_data.data,
    sections_data.split,
    sections_baseline.baselines,
    sections_data.tracks,
    sections_student.training,
    sections_student.evaluation,
    sections_student.explanations,
    sections_student.inference,
    sections_student.costs,
    sections_protocol.protocol,
    sections_student.audit,
    sections_student.limitations,
    sections_student.lineage,
)


def results_chapter(markdown: Path) -> str:
    """Return the chapters of a Markdown report before the one on data (banner, results, about), without figures."""
    text = markdown.read_text().split("\n## Data", 1)[0]
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("!["))


def paper_report(context: Mapping[str, Any], out_dir: Path) -> dict[str, Any]:
    """Write report.html and report.md into `out_dir` from a context (see gather.py); any part may be absent.

    Returns {html, markdown (file names), sections, figures, missing (sentences), bytes (of the HTML)}. The files do not
    depend on the time of writing. An absent part is reported as missing, never invented.
    """
    chapters = [chapter(context) for chapter in CHAPTERS]
    spec = context.get("spec") or {}
    values = {
        "title": "IoT flows, named and explained",
        "subtitle": str(spec.get("title") or spec.get("name") or (context.get("used") or {}).get("dataset") or ""),
        "banner": sections_front.banner(context),
        "sections": chapters,
        "css": (TEMPLATES / "report.css").read_text(),
    }
    page = render("report.html.j2", values)
    text = render("report.md.j2", values)
    write_text(out_dir / "report.html", page)
    write_text(out_dir / "report.md", text)
    blocks = [block for chapter in chapters for block in chapter.blocks]
    return {
        "html": "report.html",
        "markdown": "report.md",
        "sections": len(chapters),
        "figures": sum(block["kind"] == "figure" for block in blocks),
        "missing": [block["text"] for block in blocks if block["kind"] == "missing"],
        "bytes": len(page.encode()),
    }


def render(name: str, values: Mapping[str, Any]) -> str:
    """Render a template of `templates/` with autoescape; Markdown templates escape by the filter `md`."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["trusted"] = Markup  # only for markup from tables.py and style.py, which is escaped there
    environment.filters["md"] = markdown
    environment.filters["fence"] = fence
    return environment.get_template(name).render(**values)


def markdown(text: str) -> Markup:
    """Escape text so that Markdown shows it unchanged: no HTML, link, image or emphasis."""
    escaped = html.escape(" ".join(str(text).split()), quote=False)
    for sign in "\\`*_[]|":
        escaped = escaped.replace(sign, "\\" + sign)
    return Markup(escaped)  # escaped above


def fence(text: str) -> Markup:
    """Wrap text in an HTML pre element for Markdown; unlike a code fence, its content cannot close it."""
    lines = html.escape(str(text)).replace("\n\n", "\n&#8203;\n")  # a blank line would end the HTML block
    return Markup(f"<pre>{lines}</pre>")  # escaped above


__all__ = ["Section", "markdown", "paper_report", "render"]
