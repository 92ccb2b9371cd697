"""Export and import of answers as one Parquet file, to publish them and replay them without key or server.

An import verifies all but the wording of a file: each key must match the request beside it, each answer is checked by
the present rules, here and again by the track that uses it, and costs are recomputed. An edited answer that still
passes (another true sentence) cannot be distinguished from one that the teacher wrote.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import replacing
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline.teacher.redaction import shown_words
from iot_pipeline.teacher.request import Answer, Request, Status, Usage
from iot_pipeline.teacher.session import LOOK_UP_AT_ONCE, Session, in_parts
from iot_pipeline.teacher.store.database import Location, shown
from iot_pipeline.teacher.store.quarantine import sources
from iot_pipeline.teacher.store.requests import keep_requests, read_requests
from iot_pipeline.teacher.store.schema import answers as answer_table
from iot_pipeline.teacher.store.store import UNCHECKED, Store, exists

# `request` is the canonical JSON whose sha256 is the key, `context` the texts by which the answer is judged; null if a
# version of the project that did not store them sent the request.
SCHEMA = pa.schema([
    *((name, pa.string()) for name in ("key", "source", "status", "text", "finish_reason", "model", "reasons")),
    *((name, pa.int64()) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")),
    ("cost_usd", pa.float64()), ("attempts", pa.int64()), ("request", pa.string()), ("context", pa.string()),
])  # fmt: skip
STORED = SCHEMA.names[:-2]
TEXTS = [name for name in SCHEMA.names if SCHEMA.field(name).type == pa.string()]
SHOWN = ("source", "model", "finish_reason")
ROWS_AT_ONCE = 1000
MOST_CHARACTERS = 1_000_000  # per cell; requests of 128,000 tokens have half of it
MOST_TOKENS = 10_000_000  # per answer, all its attempts together
WORD_LENGTH = 255  # of a source, in characters, as in the store's schema
# (request, its context in the file, text) -> reasons against the text.
ImportCheck = Callable[[Request, Mapping[str, Any], str], list[str]]


@dataclass
class Imported:
    """Counts of an import: added, kept (already stored), and refused by kind of the first reason.

    usd: cost of the added answers at list prices, which no budget is charged with. told_usd: what the file says of it.
    """

    added: int = 0
    kept: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    usd: float = field(default=0.0, compare=False)
    told_usd: float = field(default=0.0, compare=False)


class Refused(Exception):
    """Rejection of one row of a file; its text is the reason, kind first."""


def export_answers(store: Location, file: Path, of: Collection[str] = ()) -> int:
    """Export all stored answers, or those `of` some sources, sorted by key, and return their number.

    Quarantined ones are included with their reasons; the ledger of attempts is not.
    """
    if not exists(store):
        raise no_store(store)
    count = 0
    with (
        Store(store, read_only=True) as opened,
        replacing(file) as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
    ):
        for rows in _stored(opened, of):
            told = read_requests(opened, [row.key for row in rows])
            cells = [[getattr(row, name) for row in rows] for name in STORED]
            cells += [[told.get(row.key, (None, None))[place] for row in rows] for place in (0, 1)]
            writer.write_table(pa.table([pa.array(c, f.type) for c, f in zip(cells, SCHEMA, strict=True)], SCHEMA))
            count += len(rows)
    return count


def _stored(store: Store, of: Collection[str]) -> Iterator[Sequence[Any]]:
    """Yield stored answers in order of key and source, ROWS_AT_ONCE at a time."""
    c, last = answer_table.c, ("", "")
    chosen = sa.select(answer_table).where(c.source.in_(of)) if of else sa.select(answer_table)
    while True:
        after = sa.or_(c.key > last[0], sa.and_(c.key == last[0], c.source > last[1]))
        rows = store.read(chosen.where(after).order_by(c.key, c.source).limit(ROWS_AT_ONCE))
        if not rows:
            return
        yield rows
        last = rows[-1].key, rows[-1].source


def no_store(store: Location) -> UserError:
    """Return the error of a store that does not exist."""
    return UserError(
        f"there is no store of answers {shown(store)}: `iot-pipeline run` makes it, IOT_TEACHER_STORE names another."
    )


def import_answers(store: Location, file: Path, check: ImportCheck) -> Imported:
    """Add the answers of a file to a store after checking each; those already stored are left as they are.

    Nothing is charged to this store's budget. Raises UserError if the file is not a readable export.
    """
    found = Imported()
    if not file.is_file():
        raise UserError(f"{file} {'is no file' if file.exists() else 'does not exist'}: name an export of answers.")
    batches = _rows(file)
    first = next(batches, None)  # a store that is not there is not begun for a file that cannot be read
    with Store(store) as opened:
        for rows in chain([first], batches) if first else ():
            accepted: dict[tuple[str, str], tuple[Answer, Request, float]] = {}
            for row in rows:
                try:
                    answer, request = _checked(row, check)
                except Refused as reason:
                    found.refused[str(reason).split(":")[0]] += 1
                    continue
                found.kept += 1
                told = row["cost_usd"] if isinstance(row["cost_usd"], float) and math.isfinite(row["cost_usd"]) else 0.0
                accepted.setdefault((answer.key, answer.source), (answer, request, told))
            for source in {source for _, source in accepted}:
                for known in opened.lookup([key for key, _ in accepted], source):
                    accepted.pop((known.key, source), None)
            keep_requests(opened, [request for _, request, _ in accepted.values()])
            opened.save([], [answer for answer, *_ in accepted.values()])
            found.usd += sum(answer.cost_usd for answer, *_ in accepted.values())
            found.told_usd += sum(told for *_, told in accepted.values())
            found.added, found.kept = found.added + len(accepted), found.kept - len(accepted)
    return found


def _rows(file: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield rows of an export in batches; UserError if it is damaged, not an export, or has too long a cell."""
    try:
        with pq.ParquetFile(file) as opened:
            if not opened.schema_arrow.equals(SCHEMA):
                raise UserError(f"{file} is no export of answers: its columns must be {', '.join(SCHEMA.names)}.")
        # Dictionary-encoded: a cell that is repeated a thousand times is in memory once.
        with pq.ParquetFile(file, read_dictionary=TEXTS) as opened:
            for batch in opened.iter_batches(ROWS_AT_ONCE):
                for name in TEXTS:
                    longest = max((len(text) for text in batch[name].dictionary.to_pylist() if text), default=0)
                    if longest > MOST_CHARACTERS:
                        raise UserError(
                            f"{file}: column {name} has a cell of {longest:,} characters, {MOST_CHARACTERS:,} at most: "
                            "it is no export of answers, or was changed."
                        )
                yield batch.to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        told = str(error).split("\n")[0].rstrip(".")
        raise UserError(f"{file} is no Parquet file that can be read: {told}.") from error


def _checked(row: Mapping[str, Any], check: ImportCheck) -> tuple[Answer, _FromFile]:
    """Return a row's answer under the present rules, and its request; Refused if it may not be used.

    An answer that the file marks as bad stays quarantined. `checked` stays empty: a track checks the answer again.
    """
    request = _request(row)
    usage = Usage(row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"])
    counts = (usage.prompt, usage.cached, usage.completion, row["attempts"])
    if not all(isinstance(n, int) and 0 <= n <= MOST_TOKENS for n in counts) or usage.cached > usage.prompt:
        raise Refused("impossible usage: tokens and attempts must be counts, no more cached than prompt tokens")
    status, reasons = _verdict(row, request, check)
    return Answer(
        request.key, status, row["text"], row["finish_reason"], row["model"], row["source"], usage,
        _list_price(row["source"], row["model"], usage), row["attempts"], reasons,
    ), request  # fmt: skip


@dataclass(frozen=True)
class _FromFile(Request):
    """A request read from a file, with its context."""

    told: Mapping[str, str] = field(default_factory=dict, compare=False)

    def context(self) -> dict[str, str]:
        """Return the context stored in the file."""
        return dict(self.told)


def _request(row: Mapping[str, Any]) -> _FromFile:
    """Return the verified request of a row; Refused if a cell is not text or the key does not match."""
    if row["request"] is None or row["context"] is None:
        raise Refused("no request: it was asked by an earlier version of the project, which did not keep it")
    cells = [row[name] for name in TEXTS]
    if not all(isinstance(cell, str) and "\0" not in cell for cell in cells) or len(row["source"]) > WORD_LENGTH:
        raise Refused("damaged row: a cell is empty or no text")
    if not all(row[name].isprintable() for name in SHOWN):
        raise Refused("damaged row: a name in it has signs that a terminal would obey")
    if hashlib.sha256(row["request"].encode()).hexdigest() != row["key"]:
        raise Refused("wrong key: it is not the sha256 of the request")
    try:
        content, context = json.loads(row["request"]), json.loads(row["context"])
        found = _FromFile(**content, told={name: str(text) for name, text in context.items()})
        if [set(message) for message in found.messages] != [{"role", "content"}] * len(found.messages):
            raise ValueError
        found = replace(found, messages=tuple(dict(message) for message in found.messages))
        if found.key == row["key"] and all(isinstance(text, str) for m in found.messages for text in m.values()):
            return found
    except (TypeError, ValueError, AttributeError, RecursionError):
        pass
    raise Refused("damaged row: its request or context cannot be read")


def _verdict(row: Mapping[str, Any], request: _FromFile, check: ImportCheck) -> tuple[Status, tuple[str, ...]]:
    try:
        reasons = json.loads(row["reasons"])
        if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
            raise ValueError
    except (ValueError, RecursionError):
        raise Refused("damaged row: its reasons are no list of texts") from None
    if row["status"] != "ok":
        return "quarantined", tuple(reasons) or (UNCHECKED,)
    if against := check(request, request.told, row["text"]):
        raise Refused(against[0])
    return "ok", ()


def told_by_file(
    store: Store, known: Collection[tuple[str, str]]
) -> dict[tuple[str, str], tuple[int, int, int, float]]:
    """Return the usage of imported answers: attempts, prompt tokens, answer tokens and dollars, by key and source.

    Imported are the stored answers that are not in `known`, those with an attempt in the ledger. Attempts and tokens
    are as stated by the file, dollars are at list price.
    """
    c = answer_table.c
    rows = store.read(sa.select(c.key, c.source, c.attempts, c.prompt_tokens, c.completion_tokens, c.cost_usd))
    return {(row[0], row[1]): (row[2], row[3], row[4], row[5]) for row in rows if (row[0], row[1]) not in known}


def _list_price(source: str, model: str, usage: Usage) -> float:
    """Return the list price of the tokens in dollars; 0 if the server is free or no price is known."""
    try:
        return pricing.price_of(model).cost(usage) if pricing.is_paid(source) else 0.0
    except (UserError, ValueError):
        return 0.0


def replayed_source(store: Location) -> str:
    """Return the only source in a store; UserError if it has no answers or several sources."""
    if not exists(store):
        raise UserError(f"IOT_TEACHER=replay: there is no store {shown(store)}; use `iot-pipeline cache import` first.")
    with Store(store, read_only=True) as opened:
        found = sources(opened)
    if len(found) != 1:
        told = shown_words(", ".join(found)) or "nobody"
        raise UserError(
            f"IOT_TEACHER=replay: {shown(store)} holds answers of {told}; it must be those of "
            "one teacher (import into an empty store: IOT_TEACHER_STORE)."
        )
    return found[0]


class Replay(Teacher):
    """Teacher that gives out stored answers and sends nothing."""

    def __init__(self, store: Location, log: Callable[[str], None] | None = None, source: str = "") -> None:
        """Open a store; `source` is whose answers are given out, by default those of the only one in the store."""
        super().__init__(TeacherConfig("", "", store, source or replayed_source(store), None, log=log, paid=False))

    def _run(self, session: Session, requests: Iterable[Request]) -> None:
        """Give out stored answers, those without a verdict as quarantined; UserError if any is missing."""
        missing = 0
        for part in in_parts(requests, LOOK_UP_AT_ONCE):
            left = [request.key for request in session.look_up(part)]
            stored = list(session.store.lookup(left, self.source))
            missing += len(left) - len(stored)
            for answer in stored:  # look_up leaves out answers without a verdict
                session.give(replace(answer, status="quarantined", reasons=answer.reasons or (UNCHECKED,)))
        session.summary.asked = 0
        if missing:
            raise UserError(
                f"IOT_TEACHER=replay: {missing:,} of {session.summary.requests:,} answers are not in "
                f"{shown(self.config.store)}: settings, prompts or data differ from those that were answered. Set "
                "IOT_TEACHER to ask for them."
            )
