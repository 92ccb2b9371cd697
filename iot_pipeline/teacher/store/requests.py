"""The requests beside the answers to them, so that an export can show what was asked and by what it was judged.

A text that many requests share (the system message, a flow) is kept once, under a digest of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from iot_pipeline.teacher.request import Request, canonical
from iot_pipeline.teacher.store.schema import TEXT, WORD
from iot_pipeline.teacher.store.store import LOOKUP_BATCH, Store

# Made when a first request is kept: stores that were made before have none.
_metadata = sa.MetaData()


def _table(name: str, key: str, text: str) -> sa.Table:
    return sa.Table(
        name, _metadata, sa.Column(key, WORD, primary_key=True), sa.Column(text, TEXT, nullable=False),
        mysql_engine="InnoDB", mysql_charset="utf8mb4", mysql_collate="utf8mb4_bin",
    )  # fmt: skip


texts = _table("request_texts", "id", "text")
# `content`: JSON of the request and its context, with digests in place of the texts.
requests = _table("requests", "key", "content")
_KEYS: sa.BindParameter[str] = sa.bindparam("keys", expanding=True)
KNOWN = sa.select(requests.c.key).where(requests.c.key.in_(_KEYS))
CONTENT = sa.select(requests).where(requests.c.key.in_(_KEYS))
TEXTS = sa.select(texts).where(texts.c.id.in_(_KEYS))


class RequestTable:
    """The requests of a store. `keep` may be called by many processes at once."""

    def __init__(self, store: Store) -> None:
        self._store, self._made = store, False

    def keep(self, asked: Sequence[Request]) -> None:
        """Write those requests that are not there yet."""
        if not self._made:
            for table in (texts, requests):
                self._store.database.make(table)
            self._made = True
        known = {row.key for row in self._rows(KNOWN, [request.key for request in asked])}
        shared: dict[str, str] = {}

        def shelve(text: str) -> str:
            digest = hashlib.sha256(text.encode()).hexdigest()[:32]
            shared[digest] = text
            return digest

        rows = [
            {"key": request.key, "content": json.dumps(_replaced(request.content(), request.context(), shelve))}
            for request in {request.key: request for request in asked if request.key not in known}.values()
        ]
        if rows:
            with self._store.transaction():
                self._store.database.put(texts, [{"id": digest, "text": text} for digest, text in shared.items()])
                self._store.database.put(requests, rows)

    def read(self, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Canonical request and context, both JSON, by key; a request that was not kept is missing."""
        if not self._store.database.has(requests):
            return {}
        packed: dict[str, Any] = {row.key: json.loads(row.content) for row in self._rows(CONTENT, keys)}
        digests: dict[str, None] = {}
        for content, context in packed.values():
            _replaced(content, context, lambda digest: digests.setdefault(digest, None) or digest)
        known = {row.id: row.text for row in self._rows(TEXTS, list(digests))}
        found = {key: _replaced(pair[0], pair[1], known.__getitem__) for key, pair in packed.items()}
        return {key: (canonical(content), canonical(context)) for key, (content, context) in found.items()}

    def _rows(self, query: sa.Executable, keys: Sequence[str]) -> Iterator[Any]:
        for start in range(0, len(keys), LOOKUP_BATCH):
            yield from self._store.read(query, {"keys": list(keys[start : start + LOOKUP_BATCH])})


def _replaced(
    content: Mapping[str, Any], context: Mapping[str, str], change: Callable[[str], str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """A request and its context with every text changed: into its digest, or back."""
    messages = [{**message, "content": change(message["content"])} for message in content["messages"]]
    return {**content, "messages": messages}, {name: change(text) for name, text in context.items()}
