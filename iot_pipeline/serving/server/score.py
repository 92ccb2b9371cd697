"""Scoring in the shape of SGLang's /v1/score, as far as it has a meaning for a student.

A student scores classes, not any token after any text. So a flow must stand in query + item, and a label is the token
by which a class's name begins behind `CLASSIFICATION:`; its score is the probability of the classes that begin so. Or
the flow stands in the query, and the items are classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iot_pipeline.serving.classifier import Verdict
from iot_pipeline.serving.server.limits import Refusal
from iot_pipeline.serving.server.schemas import ScoreRequest
from iot_pipeline.serving.server.service import Service

SHOWN = 12  # tokens that a refusal lists


async def score(service: Service, request: ScoreRequest) -> dict[str, Any]:
    """Return the scores [items, labels]; Refusal for what has no meaning for a student."""
    if request.model_extra:
        name = next(iter(request.model_extra))[:100]
        raise Refusal(400, f"Unrecognized request argument supplied: {name}", "unknown_parameter", name)
    service.check_model(request.model if request.model != "default" else None)
    query, items = _texts(request)
    if len(items) > service.limits.flows:
        raise Refusal(413, f"{service.limits.flows:,} items are scored at once", "too_many", "items")
    classes = service.classifier.spec.classes
    if items and all(item.strip() in classes for item in items):
        return await _classes(service, request, query, [item.strip() for item in items])
    labels = _labels(service, request)
    texts = (item + query if request.item_first else query + item for item in items)  # each as long as the query
    rows = [await service.one_flow(text, f"items[{place}]") for place, text in enumerate(texts)]
    found = await service.classify(rows, request.units)
    scores = [[_sum(verdict, names) for names in labels] for verdict in found.verdicts]
    return _answer(service, [_shared(row) for row in scores] if request.apply_softmax else scores, found.flows)


async def _classes(service: Service, request: ScoreRequest, query: str, names: Sequence[str]) -> dict[str, Any]:
    """Score classes as items, each against the flow of the query."""
    if request.label_token_ids is not None or request.labels is not None:
        raise Refusal(400, "items that are classes have no further labels", "invalid_value", "label_token_ids")
    found = await service.classify([await service.one_flow(query, "query")], request.units)
    scores = [found.verdicts[0].probabilities[name] for name in names]
    return _answer(service, [[one] for one in (_shared(scores) if request.apply_softmax else scores)], found.flows)


def _texts(request: ScoreRequest) -> tuple[str, list[str]]:
    """Return query and items; Refusal for token ids, which would have to be a student's own."""
    query, items = request.query or "", request.items if request.items is not None else []
    items = [items] if isinstance(items, str) else items
    if isinstance(query, list) or any(isinstance(item, list) for item in items):
        raise Refusal(400, "query and items must be texts, not token ids", "invalid_value", "items")
    if not items:
        raise Refusal(400, "give items: flows, or classes of the flow in query", "invalid_value", "items")
    return query, [str(item) for item in items]


def _labels(service: Service, request: ScoreRequest) -> list[list[str]]:
    """Return the classes of each label, all classes if none is named; Refusal for a label of no class."""
    classes = service.classifier.spec.classes
    if request.labels is not None and request.label_token_ids is not None:
        raise Refusal(400, "give label_token_ids or labels, not both", "invalid_value", "labels")
    for name, given in (("labels", request.labels), ("label_token_ids", request.label_token_ids)):
        if given is not None and len(given) > len(classes):  # of each item: an answer of any length
            raise Refusal(413, f"{len(given):,} {name} for {len(classes)} classes: name each once", "too_many", name)
    if request.labels is not None:
        if unknown := [name for name in request.labels if name not in classes]:
            told = f"no class {unknown[0][:100]!r}; there are {', '.join(classes)}"
            raise Refusal(400, told, "invalid_value", "labels")
        return [[name] for name in request.labels]
    if request.label_token_ids is None:
        return [[name] for name in classes]
    begun: dict[int, list[str]] = {}
    for name, tokens in zip(classes, service.tokens.class_tokens(classes), strict=True):
        begun.setdefault(tokens[0], []).append(name)
    if unknown_ids := [token for token in request.label_token_ids if token not in begun]:
        known = ", ".join(f"{token} ({' or '.join(names)})" for token, names in list(begun.items())[:SHOWN])
        raise Refusal(
            400, f"token {unknown_ids[0]} begins no class; those that do: {known}", "invalid_value", "label_token_ids"
        )
    return [begun[token] for token in request.label_token_ids]


def _sum(verdict: Verdict, names: Sequence[str]) -> float:
    return sum(verdict.probabilities[name] for name in names)


def _shared(row: Sequence[float]) -> list[float]:
    """Return the softmax of log-probabilities: each probability over their sum."""
    total = sum(row)
    return [one / total for one in row] if total > 0 else [1 / len(row)] * len(row)


def _answer(service: Service, scores: list[list[float]], flows: Any) -> dict[str, Any]:
    tokens = sum(map(service.tokens.prompt, service.classifier.writer.texts(flows)))
    usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
    return {"scores": scores, "model": service.model_id, "usage": usage, "object": "scoring"}
