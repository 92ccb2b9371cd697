"""Exhibits of the report: every table, figure and headline number gets a number, an anchor and links to its lineage."""

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from markdown_it.token import Token

from iot_pipeline.errors import UserError
from iot_pipeline.escaping import csv_cell
from iot_pipeline.lake.atomic import read_json, write_json
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.reporting import markdown
from iot_pipeline.reporting.latex import latex_table
from iot_pipeline.reporting.style import Drawing
from iot_pipeline.vocabulary import partition_parts

Kind = Literal["table", "figure", "number"]
FILE = "exhibits.json"
CITED = re.compile(r"\bAssets?: (?P<assets>[^.]+)\.")
DRAWING = "drawing:"  # source of an image until its figure has a number
HEADLINE = re.compile(r"^\* (?=\*\*)")


@dataclass(frozen=True)
class Exhibit:
    """One table, figure or headline number of the report.

    `assets` are named as in the report: an asset, an asset of some stage, or an artefact. A table has `columns` and
    `rows` as text, a headline number has one row.
    """

    kind: Kind
    number: int
    chapter: str
    title: str
    assets: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Anchor in report.html and report.md, and name of its files: `table-3`."""
        return f"{self.kind}-{self.number}"

    @property
    def name(self) -> str:
        """Name for readers: `Table 3`."""
        return f"{self.kind.capitalize()} {self.number}"

    def cites(self, artefact: ArtefactId) -> bool:
        """Return True if the exhibit comes from this artefact, or from assets that it is one of."""
        return any(name == str(artefact) or artefact.belongs_to(name) for name in self.assets)


class Numbering:
    """Numbers the exhibits of chapters in their order.

    Args:
        images: PNG bytes by the index that `drawing:` sources in the chapters name.
        artefacts: Artefacts with a place in the lineage chapter, to which captions link.
    """

    def __init__(self, images: Sequence[bytes], artefacts: Collection[ArtefactId]) -> None:
        self._images, self._artefacts = images, list(artefacts)
        self.exhibits: list[Exhibit] = []
        self.images: dict[str, bytes] = {}  # by id

    def chapter(self, name: str, text: str) -> str:
        """Return the chapter with numbered captions, anchors and links; its exhibits are added."""
        lines, tokens = text.split("\n"), markdown.parse(text)
        changed: dict[int, str] = {}  # by line; a caption that is missing is put before its line
        for at, token in enumerate(tokens):
            if token.map is None:
                continue
            if token.type == "table_open" and token.level == 0:  # not one within a quoted text
                self._table(name, lines, changed, tokens, at)
            elif token.type == "paragraph_open" and (image := _image(tokens[at + 1])) is not None:
                self._figure(name, lines, changed, tokens[at + 1], image)
            elif token.type == "list_item_open" and HEADLINE.match(lines[token.map[0]]):
                self._headline(name, lines, changed, tokens[at + 2], token.map[0])
        return "\n".join(changed.get(place, line) for place, line in enumerate(lines))

    def _next(self, kind: Kind, chapter: str, title: str, **parts: Any) -> Exhibit:
        number = 1 + sum(one.kind == kind for one in self.exhibits)
        cited = CITED.search(title)
        assets = [part.strip() for part in cited["assets"].split(", ")] if cited else []
        title = re.sub(r"\s+", " ", CITED.sub("", title)).strip()
        self.exhibits.append(Exhibit(kind, number, chapter, title, assets, **parts))
        return self.exhibits[-1]

    def _table(self, name: str, lines: list[str], changed: dict[int, str], tokens: list[Token], at: int) -> None:
        first = (tokens[at].map or [0])[0]
        close = next(i for i in range(at, len(tokens)) if tokens[i].type == "table_close")
        cells = [plain(token) for token in tokens[at:close] if token.type == "inline"]
        width = sum(token.type == "th_open" for token in tokens[at:close])
        rows = [cells[start : start + width] for start in range(0, len(cells), width)]
        captioned = tokens[at - 1].type == "paragraph_close" and tokens[at - 2].map is not None
        caption = plain(tokens[at - 2]) if captioned else ""
        made = self._next("table", name, caption, columns=rows[0], rows=rows[1:])
        mark = f"{markdown.anchor(made.id)}**{made.name}.**"
        if captioned:
            start, stop = tokens[at - 2].map or [0, 0]
            changed[start] = f"{mark} {lines[start]}"
            for place in range(start, stop):
                changed[place] = self.linked(changed.get(place, lines[place]))
        else:
            changed[first] = f"{mark}\n\n{lines[first]}"

    def _figure(self, name: str, lines: list[str], changed: dict[int, str], inline: Token, image: Token) -> None:
        first, stop = inline.map or [0, 0]
        source = str(image.attrs["src"])
        made = self._next("figure", name, plain(inline))
        self.images[made.id] = self._images[int(source.removeprefix(DRAWING))]
        changed[first] = f"{markdown.anchor(made.id)}{lines[first].replace(f'({source})', f'(figures/{made.id}.png)')}"
        for place in range(first + 1, stop):
            line = lines[place].replace("*", f"*{made.name}. ", 1) if place == first + 1 else lines[place]
            changed[place] = self.linked(line)

    def _headline(self, name: str, lines: list[str], changed: dict[int, str], inline: Token, place: int) -> None:
        made = self._next("number", name, plain(inline), rows=[[_strong(inline)]])
        changed[place] = self.linked(HEADLINE.sub(f"* {markdown.anchor(made.id)}", lines[place]))

    def linked(self, line: str) -> str:
        """Link the assets that a caption cites to their places in the lineage chapter."""
        return CITED.sub(lambda found: self._links(found[0], found["assets"]), line)

    def _links(self, whole: str, assets: str) -> str:
        parts = [part.strip() for part in assets.split(", ")]
        return whole.replace(assets, ", ".join(map(self._link, parts)))

    def _link(self, name: str) -> str:
        known = (one for one in self._artefacts if str(one) == name.replace("\\", "") or one.belongs_to(name))
        first = next(known, None)
        return f"[{name}](#{lineage_id(first)})" if first is not None else name


def lineage_id(artefact: ArtefactId) -> str:
    """Return the anchor of an artefact in the lineage chapter: `lineage-eval_metrics_10K-2027-original`."""
    return "-".join(["lineage", artefact.asset, *partition_parts(artefact.partition)])


def plain(inline: Token) -> str:
    """Return the text of an inline token without marks, images and anchors."""
    parts = []
    for child in inline.children or []:
        if child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        elif child.type in ("text", "code_inline", "text_special"):
            parts.append(child.content)
    return " ".join("".join(parts).replace("\N{NO-BREAK SPACE}", " ").split())


def _image(inline: Token) -> Token | None:
    images = (child for child in inline.children or [] if child.type == "image")
    return next((one for one in images if str(one.attrs["src"]).startswith(DRAWING)), None)


def _strong(inline: Token) -> str:
    """Return the first strong text of an inline token."""
    children = inline.children or []
    start = next(at for at, child in enumerate(children) if child.type == "strong_open")
    return children[start + 1].content


def write_exhibits(exhibits: Sequence[Exhibit], images: Mapping[str, bytes], out_dir: Path) -> list[str]:
    """Write exhibits.json, every table as CSV and LaTeX, every figure as PNG, SVG and PDF.

    Returns the names of the figures' files, whose bytes depend on the machine's fonts and drawing library.
    """
    write_json(out_dir / FILE, [{"id": one.id, "name": one.name, **asdict(one)} for one in exhibits])
    written = []
    for one in exhibits:
        if one.kind == "table":
            path = out_dir / "tables" / one.id
            path.parent.mkdir(exist_ok=True)
            path.with_suffix(".csv").write_text(csv_text([one.columns, *one.rows]), encoding="utf-8")
            tex = latex_table(one.id, one.title, one.columns, one.rows)
            path.with_suffix(".tex").write_text(tex, encoding="utf-8")
        elif one.kind == "figure":
            written += _write_figure(out_dir / "figures", one.id, images[one.id])
    return [f"figures/{name}" for name in written]


def csv_text(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as CSV, in which no cell is a formula; columns may share a name."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([csv_cell(cell) for cell in row] for row in rows)
    return text.getvalue()


def _write_figure(folder: Path, name: str, image: bytes) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(image)
    names = [f"{name}.png"]
    if isinstance(image, Drawing):
        (folder / f"{name}.svg").write_bytes(image.svg())
        (folder / f"{name}.pdf").write_bytes(image.pdf())
        names += [f"{name}.svg", f"{name}.pdf"]
    return names


def read_exhibits(folder: Path) -> list[Exhibit]:
    """Read exhibits.json of a report. Raises UserError if other code made the report, or a stranger the file."""
    if not (folder / FILE).is_file():
        raise UserError(f"{folder / FILE} is missing: the report was made by earlier code; `iot-pipeline run`")
    try:
        found = read_json(folder / FILE)
        return [Exhibit(**{k: v for k, v in one.items() if k not in ("id", "name")}) for one in found]
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{folder / FILE} is no list of exhibits as this code writes it") from None


def exhibit_named(exhibits: Sequence[Exhibit], name: str) -> Exhibit | None:
    """Return the exhibit that a user names as `table-3`, `Table 3`, `#table-3` or `fig. 2`; None if there is none."""
    found = re.fullmatch(r"#?(table|tab|figure|fig|number)[-. ]*(\d{1,9})", name.strip().lower())
    if found is None:
        return None
    kind = {"tab": "table", "fig": "figure"}.get(found[1], found[1])
    return next((one for one in exhibits if one.id == f"{kind}-{int(found[2])}"), None)
