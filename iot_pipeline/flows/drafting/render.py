"""YAML of a drafted data set file, as a person would write it, with TODO for what is left to fill in."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from iot_pipeline.errors import printable
from iot_pipeline.flows.drafting.giveaways import Giveaway
from iot_pipeline.flows.drafting.glossary import Entry
from iot_pipeline.flows.drafting.table import Table
from iot_pipeline.flows.sql import identifier

BLANK = "none"  # value of a category's blank cells


@dataclass(frozen=True)
class DraftedFeature:
    """Feature of a draft: its name, source column, kind, and what is known of it."""

    name: str
    column: str
    category: bool
    blank: bool
    entry: Entry | None


@dataclass(frozen=True)
class Parts:
    """Parts of a drafted file.

    Attributes:
        name: Name of the data set.
        table: The table.
        label: Label column.
        labels: Class of each label.
        label_rows: Rows of each label.
        blank_labels: Rows without a label.
        features: Its features.
        left_out: Reason for each column that is no feature.
        giveaways: Columns that tell much of the label.
        column_names: Names given for the columns of a file without a header.
    """

    name: str
    table: Table
    label: str
    labels: Mapping[str, str]
    label_rows: Mapping[str, int]
    blank_labels: int
    features: Sequence[DraftedFeature]
    left_out: Mapping[str, str]
    giveaways: Sequence[Giveaway]
    column_names: Sequence[str] = ()


def quoted(text: str) -> str:
    """Return a text as YAML: a JSON string, but a character beyond 16 bits has one escape and not two halves."""
    return "".join(map(_escaped, json.dumps(text, ensure_ascii=False)))


def _escaped(sign: str) -> str:
    return sign if sign.isprintable() else f"\\u{ord(sign):04x}" if ord(sign) < 0x10000 else f"\\U{ord(sign):08x}"


def one_line(text: str) -> str:
    """Return a text for a comment: without line breaks and other control characters."""
    return printable(" ".join(text.split()))


def render(parts: Parts) -> str:
    """Return the drafted file."""
    classes = list(dict.fromkeys(parts.labels.values()))
    todo = "Fill in what says TODO; `iot-pipeline datasets check` tells what does not fit."
    lines = [
        f"# Drafted from {quoted(parts.table.shown)}. {todo}",
        *(f"# {line}" for line in reading_notes(parts)),
        f"name: {parts.name}",
        "title: TODO",
        "citation: TODO",
        "licence: TODO",
        *([f"column_names: [{', '.join(map(quoted, parts.column_names))}]"] if parts.column_names else []),
        f"label_column: {quoted(parts.label)}",
        "# source label -> class; a class name may be changed on the right and in `classes`",
        "labels:",
        *blank_label_comment(parts),
        *(
            f"  {quoted(given)}: {quoted(known)}  # {parts.label_rows[given]:,} rows"
            for given, known in parts.labels.items()
        ),
        "classes:",
        *(f"  - {quoted(known)}" for known in classes),
        "# or train_pool: texts show z-scores fitted on the train pool alone; or given: the file's values are scaled",
        "scaling: none",
        "scaling_note: values as delivered, not scaled",
        "# printed digits decide which rows are the same flow",
        "format: {significant: 4}",
        *(f"# left out: {quoted(column)}: {one_line(why)}" for column, why in parts.left_out.items()),
        *meanings_comment(parts),
        *(f"# strong: {quoted(one.column)}: {one_line(one.told)}" for one in parts.giveaways if not one.copy),
        "# expression: DuckDB SQL over double-quoted source columns",
        "features:",
    ]
    for feature in parts.features:
        lines += _feature(feature)
    return "\n".join(lines) + "\n"


def reading_notes(parts: Parts) -> list[str]:
    """Return a sentence for each thing that reading found: files, lines that are no rows, encodings, blank labels."""
    report = parts.table.report
    files = len(report.files)
    said = [f"{parts.table.rows:,} rows of {files} file{'s' if files > 1 else ''} were read."]
    for reason, lines in report.rejected.items():
        example = next((one for one in report.examples if one["reason"] == reason), None)
        where = f", first in {example['file']}, line {example['line']}" if example else ""
        said.append(f"{lines:,} line{'s' if lines > 1 else ''} could not be read as rows: {reason}{where}.")
    # Most are told by a note with their first line.
    untold = {why: lines for why, lines in report.left_out.items() if not any(why in note for note in report.notes)}
    said += [f"Left out: {lines:,} line{'s' if lines > 1 else ''}, {why}." for why, lines in untold.items()]
    said += [f"Not read, no table by its name: {name}." for name in report.skipped]
    said += list(report.notes)
    if parts.blank_labels:
        share = parts.blank_labels / max(1, parts.table.rows)
        said.append(f"{parts.blank_labels:,} rows ({share:.1%}) have no label in {parts.label}.")
    said += [
        f"The label {given!r} has no word: name what it means on the right of its line in `labels`."
        for given in parts.labels
        if not re.search(r"[^\W_]", given)
    ]
    said += [
        f"{' and '.join(map(repr, spellings))} differ in {what} only and are classes of their own: give them one class "
        "in `labels` if they mean the same."
        for what, spellings in nearly_equal(list(parts.labels))
    ]
    return [one_line(line) for line in dict.fromkeys(said)]


def nearly_equal(labels: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the groups of labels that are equal but for case, blanks and punctuation, each with what differs."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        letters = re.sub(r"[\W_]+", "", label.casefold())
        groups.setdefault(letters if re.search(r"[^\d]", letters) else label, []).append(label)
    return [
        ("case" if len(set(map(str.casefold, group))) == 1 else "case, blanks or punctuation", group)
        for group in groups.values()
        if len(group) > 1
    ]


def blank_label_comment(parts: Parts) -> list[str]:
    """Return the line that would give the rows without a label a class, as a comment."""
    if not parts.blank_labels:
        return []
    normal = next((name for name in parts.labels.values() if name.lower() in ("normal", "benign")), "Normal")
    return [
        f"  # {parts.blank_labels:,} rows have no label and are rejected; if they are normal traffic, give them a class"
        " (and list it):",
        f'  # "": {normal}',
    ]


def meanings_comment(parts: Parts) -> list[str]:
    """Return where units and meanings are from, by the tool whose names the columns have."""
    found = Counter((one.entry.family, one.entry.source) for one in parts.features if one.entry)
    return [
        f"# units and meanings of {number} features: {family}, {source}" for (family, source), number in found.items()
    ]


def with_examples(text: str, examples: Sequence[str], serialisation: str) -> str:
    """Append example flows to a drafted file, as comments."""
    lines = [f"# Flows as the student reads them, serialisation {serialisation}:"] if examples else []
    for example in examples:
        lines += ["#", *(f"#   {line}" for line in example.split("\n"))]
    return text + "".join(f"{line}\n" for line in lines)


def _feature(feature: DraftedFeature) -> list[str]:
    entry = feature.entry
    lines = [f"  - name: {quoted(feature.name)}"]
    if feature.category:
        lines.append("    kind: category")
    if feature.name != feature.column:
        lines.append(f"    expression: {quoted(identifier(feature.column))}")
    if feature.blank:
        lines.append(f"    blank: {BLANK}")
    lines.append(f"    unit: {quoted(entry.unit if entry else '')}")
    lines.append(f"    meaning: {quoted(entry.meaning)}" if entry else "    meaning: TODO")
    return lines
