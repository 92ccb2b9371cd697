"""Files of a finished track: chat rows, provenance, answers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.augmentation.joining import Join, Joined, Key, StoredAnswers
from iot_pipeline.augmentation.spill import Spill
from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import replacing

PROVENANCE = pa.schema(
    [
        ("position", pa.int64()), ("row_id", pa.int64()), ("flow_group", pa.string()), ("label", pa.string()),
        ("repeat", pa.int32()), ("kind", pa.string()), ("status", pa.string()), ("reasons", pa.list_(pa.string())),
        ("answer", pa.string()), ("key", pa.string()), ("seed", pa.int64()), ("variation", pa.string()),
        ("factor", pa.float64()), ("varied_group", pa.string()), ("model", pa.string()), ("source", pa.string()),
        ("attempts", pa.int32()), ("from_cache", pa.bool_()),
    ]
)  # fmt: skip
ANSWERS = pa.schema([("flow_group", pa.string()), ("label", pa.string()), ("answer", pa.string())])
ANSWERS_AT_ONCE = 5000


@dataclass(frozen=True)
class TrackResult:
    """Result of one track's increment; rows and answers are on disk and are read in parts.

    report: equal in every equal run. usage: also what the answers cost, whichever run asked for them. headline: facts
    for the asset's page, including what this run sent. answers: by (flow_group, label), for the original track only.
    """

    join: Join
    report: dict[str, Any]
    usage: dict[str, Any]
    headline: dict[str, Any]
    answers: Mapping[Key, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows with an answer."""
        return int(self.report["rows"])

    @property
    def quarantined(self) -> int:
        """Number of rows without an answer."""
        return int(self.report["quarantined"])

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Chat rows by position, all in memory: for a track known to be small."""
        return list(self.chat_rows())

    @property
    def provenance(self) -> pa.Table:
        """Provenance of every row of the increment, all in memory."""
        return pa.concat_tables([PROVENANCE.empty_table(), *map(provenance_of, self.join.parts())])

    def chat_rows(self) -> Iterator[dict[str, Any]]:
        """Yield chat rows by position."""
        return (chat_row(one) for part in self.join.parts() for one in part if one.text is not None)


def chat_row(one: Joined) -> dict[str, Any]:
    """Return a chat of flow and answer."""
    turns = [{"role": "user", "content": one.row.text}, {"role": "assistant", "content": one.text}]
    return {"messages": turns}


def provenance_of(part: list[Joined]) -> pa.Table:
    """Return the provenance of a part of the rows, with the schema PROVENANCE."""
    columns = zip(*map(_record, part), strict=True)
    return pa.table([pa.array(values, f.type) for values, f in zip(columns, PROVENANCE, strict=True)], PROVENANCE)


def _record(one: Joined) -> tuple[Any, ...]:
    row, outcome = one.row, one.outcome
    asked = outcome[-4:] if outcome is not None else (None,) * 4  # model, source, attempts, from_cache
    return (
        row.position, row.row_id, row.flow_group, row.label, row.repeat, row.kind,
        "ok" if one.text is not None else "quarantined", one.reasons, one.text, one.key, one.seed,
        row.variation, row.factor, row.varied_group, *asked,
    )  # fmt: skip


def write_track(result: TrackResult, folder: Path) -> None:
    """Write the track's files part by part, each atomically.

    track.jsonl, provenance.parquet and, for the original track, answers.parquet.
    """
    encode = json.JSONEncoder(ensure_ascii=False).encode
    with (
        replacing(folder / "track.jsonl") as jsonl,
        jsonl.open("w", encoding="utf-8") as lines,
        written(folder / "provenance.parquet", PROVENANCE) as rows,
    ):
        for part in result.join.parts():
            good = (chat_row(one) for one in part if one.text is not None)
            lines.writelines(encode(row) + "\n" for row in good)
            rows.write_table(provenance_of(part))
    if result.answers:
        ordered = sorted(result.answers)
        with written(folder / "answers.parquet", ANSWERS) as answers:
            for start in range(0, len(ordered), ANSWERS_AT_ONCE):
                keys = ordered[start : start + ANSWERS_AT_ONCE]
                columns = [*map(list, zip(*keys, strict=True)), [result.answers[key] for key in keys]]
                answers.write_table(pa.table(columns, schema=ANSWERS))


@contextlib.contextmanager
def written(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Open a Parquet writer (zstd) whose file appears complete or not at all."""
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        yield writer


def read_answers(folder: Path) -> StoredAnswers:
    """Read the original track's answers as {(flow_group, label): answer}; UserError if they are missing."""
    path = folder / "answers.parquet"
    if not path.is_file():
        raise UserError(f"{path} is missing: no answer of the original track was accepted; make it again.")
    numbers, texts = dict[Key, int](), Spill()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ANSWERS_AT_ONCE):
            for group, label, text in zip(*(batch[name].to_pylist() for name in ANSWERS.names), strict=True):
                numbers[group, label] = texts.add(text.encode())
    return StoredAnswers(numbers, texts)
