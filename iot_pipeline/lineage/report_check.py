"""Proof of the report: it is rendered again from the files that it cites, and every difference is named.

What is compared is the text of report.md and report.html, line by line, every table's CSV, and the figures as drawn.
"""

import csv
import difflib
import html
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.flows.rare import with_kept_classes
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest
from iot_pipeline.lake.verify import Mismatch
from iot_pipeline.reporting.exhibits import Exhibit, csv_text
from iot_pipeline.reporting.gather import Facts, gather
from iot_pipeline.reporting.report import html_page, written

REPORT = ArtefactId("paper_report")
ANCHOR = re.compile(r'<a id="((?:table|figure|number)-\d+)"></a>')
CELL = re.compile(r"<t[hd][^>]*>(.*?)</t[hd]>")
TAG = re.compile(r"<[^>]+>")
SHOWN = 80  # characters of a differing line
MOST = 50  # differences that are listed of one file


@dataclass
class ReportCheck:
    """Figures of the report that were compared, all differences, and what was left out and why."""

    exhibits: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_report(lake: Lake, same_machine: bool = True) -> ReportCheck:
    """Render the report of a lake again from its inputs and compare; writes nothing.

    same_machine: False if the report was drawn on another machine, whose fonts and libraries draw other pictures: the
    figures are not compared then.

    Whoever calls it has verified the inputs: what is rendered from altered files proves nothing.
    """
    manifest, found = lake.manifest(REPORT), ReportCheck()
    if manifest is None:
        found.notes.append("there is no report, so no figure was compared with its file")
        return found
    try:
        head, chapters, numbering = written(facts := facts_of(lake, manifest))
    except UserError as error:
        found.notes.append(f"the report's figures were not compared: {error}")
        return found
    found.exhibits = len(numbering.exhibits)
    expected = {
        "report.md": "\n".join([head, *chapters.values()]),
        "report.html": html_page(facts, head, chapters, numbering.images),
    }
    expected |= {f"tables/{one.id}.csv": csv_text([one.columns, *one.rows])
                 for one in numbering.exhibits if one.kind == "table"}  # fmt: skip
    folder, named = lake.folder(REPORT), {one.id: one for one in numbering.exhibits}
    for name, text in expected.items():
        path = folder / name
        if not path.is_file():  # the manifest names it, or the report was made by earlier code
            continue
        there = path.read_text(encoding="utf-8", errors="replace")
        if not same_machine and name == "report.html":
            there, text = (re.sub(r"data:image/png;base64,[\w+/=]+", "", page) for page in (there, text))
        found.mismatches += _named(name, text, there, named)
    if same_machine:
        for one, image in numbering.images.items():
            path = folder / "figures" / f"{one}.png"
            if path.is_file() and path.read_bytes() != image:
                cited = ", ".join(named[one].assets)
                found.mismatches.append(
                    Mismatch(str(REPORT), f"figures/{one}.png, {named[one].name}", f"as drawn from {cited}", "another")
                )
    else:
        found.notes.append("pictures were drawn on another machine and not compared; all other figures were")
    return found


def facts_of(lake: Lake, manifest: Manifest) -> Facts:
    """Return the facts that a report was rendered from: those of the inputs that its manifest names.

    Raises UserError if the manifest, such as a stranger's, names no data set or an input that is no artefact.
    """
    if "setting dataset" not in manifest.settings:
        raise UserError(f"the manifest of {REPORT} names no data set")
    folders = {artefact: lake.folder(artefact) for artefact in manifest.upstream()}
    spec = load_spec(str(manifest.settings["setting dataset"]))
    return gather(folders, with_kept_classes(spec, lake.folder(ArtefactId("flows"))))


def _named(file: str, expected: str, found: str, exhibits: dict[str, Exhibit]) -> list[Mismatch]:
    """Return the differences of two texts, each with the exhibit, row and column in which it stands."""
    if expected == found:
        return []
    if file.endswith(".csv"):
        return _in_csv(file, expected, found, exhibits)
    want, have = expected.split("\n"), found.split("\n")
    mismatches = []
    for ours, theirs in _pairs(want, have):
        line = want[ours] if ours is not None else ""
        other = have[theirs] if theirs is not None else ""
        place = _place(want, ours, exhibits) if ours is not None else _place(have, theirs or 0, exhibits)
        cell = _cell(want, have, ours, theirs) if ours is not None and theirs is not None else None
        where, line, other = cell or ("", line, other)
        told = f"{file}, {place}" + (f", {where}" if where else "")
        mismatches.append(Mismatch(str(REPORT), told, _short(line) or "no such line", _short(other) or "no such line"))
    more = len(mismatches) - MOST
    return mismatches[:MOST] + (
        [Mismatch(str(REPORT), file, "no further differences", f"{more:,} more lines")] if more > 0 else []
    )


def _pairs(want: Sequence[str], have: Sequence[str]) -> Iterator[tuple[int | None, int | None]]:
    """Yield the places of lines that differ, in both texts; None where one has no such line."""
    if len(want) == len(have):
        yield from ((at, at) for at, (a, b) in enumerate(zip(want, have, strict=True)) if a != b)
        return
    for kind, i, j, k, m in difflib.SequenceMatcher(None, want, have, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        for step in range(max(j - i, m - k)):
            yield (i + step if i + step < j else None), (k + step if k + step < m else None)


def _place(lines: Sequence[str], at: int, exhibits: dict[str, Exhibit]) -> str:
    """Return the exhibit, or the chapter, in which a line stands."""
    chapter = ""
    inside = bool(re.match(r"\||</?t|<div|\*Figure|<em>Figure", lines[at].lstrip()))
    for place in range(at, -1, -1):
        anchor = ANCHOR.search(lines[place])
        if anchor and anchor[1] in exhibits and (inside or place == at):
            return f"{exhibits[anchor[1]].name} ({', '.join(exhibits[anchor[1]].assets)})"
        if lines[place].startswith("## ") or "<h2>" in lines[place]:
            chapter = TAG.sub("", lines[place]).removeprefix("## ")
            break
    return f"chapter {chapter}" if chapter else "head"


def _cell(want: Sequence[str], have: Sequence[str], ours: int, theirs: int) -> tuple[str, str, str] | None:
    """Return row and column of the first differing cell of a table's line, with both cells; None elsewhere."""
    line, other = want[ours], have[theirs]
    if line.startswith("| ") and other.startswith("| "):
        a, b = (_cells(text) for text in (line, other))
        if len(a) == len(b):
            at = next((at for at, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1]), 0)
            start = next(at for at in range(ours, -1, -1) if not want[at - 1].startswith("|"))
            return f"row {a[0]}, column {_cells(want[start])[at]}", a[at], b[at]
    if CELL.fullmatch(line.strip()) and CELL.fullmatch(other.strip()):
        row = max(at for at in range(ours, -1, -1) if want[at].strip() == "<tr>")
        start = max(at for at in range(ours, -1, -1) if "<table>" in want[at])
        heads = [_text(text) for text in want[start:ours] if re.match(r"\s*<th[ >]", text)]
        column = ours - row - 1
        name = heads[column] if column < len(heads) else str(column + 1)
        return f"row {_text(want[row + 1])}, column {name}", _text(line), _text(other)
    return None


def _cells(line: str) -> list[str]:
    return [part.strip().strip("*") for part in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def _text(line: str) -> str:
    return html.unescape(TAG.sub("", line)).strip()


def _short(line: str) -> str:
    """Shorten a line, and an embedded picture in it."""
    line = re.sub(
        r"data:image/png;base64,[\w+/=]+", "(a picture)", _text(ANCHOR.sub("", line)) if "<" in line else line
    )
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"


def _in_csv(file: str, expected: str, found: str, exhibits: dict[str, Exhibit]) -> list[Mismatch]:
    """Return the differing cells of a table's CSV file."""
    want, have = (list(csv.reader(io.StringIO(text))) for text in (expected, found))
    one: Any = exhibits[Path(file).stem]
    place = f"{file}, {one.name} ({', '.join(one.assets)})"
    if [len(row) for row in want] != [len(row) for row in have]:
        return [Mismatch(str(REPORT), place, f"{len(want) - 1:,} rows", f"{len(have) - 1:,} rows or other columns")]
    return [
        Mismatch(str(REPORT), f"{place}, row {row[0]}, column {want[0][at]}", cell, other[at])
        for row, other in zip(want, have, strict=True)
        for at, cell in enumerate(row)
        if cell != other[at]
    ][:MOST]
