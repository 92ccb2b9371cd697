"""The requests beside the answers to them, so that an export can show what was asked and by what it was judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from iot_pipeline.teacher.request import Request, canonical
from iot_pipeline.teacher.store.schema import request_texts as texts
from iot_pipeline.teacher.store.schema import requests, table_names, upsert
from iot_pipeline.teacher.store.store import LOOKUP_BATCH, Store, execute_each

_KEYS: sa.BindParameter[str] = sa.bindparam("keys", expanding=True)
KNOWN = sa.select(requests.c.key).where(requests.c.key.in_(_KEYS))
CONTENT = sa.select(requests).where(requests.c.key.in_(_KEYS))
TEXTS = sa.select(texts).where(texts.c.id.in_(_KEYS))


def keep_requests(store: Store, asked: Sequence[Request]) -> None:
    """Write the requests that are not there yet; many processes may do so at once."""
    known = {row.key for row in _rows(store, KNOWN, [request.key for request in asked])}
    digests: dict[str, str] = {}  # a system prompt is hashed once for all of them

    def shelve(text: str) -> str:
        if text not in digests:
            digests[text] = hashlib.sha256(text.encode()).hexdigest()[:32]
        return digests[text]

    rows = [
        {"key": request.key, "content": json.dumps(_replaced(request.content(), request.context(), shelve))}
        for request in {request.key: request for request in asked if request.key not in known}.values()
    ]
    if rows:
        with store.transaction() as db:
            shelved = [{"id": digest, "text": text} for text, digest in digests.items()]
            execute_each(db, upsert(db.dialect.name, texts), shelved)
            execute_each(db, upsert(db.dialect.name, requests), rows)


def read_requests(store: Store, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Read requests by key: canonical request and context, both JSON; one that was not kept is missing."""
    if requests.name not in table_names(store):
        return {}  # opened to be read, a store without this table stays as it is
    packed: dict[str, Any] = {row.key: json.loads(row.content) for row in _rows(store, CONTENT, keys)}
    digests: dict[str, None] = {}
    for content, context in packed.values():
        _replaced(content, context, lambda digest: digests.setdefault(digest, None) or digest)
    known = {row.id: row.text for row in _rows(store, TEXTS, list(digests))}
    found = {key: _replaced(pair[0], pair[1], known.__getitem__) for key, pair in packed.items()}
    return {key: (canonical(content), canonical(context)) for key, (content, context) in found.items()}


def _rows(store: Store, query: sa.Executable, keys: Sequence[str]) -> Iterator[Any]:
    for start in range(0, len(keys), LOOKUP_BATCH):
        yield from store.read(query, {"keys": list(keys[start : start + LOOKUP_BATCH])})


def _replaced(
    content: Mapping[str, Any], context: Mapping[str, str], change: Callable[[str], str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Copy a request and its context with every text changed: into its digest, or back."""
    messages = [{**message, "content": change(message["content"])} for message in content["messages"]]
    return {**content, "messages": messages}, {name: change(text) for name, text in context.items()}
