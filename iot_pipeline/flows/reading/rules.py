"""Rules by which a source is read, and what reading found beside the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from iot_pipeline.flows.reading.parts import SOURCE_FILE
from iot_pipeline.flows.reading.rejects import Lost

if TYPE_CHECKING:
    import duckdb

    from iot_pipeline.flows.spec import DatasetSpec

REPEATED_HEADER = "repeats the header"
BLANK_ROW = "no cell is filled"


@dataclass(frozen=True)
class ReadingRules:
    """Rules that a data set's file gives for reading; without any, every column of any table is read.

    Attributes:
        needed: Columns that must be there.
        label: Column of the labels, which is never read as a number with a decimal comma.
        column_names: Names of the columns of files without a header.
        decimal: Decimal mark; None to find it out.
        texts: Columns that stay text whatever their cells look like.
        scales: Published scale of a column, as (offset, width): raw values of Zeek logs are put on it.
        guessed_scales: Columns whose scale is assumed.
    """

    needed: tuple[str, ...] = ()
    label: str | None = None
    column_names: tuple[str, ...] = ()
    decimal: str | None = None
    texts: frozenset[str] = frozenset()
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    guessed_scales: tuple[str, ...] = ()


def rules_of(spec: DatasetSpec) -> ReadingRules:
    """Return the reading rules of a data set."""
    scaled = [f for f in spec.features if f.scale is not None and f.expression is None and spec.scaling == "given"]
    scales = {f.name: (f.scale.offset, f.scale.width) for f in scaled if f.scale is not None}
    return ReadingRules(
        needed=tuple(column for column in spec.source_columns if column != SOURCE_FILE),
        label=spec.label_column,
        column_names=tuple(spec.column_names),
        decimal=spec.decimal,
        texts=spec.text_columns,
        scales=scales,
        guessed_scales=tuple(f.name for f in scaled if f.scale is not None and f.scale.basis == "assumed"),
    )


@dataclass
class Findings:
    """Lines, files and facts that reading found beside the rows.

    Attributes:
        lost: Lines that could not be read as rows.
        left_out: Lines that are no rows and no loss, by reason: repeated headers, and those of blank cells.
        skipped: Files and members of archives that were not read.
        notes: One sentence for each thing that a person should know.
        encodings: Encoding of each file that is not UTF-8.
    """

    lost: Lost = field(default_factory=Lost)
    left_out: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    encodings: dict[str, str] = field(default_factory=dict)

    def note(self, sentence: str) -> None:
        """Add a note once."""
        if sentence not in self.notes:
            self.notes.append(sentence)


@dataclass(frozen=True)
class Part:
    """One table, written as Parquet.

    Attributes:
        name: Display name of its file or member.
        file: The Parquet file.
        columns: Its columns.
        log: Path of a Zeek log (`conn`, `flowmeter`), empty for any other table.
        texts: Columns that stay text, by the types that a Zeek log declares.
    """

    name: str
    file: Path
    columns: list[str]
    log: str = ""
    texts: frozenset[str] = frozenset()


class PlainFile(NamedTuple):
    """One plain file on its way into a Parquet part: all that a reader of a format is given.

    connection: may read and write the folder of `part`. rules: of the data set. name: display name for messages.
    plain: the file, unpacked. part: Parquet file to write. findings: receives lines that are not read, and notes.
    """

    connection: duckdb.DuckDBPyConnection
    rules: ReadingRules
    name: str
    plain: Path
    part: Path
    findings: Findings
