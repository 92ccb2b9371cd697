"""Draft of a data set spec, inferred from an unknown table (parts in drafting/)."""

from __future__ import annotations

import contextlib
import itertools
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import yaml

from iot_pipeline.errors import UserError
from iot_pipeline.flows.drafting.columns import fault
from iot_pipeline.flows.drafting.examples import example_texts
from iot_pipeline.flows.drafting.giveaways import Giveaway, Sample, giveaway
from iot_pipeline.flows.drafting.glossary import known
from iot_pipeline.flows.drafting.labels import choose_label
from iot_pipeline.flows.drafting.render import DraftedFeature, Parts, reading_notes, render, with_examples
from iot_pipeline.flows.drafting.table import Column, Table, known_column, open_table
from iot_pipeline.flows.names import feature_name
from iot_pipeline.flows.reading.names import MOST_CHARACTERS
from iot_pipeline.flows.reading.parts import SOURCE_FILE
from iot_pipeline.flows.spec import (
    FEWEST_CLASSES,
    FEWEST_FEATURES,
    MOST_CLASSES,
    MOST_FEATURES,
    normalise_label,
    validate_spec,
)
from iot_pipeline.flows.sql import connect

SERIALISATION = "ranked"  # of the example flows, unless another one is asked for


@dataclass(frozen=True)
class Draft:
    """A drafted spec.

    Attributes:
        yaml: The file.
        label: Label column.
        features: Source columns of the features.
        labels: Class of each label.
        left_out: Reason for each column that is no feature.
        categories: Those of the features that are categories.
        notes: What reading found, a sentence each.
        giveaways: Columns that tell much of the label, with figures.
        examples: Flows as the student reads them.
    """

    yaml: str
    label: str
    features: list[str]
    labels: dict[str, str]
    left_out: dict[str, str]
    categories: list[str]
    notes: list[str]
    giveaways: dict[str, str]
    examples: list[str]


def draft_spec(
    source: str, name: str, label: str | None = None, serialisation: str = SERIALISATION, columns: Sequence[str] = ()
) -> Draft:
    """Draft a data set spec from a source: one file, several, a glob or archives, all of which are read.

    Features are the numeric columns and the text columns of few values, except constants, row numbers, addresses,
    times, copies of the label and annotations beside it.

    Args:
        source: Files, as IOT_SOURCE names them.
        name: Name of the data set.
        label: Label column; None: by evidence (drafting/labels.py).
        serialisation: Form of the example flows.
        columns: Names of the columns of files without a header.

    Raises:
        UserError: No column or none surely is the label, the given one is missing, or too few or too many columns can
            be features.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iot_draft_")))
        connection = stack.enter_context(connect(folder))
        wanted = label.strip() if label else None
        table = open_table(connection, source, folder, wanted == SOURCE_FILE, columns)
        sample = Sample.of(table.rows)
        chosen = known_column(table, wanted) if wanted else choose_label(connection, table, sample)
        rows = label_rows(connection, table.columns[chosen])
        labels = class_names(table.shown, chosen, list(rows))
        left_out, giveaways = judge_columns(connection, table, sample, chosen)
        features = drafted_features(table, [name for name in table.columns if name not in (chosen, *left_out)])
        check_number(table, features, left_out)
        blank = table.columns[chosen].blank
        parts = Parts(name, table, chosen, labels, rows, blank, features, left_out, giveaways, columns)
        text = render(parts)
        spec = validate_spec(Path(f"{name}.yaml"), yaml.safe_load(text))
        examples = example_texts(connection, spec, folder, serialisation)
    chosen_columns = [feature.column for feature in features]
    categories = [feature.column for feature in features if feature.category]
    told = {one.column: one.told for one in giveaways}
    text = with_examples(text, examples, serialisation)
    return Draft(text, chosen, chosen_columns, labels, left_out, categories, reading_notes(parts), told, examples)


def judge_columns(
    connection: duckdb.DuckDBPyConnection, table: Table, sample: Sample, label: str
) -> tuple[dict[str, str], list[Giveaway]]:
    """Return the reason for each column that is no feature, and the columns that give the label away.

    Args:
        connection: DuckDB connection with the table `given`.
        table: The table.
        sample: Rows by which columns are measured.
        label: Label column.
    """
    left_out: dict[str, str] = {}
    giveaways = []
    for name, column in table.columns.items():
        if name == label:
            continue
        if why := fault(column, table.rows):
            left_out[name] = why
        elif (found := giveaway(connection, sample, column, label)) is not None:
            giveaways.append(found)
            if found.copy:
                left_out[name] = found.why
    return left_out, giveaways


def drafted_features(table: Table, columns: Sequence[str]) -> list[DraftedFeature]:
    """Return the features of these columns, with the meanings of known names."""
    names = distinct_names([feature_name(column) for column in columns])
    entries = known(list(columns))
    return [
        DraftedFeature(
            name=name,
            column=column,
            category=not table.columns[column].is_number,
            blank=not table.columns[column].is_number and table.columns[column].blank > 0,
            entry=entries.get(column),
        )
        for name, column in zip(names, columns, strict=True)
    ]


def check_number(table: Table, features: Sequence[DraftedFeature], left_out: dict[str, str]) -> None:
    """Raise UserError if there are too few or too many features."""
    if not FEWEST_FEATURES <= len(features) <= MOST_FEATURES:
        told = ", ".join(f"{column} ({why})" for column, why in list(left_out.items())[:6]) or "none"
        raise UserError(
            f"{table.shown} has {len(features)} usable numeric columns and categories; a data set needs "
            f"{FEWEST_FEATURES} to {MOST_FEATURES}. Left out: {told}."
        )


def label_rows(connection: duckdb.DuckDBPyConnection, label: Column) -> dict[str, int]:
    """Return the rows of each normalised label, most frequent first; cells that `label.blank` counts have none."""
    rows = connection.execute(
        f"SELECT CAST({label.there} AS VARCHAR) AS l, count(*) FROM given WHERE l IS NOT NULL "
        "GROUP BY l ORDER BY count(*) DESC, l"
    ).fetchall()
    found: Counter[str] = Counter()
    for text, number in rows:
        found[normalise_label(text)] += number
    return dict(found)


def class_names(shown: str, label: str, found: Sequence[str]) -> dict[str, str]:
    """Map each normalised label to a class name without blanks; no two share a class.

    Raises UserError if there are too few or too many, or one is longer than a key of YAML may be.
    """
    if long := next((text for text in found if len(text) > MOST_CHARACTERS), ""):
        raise UserError(
            f"{shown}: column {label} has a value of {len(long):,} characters, {long[:20]!r}...; a label has "
            f"{MOST_CHARACTERS} at most."
        )
    if not FEWEST_CLASSES <= len(found) <= MOST_CLASSES:
        values = "a single value" if len(found) == 1 else f"{len(found):,} values"
        raise UserError(
            f"{shown}: column {label} has {values}; a data set has {FEWEST_CLASSES} to {MOST_CLASSES} classes."
        )
    # Labels that already are class names keep them, because the label map also accepts class names.
    order = sorted(found, key=lambda text: class_name(text) != text)
    given = dict(zip(order, distinct_names([class_name(text) for text in order]), strict=True))
    return {text: given[text] for text in found}


def class_name(text: str) -> str:
    """Return a class name as one word; a bare number is prefixed with `Class_`."""
    if not re.search(r"[^\d.+-]", text):
        return f"Class_{text}"
    words = re.findall(r"[\w-]+", text)  # KDD99 writes `normal.`
    return "_".join(words) or "_"


def distinct_names(names: Sequence[str]) -> list[str]:
    """Make names distinct (ignoring case) by appending the next free number to repeats."""
    given: dict[str, str] = {}
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(2))
        free = next(text for text in itertools.chain([name], numbered) if text.lower() not in given)
        given[free.lower()] = free
    return list(given.values())
