"""Quarantined answers of a store: what they were quarantined for, and withdrawal of verdicts to ask again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from iot_pipeline.teacher.request import Answer
from iot_pipeline.teacher.store.schema import answers
from iot_pipeline.teacher.store.store import LOOKUP_BATCH, NO_ANSWER, Store, answer_of, execute_each

WITHDRAWN = "verdict withdrawn"
_C = answers.c
WITHDRAW = (
    sa.update(answers)
    .where(_C.key == sa.bindparam("of_key"), _C.source == sa.bindparam("of_source"), _C.status == "quarantined")
    .values(reasons=sa.bindparam("of_reasons"))
)


def sources(store: Store) -> list[str]:
    """List the sources of which the store has answers."""
    return [row[0] for row in store.read(sa.select(_C.source).distinct().order_by(_C.source))]


def quarantined(store: Store, source: str) -> Iterator[Answer]:
    """Yield the quarantined answers of a source in the order of their keys, LOOKUP_BATCH in memory at a time."""
    last = ""
    query = sa.select(answers).where(_C.source == source, _C.status == "quarantined")
    while rows := store.read(query.where(_C.key > last).order_by(_C.key).limit(LOOKUP_BATCH)):
        yield from map(answer_of, rows)
        last = rows[-1].key


def kind_of(answer: Answer) -> str:
    """Return the kind of the first reason against an answer; of a failed request, the failure."""
    reason = answer.reasons[0] if answer.reasons else "no reason"
    return reason.removeprefix(NO_ANSWER).partition(":")[0]


def withdraw(store: Store, found: Sequence[Answer]) -> None:
    """Withdraw the verdicts on quarantined answers, so that their requests are asked again.

    Texts, attempts and costs stay.
    """
    rows = [
        {
            "of_key": answer.key, "of_source": answer.source,
            "of_reasons": json.dumps([f"{NO_ANSWER}{WITHDRAWN}: {'; '.join(answer.reasons)}"]),
        }
        for answer in found
    ]  # fmt: skip
    with store.transaction() as db:
        execute_each(db, WITHDRAW, rows)
