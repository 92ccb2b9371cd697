"""Asking of a track: the teacher's answers, checked by rule, are written to replies.parquet as they come."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from iot_pipeline.augmentation.answers import (
    MOST_CHARACTERS,
    NOTHING_KNOWN,
    ZERO_SHOT_VERSION,
    Known,
    facts_of,
    format_answer,
    parse_answer,
)
from iot_pipeline.augmentation.checks import check_answer
from iot_pipeline.augmentation.plan import FlowRequest, TrackPlan, row_writer
from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.lake.code_version import code_version
from iot_pipeline.teacher.request import Answer, Request, is_embedded

MOST_OF_DATA_SET = 2_000_000  # characters of what judges imported answers: 200 classes, thousands of known values
REPLIES = pa.schema(
    [
        ("key", pa.string()), ("answer", pa.string()), ("reasons", pa.list_(pa.string())), ("model", pa.string()),
        ("source", pa.string()), ("attempts", pa.int32()), ("from_cache", pa.bool_()), ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()), ("billed_usd", pa.float64()),
    ]
)  # fmt: skip


class TeacherProtocol(Protocol):
    """Teacher interface that tracks need (`teacher.client.Teacher`)."""

    source: str

    def stream(
        self,
        requests: Iterable[FlowRequest],
        check: Callable[[Request, str], list[str]],
        take: Callable[[Answer], None],
    ) -> None:
        """Draw requests as needed and pass `take` an answer for each distinct key."""


@dataclass(frozen=True)
class AnswerChecker:
    """Answer check whose version is a digest of the rules' code and inputs, so that nobody has to bump it.

    Args:
        classes: Classes of the data set.
        signed: Standardised features.
        words: Words that were asked for.
        version: Digest that the answer store compares.
        marked: True if facts must be marked.
        known: Values of categories in the train pool.
    """

    classes: tuple[str, ...]
    signed: frozenset[str]
    words: int
    version: str
    marked: bool = False
    known: Known = NOTHING_KNOWN

    def __call__(self, request: Request, text: str) -> list[str]:
        """Return the reasons against an answer, [] if it is good."""
        assert isinstance(request, FlowRequest)
        return check_answer(
            text, request.flow, request.label, self.classes, self.signed, request.original, self.words, self.marked,
            self.known,
        )  # fmt: skip


def answer_checker(spec: DatasetSpec, words: int, marked: bool = False) -> AnswerChecker:
    """Return the answer checker of a data set, a length of ANALYSIS and a form of facts, with its version."""
    rules = [code_version("iot_pipeline.augmentation.checks"), spec.classes, sorted(spec.standardised), words, marked]
    rules += [sorted(spec.known_values)] if spec.known_values else []
    version = hashlib.sha256(json.dumps(rules).encode()).hexdigest()[:16]
    return AnswerChecker(tuple(spec.classes), spec.standardised, words, version, marked, spec.known_values)


def check_imported(request: Request, context: Mapping[str, Any], text: str) -> list[str]:
    """Return the reasons against an imported answer, given the context in its file; never raises.

    A track checks the answer again, with its own flow and label. Any answer of the zero-shot teacher counts, as it does
    when it is asked.
    """
    if request.schema_version == ZERO_SHOT_VERSION:
        return []
    try:
        classes, signed, marked, known = _judging(str(context["data_set"]))
        flow, label, original = (str(context[name]) for name in ("flow", "label", "original"))
        if len(flow) > MOST_CHARACTERS:
            raise ValueError
        facts_of(flow, signed, known)
    except (KeyError, TypeError, ValueError, RecursionError, UserError):
        return ["no flow: the file does not tell by what the answer is to be judged"]
    return check_answer(text, flow, label, classes, signed, original, marked=marked, known=known)


@lru_cache(maxsize=8)
def _judging(data_set: str) -> tuple[tuple[str, ...], frozenset[str], bool, Known]:
    """Return classes, standardised features, whether facts are marked, and known values, of a request's context."""
    if len(data_set) > MOST_OF_DATA_SET:
        raise ValueError
    told = json.loads(data_set)
    known = frozenset((str(category), str(value)) for category, value in told.get("known", ()))
    return tuple(map(str, told["classes"])), frozenset(map(str, told["signed"])), told.get("marked") is True, known


def ask(plan: TrackPlan, engine: TeacherProtocol, folder: Path, log: Callable[[str], None] | None = None) -> None:
    """Ask the teacher the plan's requests, and write replies.parquet and, through the plan, requests.parquet.

    However it ends, the plan is closed: a teacher that stops may hold on to a plan that it has not drawn to its end.

    Args:
        plan: Plan of the track.
        engine: Teacher that answers.
        folder: Folder of both files.
        log: Called with progress messages.
    """
    with contextlib.closing(plan), row_writer(folder / "replies.parquet", REPLIES) as write:
        rows, expected, *_ = plan.counts
        if log is not None:
            teacher = "the embedded teacher" if is_embedded(engine.source) else plan.prompt.model
            log(f"{rows:,} rows need about {expected:,} distinct answers of {teacher}")

        def take(answer: Answer) -> None:
            label, text = plan.pending.pop(answer.key), None
            if answer.status == "ok":
                # Spell the class as in the data: a teacher may write "http flood".
                text = format_answer(
                    replace(parse_answer(answer.text), label=label), plan.config.order, plan.config.marked
                )
            reasons = answer.reasons if text is None else ()
            write(
                (
                    answer.key, text, reasons, answer.model, answer.source, answer.attempts, answer.from_cache,
                    answer.usage.prompt, answer.usage.completion, answer.cost_usd,
                )
            )  # fmt: skip

        engine.stream(plan, answer_checker(plan.config.spec, plan.config.words, plan.config.marked), take)
