"""Paper report and model cards from chapters in Markdown; the HTML file is made from the same Markdown."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Undefined, UndefinedError
from markupsafe import Markup

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import write_text
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.reporting import causes, claims, figures, figures_data, figures_unknown, formats, markdown, rows
from iot_pipeline.reporting.artefact_json import ArtefactJson, made_otherwise
from iot_pipeline.reporting.comparison import BASELINES
from iot_pipeline.reporting.exhibits import Numbering, lineage_id, write_exhibits
from iot_pipeline.reporting.gather import Facts, metrics
from iot_pipeline.reporting.style import data_uri
from iot_pipeline.vocabulary import SIDES, STAGES, VIEWS, Partition

MISSING = "not materialised in this lake"
TITLE = "IoT flows, named and explained"
FOLDER = Path(__file__).parent
# Files are named in full here, since the code version of the report counts the data files that a module names.
CHAPTERS = (
    "results.md.j2",
    "study.md.j2",
    "about.md.j2",
    "data.md.j2",
    "split.md.j2",
    "baselines.md.j2",
    "tracks.md.j2",
    "training.md.j2",
    "evaluation.md.j2",
    "unknown.md.j2",
    "explanations.md.j2",
    "reasons.md.j2",
    "inference.md.j2",
    "cost.md.j2",
    "protocol.md.j2",
    "claims.md.j2",
    "limitations.md.j2",
    "lineage.md.j2",
)
INCLUDED = ("banner.md.j2", "limits.md.j2", "study_grid.md.j2", "study_zero_shot.md.j2")
FORMATS = ("accuracy", "dollars", "fixed", "percent", "plain", "protocol_arm", "seconds", "signed", "whole")


class Absent(StrictUndefined):
    """A key that a report lacks: it can be tested for; showing it is an error, which names the artefact it is from."""

    __bool__ = Undefined.__bool__  # type: ignore[assignment]
    __format__ = Undefined._fail_with_undefined_error

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if isinstance(self._undefined_obj, ArtefactJson):
            self._undefined_hint = self._undefined_obj.lacks(self._undefined_name)
            self._undefined_exception = UserError  # type: ignore[assignment]


def paper_report(facts: Facts, out_dir: Path) -> dict[str, Any]:
    """Write report.html and report.md, exhibits.json, and each table and figure as files into `out_dir`.

    What is missing from the lake is said to be. The files do not depend on the time of writing.

    Returns {sections, figures, tables, missing (sentences), results (the chapters on results, without figures),
    drawn (files whose bytes depend on the machine's fonts)}.
    """
    head, chapters, numbering = written(facts)
    text = "\n".join([head, *chapters.values()])
    write_text(out_dir / "report.html", html_page(facts, head, chapters, numbering.images))
    write_text(out_dir / "report.md", text)
    drawn = write_exhibits(numbering.exhibits, numbering.images, out_dir)
    opening = "\n".join([head, chapters["results"], chapters["about"]])
    kinds = Counter(one.kind for one in numbering.exhibits)
    return {
        "sections": len(chapters),
        "figures": kinds["figure"],
        "tables": kinds["table"],
        "missing": re.findall(rf"^\*(.+: {MISSING}\.)\*$", text, re.MULTILINE),
        "results": "\n".join(line for line in opening.splitlines() if "](figures/" not in line),
        "drawn": ["report.html", *drawn],
    }


def written(facts: Facts) -> tuple[str, dict[str, str], Numbering]:
    """Return head and chapters as Markdown, every exhibit numbered; figures are named as files beside report.md."""
    images: list[bytes] = []
    head = render("head.md.j2", facts, title=TITLE, subtitle=subtitle(facts))
    numbering = Numbering(images, [ArtefactId(one.asset, one.partition) for one in facts.lineage])
    chapters = {}
    for name in CHAPTERS:
        chapter = name.removesuffix(".md.j2")
        chapters[chapter] = numbering.chapter(chapter, render(name, facts, images=images))
    return head, chapters, numbering


def subtitle(facts: Facts) -> str:
    """Return the data set of a report as its subtitle."""
    return facts.data_set.title or facts.data_set.name or facts.used.dataset or ""


def html_page(facts: Facts, head: str, chapters: Mapping[str, str], images: Mapping[str, bytes]) -> str:
    """Return the report as one HTML page that needs no other file.

    Args:
        facts: Facts of the lake.
        head: Markdown above the chapters.
        chapters: Markdown of the chapters, by name.
        images: PNG bytes of the figures, by id.
    """
    page = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True).get_template("page.html.j2")
    sections = [
        {
            "id": name,
            "title": chapter.split("\n", 1)[0].removeprefix("## "),
            "html": Markup(markdown.to_html(embedded(chapter, images))),
        }
        for name, chapter in chapters.items()
    ]
    return page.render(
        title=TITLE,
        subtitle=subtitle(facts),
        css=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        head=Markup(markdown.to_html(head, fold=False)),
        sections=sections,
    )


def embedded(text: str, images: Mapping[str, bytes]) -> str:
    """Replace the names of figure files in Markdown by the figures themselves."""
    return re.sub(r"\(figures/([\w-]+)\.png\)", lambda found: f"({data_uri(images[found[1]])})", text)


def model_card(facts: Facts, partition: Partition) -> str:
    """Return the Markdown model card of a checkpoint, with the front matter that model hubs read.

    Raises UserError if the checkpoint has not been trained.
    """
    if partition not in facts.training:
        raise UserError(f"there is no checkpoint {partition.key} in this lake; materialise lora_checkpoint first")
    front = yaml.safe_dump(_front_matter(facts, partition), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n{render('model_card.md.j2', facts, partition=partition)}"


def _front_matter(facts: Facts, partition: Partition) -> dict[str, Any]:
    data, base = facts.data_set, facts.base_model or {}
    values: dict[str, Any] = {
        "language": "en",
        "library_name": "peft",
        "license": "other" if base.get("kind") != "tiny" else "mit",
        "pipeline_tag": "text-generation",
        "tags": ["iot", "intrusion-detection", "lora", "iot_pipeline"],
        "datasets": [data.name or "unknown"],
    }
    if base.get("kind") in ("given", "smollm2"):
        values["base_model"] = base["name"]
        values["license_name"] = "that of the base model and of the data"
    scored = facts.evaluation.get(partition, {"views": {}})["views"].get("distinct")
    if scored:
        title = data.title or "unknown"
        dataset = {
            "name": f"simulated: {title}" if facts.simulated else title,
            "type": data.name or "unknown",
            "split": "test",
        }
        metrics = [
            {"type": name, "name": f"{name}, distinct flows, unseen in training", "value": round(scored[field], 6)}
            for name, field in (("accuracy", "accuracy"), ("f1", "macro_f1"))
        ]
        result = {"task": {"type": "text-classification"}, "dataset": dataset, "metrics": metrics}
        values["model-index"] = [{"name": f"{partition.track}-{partition.stage}", "results": [result]}]
    return values


def render(name: str, facts: Facts, **values: Any) -> str:
    """Render a chapter as Markdown; every value that a template shows is escaped unless it is Markup already."""
    text = _environment().get_template(name).render(facts=facts, **values)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "chapters"),
        finalize=markdown.escape,
        undefined=Absent,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {name: getattr(formats, name) for name in FORMATS}
    environment.filters |= {"name_of": rows.name_of, "lines": markdown.lines, "figure": markdown.figure}
    environment.globals |= {
        "MISSING": MISSING,
        "STAGES": STAGES,
        "anchor": markdown.anchor,
        "lineage_id": lineage_id,
        "SIDES": SIDES,
        "VIEWS": VIEWS,
        "BASELINES": BASELINES,
        "causes": causes,
        "claims": claims,
        "figures": figures,
        "figures_data": figures_data,
        "figures_unknown": figures_unknown,
        "rows": rows,
        "have": have,
        "missing": missing,
        "metrics": metrics,
        "nothing": defaultdict(lambda: None),
        "quote": markdown.quote,
        "table": markdown.table,
    }
    return environment


def have(part: Any, asset: str, caller: Callable[[Any], str]) -> str:
    """Render the block that calls with a part of the facts, or say that its asset is missing.

    Raises UserError for a value that cannot be shown and does not tell its artefact, being derived from one.
    """
    try:
        return caller(part) if part else missing(asset) + "\n"
    except UndefinedError as error:
        raise UserError(f"{asset}, or what is shown with it, {made_otherwise(str(error))}") from error


def missing(asset: str) -> Markup:
    """Say that an asset has not been materialised."""
    return Markup(f"*{asset}: {MISSING}.*")
