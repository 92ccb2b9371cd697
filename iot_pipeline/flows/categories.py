"""Values of categories: how a cell becomes one word of a flow text, and the limits of what a category may hold.

A value is printed as the cell has it, without the blanks around it. Letters, digits, `_`, `-`, `/` and a point between
two of them stand as they are. Any other character would break a text or an answer and is written as the UTF-8 bytes of
a percent-encoding, which `urllib.parse.unquote` reverses:

    tcp            tcp
    HTTP/1.1       HTTP/1.1
    no info        no%20info
    </s>           %3C/s%3E
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from iot_pipeline.errors import UserError
from iot_pipeline.flows.sql import identifier, literal, one, opened

if TYPE_CHECKING:
    import duckdb

    from iot_pipeline.flows.feature import Feature
    from iot_pipeline.flows.spec import DatasetSpec

MOST_VALUES, MOST_CHARACTERS = 1_000, 64
# A category's value as it is printed. A minus or slash may stand alone: Zeek writes `-` for nothing.
VALUE = r"(?:[\w/-]|%[0-9A-F]{2}|(?<=[\w/-])\.(?=[\w/-]))+"
_BREAKS = re.compile(r"[^\w/.-]|\.(?![\w/-])|(?<![\w/-])\.")
WHOLE_TYPES = ("FLOAT", "DOUBLE", "DECIMAL")


def printed_category(value: str) -> str:
    """Return the word by which texts show a category's value; different values have different words."""
    return _BREAKS.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), value)


def text_sql(expression: str, kind: str, blank: str | None) -> str:
    """Return SQL for a category's value: trimmed text, whole numbers without a fraction, NULL or `blank` for blanks.

    Args:
        expression: SQL of the cell.
        kind: DuckDB type of the cell.
        blank: Value of a blank cell; None: it has none.
    """
    text = f"CAST({expression} AS VARCHAR)"
    if kind.startswith(WHOLE_TYPES):
        whole = f"CAST(CAST({expression} AS BIGINT) AS VARCHAR)"
        text = (
            f"CASE WHEN isnan(CAST({expression} AS DOUBLE)) THEN NULL "
            f"WHEN abs({expression}) < 1e15 AND {expression} = trunc({expression}) THEN {whole} ELSE {text} END"
        )
    trimmed = f"nullif(trim({text}, ' ' || chr(9) || chr(10) || chr(13)), '')"
    return trimmed if blank is None else f"coalesce({trimmed}, {literal(blank)})"


def print_categories(connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, table: str) -> None:
    """Replace the values of the categories in `table` by their printed words, in the rows without a reason.

    Raises UserError for a category with more than MOST_VALUES values, or one longer than MOST_CHARACTERS.
    """
    for feature in (feature for feature in spec.features if feature.is_category):
        column = identifier(feature.name)
        good = f"FROM {table} WHERE reason IS NULL"
        (number,) = one(connection, f"SELECT count(DISTINCT {column}) {good}")
        if number > MOST_VALUES:
            raise UserError(
                f"category {feature.name} of data set {spec.name} has {number:,} different values, {MOST_VALUES:,} at "
                "most: leave it out, or group its values with an expression."
            )
        found = connection.execute(f"SELECT {column}, min(source_row) {good} GROUP BY ALL").fetchall()
        changed = [(value, word) for value, _ in found if (word := printed_category(value)) != value]
        check_lengths(feature, [(printed_category(value), row) for value, row in found])
        if changed:
            cases = " ".join(f"WHEN {literal(value)} THEN {literal(word)}" for value, word in changed)
            connection.execute(
                f"UPDATE {table} SET {column} = CASE {column} {cases} ELSE {column} END WHERE reason IS NULL"
            )


def count_values(flows: Path, spec: DatasetSpec) -> dict[str, int]:
    """Count the different values of each category in flows.parquet."""
    with opened(flows=flows) as connection:
        return {
            name: one(connection, f"SELECT count(DISTINCT {identifier(name)}) FROM flows")[0]
            for name in spec.category_names
        }


def check_lengths(feature: Feature, words: Sequence[tuple[str, int]]) -> None:
    """Raise UserError for a word that is too long; `words` are (word, first data row)."""
    word, row = max(words, key=lambda found: (len(found[0]), -found[1]), default=("", 0))
    if len(word) > MOST_CHARACTERS:
        raise UserError(
            f"category {feature.name}: the value {word[:MOST_CHARACTERS]!r}... in data row {row} has {len(word)} "
            f"characters as printed, {MOST_CHARACTERS} at most: leave the feature out, or group its values with an "
            "expression."
        )
