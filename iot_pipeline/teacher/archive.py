"""Answers as one Parquet file, to be published and replayed by others without key or server.

Belongs here: export, import, the teacher that only replays. Does not belong here: the store itself (store.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import write_table
from iot_pipeline.teacher.database import Location, shown
from iot_pipeline.teacher.engine import Teacher
from iot_pipeline.teacher.request import Answer, Request, Usage
from iot_pipeline.teacher.run import Run
from iot_pipeline.teacher.store import Store, exists
from iot_pipeline.teacher.store_tables import answers as answer_table

SCHEMA = pa.schema([
    *((name, pa.string()) for name in ("key", "source", "status", "text", "finish_reason", "model", "reasons")),
    *((name, pa.int64()) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")),
    ("cost_usd", pa.float64()), ("attempts", pa.int64()), ("checked", pa.string()),
])  # fmt: skip
ROWS_AT_ONCE = 5000


def export_answers(store: Location, file: Path) -> int:
    """Write every stored answer, quarantined ones with their reasons too, sorted by key; how many. Attempts stay."""
    if not exists(store):
        raise UserError(f"there is no store of answers {shown(store)}; run something, or set IOT_TEACHER_STORE.")
    with Store(store, read_only=True) as opened:
        rows = opened.read(sa.select(answer_table).order_by(answer_table.c.key, answer_table.c.source))
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(SCHEMA)
    write_table(file, pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA))
    return len(rows)


def import_answers(store: Location, file: Path) -> tuple[int, int]:
    """Add the answers of a file to a store; (added, kept): one that is there already is kept as it is."""
    try:
        parquet = pq.ParquetFile(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{file} is no Parquet file that can be read: {error}.") from error
    if not parquet.schema_arrow.equals(SCHEMA):
        raise UserError(f"{file} is no export of answers: its columns must be {', '.join(SCHEMA.names)}.")
    added = kept = 0
    with Store(store) as opened:
        for batch in parquet.iter_batches(ROWS_AT_ONCE):
            answers = [_answer(row) for row in batch.to_pylist()]
            present = {
                (found.key, found.source)
                for source in {answer.source for answer in answers}
                for found in opened.lookup([answer.key for answer in answers], source)
            }
            new = [answer for answer in answers if (answer.key, answer.source) not in present]
            opened.save([], new)
            added, kept = added + len(new), kept + len(answers) - len(new)
    return added, kept


def _answer(row: dict[str, Any]) -> Answer:
    return Answer(
        row["key"], row["status"], row["text"], row["finish_reason"], row["model"], row["source"],
        Usage(row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"]), row["cost_usd"], row["attempts"],
        tuple(json.loads(row["reasons"])), checked=row["checked"],
    )


def replayed_source(store: Location) -> str:
    """Whose answers a store holds; UserError where there are none, or those of several."""
    if not exists(store):
        raise UserError(f"IOT_TEACHER=replay: there is no store {shown(store)}; use `iot-pipeline cache import` first.")
    with Store(store, read_only=True) as opened:
        found = [row[0] for row in opened.read("SELECT DISTINCT source FROM answers ORDER BY source")]
    if len(found) != 1:
        raise UserError(
            f"IOT_TEACHER=replay: {shown(store)} holds answers of {', '.join(found) or 'nobody'}; it must be those of "
            "one teacher (import into an empty store: IOT_TEACHER_STORE)."
        )
    return found[0]


class Replay(Teacher):
    """Gives out what is stored and sends nothing."""

    def __init__(self, store: Location, log: Callable[[str], None] | None = None) -> None:
        super().__init__("http://127.0.0.1:9", "none", store, replayed_source(store), None, log=log, paid=False)

    async def _send(self, run: Run, parts: Iterable[list[Request]]) -> None:
        """What got no answer when it was asked is given out as such; what was never asked is an error."""
        missing = 0
        for part in parts:
            left = [request.key for request in run.from_store(part)]
            stored = list(run.store.lookup(left, self.source))
            missing += len(left) - len(stored)
            run.summary.cached += len(stored)
            for answer in stored:
                run.give(answer)
        if missing:
            raise UserError(
                f"IOT_TEACHER=replay: {missing:,} of {run.summary.requests:,} answers are not in "
                f"{shown(self.store_url)}: settings, prompts or data differ from those that were answered. Set "
                "IOT_TEACHER to ask for them."
            )
