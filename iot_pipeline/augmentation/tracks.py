"""The three tracks: which row asks what of the teacher."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd

from iot_pipeline.augmentation import answers as answers_module
from iot_pipeline.augmentation.answers import (
    MOST_CHARACTERS,
    OBJECT_VERSION,
    SCHEMA_VERSION,
    answer_schema,
    check_answer,
    check_paraphrase,
    facts_of,
)
from iot_pipeline.augmentation.joining import Drawn, FlowRequest, Join, Key, Row, class_table, count
from iot_pipeline.augmentation.prompts import PromptFile, glossary_of, standardised
from iot_pipeline.augmentation.track_files import TrackResult
from iot_pipeline.augmentation.variation import Variation, Varier, zero_points
from iot_pipeline.errors import UserError
from iot_pipeline.flows import serialise
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.teacher.request import Answer, Request, is_embedded

Log = Callable[[str], None]
# Texts of some rows; made where they are needed, for all of them together would fill the memory.
ToTexts = Callable[[pd.DataFrame], Sequence[str]]
COLUMNS = ("position", "row_id", "flow_group", "label", "repeat")
ROWS_AT_ONCE = 2000


class TeacherProtocol(Protocol):
    """What tracks need of `teacher.engine.Teacher`."""

    source: str

    def stream(
        self,
        requests: Iterable[FlowRequest],
        check: Callable[[Request, str], list[str]],
        take: Callable[[Answer], None],
    ) -> None:
        """Draw requests as they are needed and give `take` an answer for each distinct key."""


@dataclass(frozen=True)
class AnswerChecker:
    """A check that knows its version: the rules' source and what they are told, so that no one has to count it up."""

    version: str

    def __call__(self, request: Request, text: str) -> list[str]:
        """The reasons against an answer; none if it is good."""
        assert isinstance(request, FlowRequest)
        told = request.flow, request.label, request.classes, request.signed
        return check_paraphrase(text, request.original, *told) if request.original else check_answer(text, *told)


def answer_checker(brief: TrackConfig) -> AnswerChecker:
    """The rules for one brief, with their version."""
    sources = [inspect.getsource(module) for module in (answers_module, serialise)]
    told = [brief.spec.classes, sorted(brief.signed), *sources]
    return AnswerChecker(hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16])


def check_imported(request: Request, context: Mapping[str, Any], text: str) -> list[str]:
    """The reasons against an answer from a file, which also tells by what it is to be judged; never raises.

    A track judges the answer again, by its own flow and label.
    """
    try:
        data_set = json.loads(context["data_set"])
        flow, label, original = (str(context[name]) for name in ("flow", "label", "original"))
        classes, signed = tuple(map(str, data_set["classes"])), frozenset(map(str, data_set["signed"]))
        if max(len(flow), len(context["data_set"])) > MOST_CHARACTERS:
            raise ValueError
        facts_of(flow, signed)
    except (KeyError, TypeError, ValueError, RecursionError, UserError):
        return ["no flow: the file does not tell by what the answer is to be judged"]
    asked = FlowRequest(
        request.model, request.messages, request.params, request.schema_version, None, flow, label, original, classes,
        signed,
    )  # fmt: skip
    return AnswerChecker("")(asked, text)


@dataclass(frozen=True)
class TrackConfig:
    """What a teacher is told besides flow and label: the same for all rows of a track.

    words: of ANALYSIS. order: `label_first` or `explanation_first`. seed: goes into every request. objects: answers are
    asked for as JSON objects.
    """

    spec: DatasetSpec
    words: int
    order: str
    serialisation: str
    seed: int
    objects: bool = False

    def variables(self) -> dict[str, Any]:
        """What every prompt can use."""
        return {
            "classes": self.spec.classes, "words": self.words, "order": self.order,
            "serialisation": self.serialisation, "standardised": self.spec.scaling != "none",
            "glossary": glossary_of(self.spec), "objects": self.objects,
        }  # fmt: skip

    @property
    def signed(self) -> frozenset[str]:
        """Features whose sign tells on which side of the mean they lie."""
        return standardised(glossary_of(self.spec))


def text_column(rows: pd.DataFrame) -> list[str]:
    """Texts of a table that has them in a column."""
    texts: list[str] = rows["text"].tolist()
    return texts


def build_original(
    rows: pd.DataFrame,
    prompt: PromptFile,
    engine: TeacherProtocol,
    brief: TrackConfig,
    log: Log | None = None,
    to_texts: ToTexts = text_column,
) -> TrackResult:
    """One answer for each flow group and label, shared by its rows.

    rows: position, row_id, flow_group, label, repeat, and what `to_texts` reads. UserError from prompt or teacher.
    """
    asking = _Asking(rows, to_texts, prompt, brief)
    numbers: dict[Key, int] = {}

    def plan(row: Row) -> Row:
        key = (row.flow_group, row.label)
        if key not in numbers:
            numbers[key] = asking.number(row, brief.seed)
        return row._replace(asked=numbers[key])

    planned = (map(plan, some) for some, _ in asking.parts())
    result = asking.finish(planned, len(rows[["flow_group", "label"]].drop_duplicates()), engine, log)
    return replace(result, answers=asking.join.texts(numbers))


def build_paraphrased(
    rows: pd.DataFrame,
    answers: Mapping[Key, str],
    prompt: PromptFile,
    engine: TeacherProtocol,
    brief: TrackConfig,
    log: Log | None = None,
    to_texts: ToTexts = text_column,
) -> TrackResult:
    """The first row of a (flow group, label) keeps the original answer, each further row gets a paraphrase of it."""
    asking = _Asking(rows, to_texts, prompt, brief)

    def plan(row: Row) -> Row:
        answer = answers.get((row.flow_group, row.label))
        if answer is None or row.repeat == 0:
            return _given(row, answer)
        number = asking.number(row, derived_seed(brief.seed, row.repeat), answer)
        return row._replace(kind="paraphrase", asked=number)

    planned = (map(plan, some) for some, _ in asking.parts())
    return asking.finish(planned, int((rows["repeat"] > 0).sum()), engine, log)


def build_feature_varied(
    rows: pd.DataFrame,
    answers: Mapping[Key, str],
    prompt: PromptFile,
    engine: TeacherProtocol,
    brief: TrackConfig,
    variation: Variation,
    to_text: Callable[[Sequence[float]], str],
    forbidden: Collection[str],
    log: Log | None = None,
    to_texts: ToTexts = text_column,
) -> TrackResult:
    """The first row of a (flow group, label) keeps flow and answer, each further row is varied and explained anew.

    to_text: values [features] -> text; forbidden: flow groups that no varied flow may have (those of evaluation).
    """
    names = brief.spec.feature_names
    zero = zero_points(brief.spec, [float(rows[name].to_numpy(np.float64).min(initial=np.inf)) for name in names])
    varier = Varier(variation, brief.spec, zero, to_text, forbidden, brief.seed)
    asking = _Asking(rows, to_texts, prompt, brief)

    def plan(row: Row, features: np.ndarray) -> Row:
        if row.repeat == 0:
            return _given(row, answers.get((row.flow_group, row.label)))
        varied = varier.vary(row.row_id, features, row.text)
        row = row._replace(
            text=varied.text,
            kind=varied.outcome.split(":")[0],
            variation=varied.outcome,
            factor=varied.factor,
            varied_group=varied.group,
        )
        return row._replace(asked=asking.number(row, derived_seed(brief.seed, row.repeat)))

    planned = (map(plan, some, part[names].to_numpy(np.float64)) for some, part in asking.parts())
    return asking.finish(planned, int((rows["repeat"] > 0).sum()), engine, log)


def _given(row: Row, answer: str | None) -> Row:
    """A row with the original answer, or without any."""
    return row._replace(given=answer, reason="" if answer is not None else "the original answer is quarantined")


def derived_seed(seed: int, repeat: int) -> int:
    """The request seed of a repeated row: 0..2^31-1."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{repeat}".encode()).digest()[:4], "big") >> 1


class _Asking:
    """The rows of one track and what they ask, some rows at a time; UserError where a column is missing."""

    def __init__(self, rows: pd.DataFrame, to_texts: ToTexts, prompt: PromptFile, brief: TrackConfig) -> None:
        needed = (*COLUMNS, "text") if to_texts is text_column else COLUMNS
        if missing := [name for name in needed if name not in rows.columns]:
            raise UserError(f"the rows of a track lack the column {missing[0]!r}.")
        self.rows, self.to_texts, self.prompt, self.brief = rows, to_texts, prompt, brief
        self.join = Join(brief.order)
        self._variables, self._params = brief.variables(), prompt.params()
        self._version = OBJECT_VERSION if brief.objects else SCHEMA_VERSION
        self._schema = answer_schema(brief.order) if brief.objects else None
        self._data_set = tuple(brief.spec.classes), brief.signed

    def parts(self) -> Iterator[tuple[Iterator[Row], pd.DataFrame]]:
        """Rows without an answer yet, and the part of the table that they are of."""
        for start in range(0, len(self.rows), ROWS_AT_ONCE):
            part = self.rows.iloc[start : start + ROWS_AT_ONCE]
            columns = (part[name].tolist() for name in COLUMNS)
            yield map(Row, *columns, self.to_texts(part)), part

    def number(self, row: Row, seed: int, original: str = "") -> int:
        """The number of the row's request; `original` is the answer to be paraphrased."""
        answer = {"answer": original} if original else {}
        messages = self.prompt.render(**self._variables, flow=row.text, label=row.label, **answer)
        params = self._params | {"seed": seed}
        return self.join.number(
            FlowRequest(
                self.prompt.model,
                messages,
                params,
                self._version,
                self._schema,
                row.text,
                row.label,
                original,
                *self._data_set,
            )
        )

    def finish(
        self, planned: Iterable[Iterable[Row]], expected: int, engine: TeacherProtocol, log: Log | None
    ) -> TrackResult:
        """Ask about `expected` requests, join by key, and count."""
        join, model = self.join, self.prompt.model
        if log is not None:
            log(f"{len(self.rows):,} rows need about {expected:,} distinct answers of {model}")
        engine.stream(Drawn(join.draw(planned), expected), answer_checker(self.brief), join.take)
        join.complete(len(self.rows))
        counts = count(join)
        report = {
            "rows": counts.rows, "quarantined": counts.quarantined, "distinct_requests": len(join),
            "distinct_answers": counts.answers, "distinct_wordings": counts.wordings,
            "mean_analysis_words": round(counts.words / max(1, counts.rows), 2), "kinds": dict(counts.kinds),
            "quarantine_reasons": dict(counts.reasons), "variations": dict(counts.variations),
            "by_class": class_table(counts, self.rows.groupby("label", observed=True)["flow_group"].nunique()),
        }  # fmt: skip
        usage = {
            "rows": counts.rows, "requests": join.attempts, "distinct_requests": len(join),
            "prompt_tokens": join.usage.prompt, "completion_tokens": join.usage.completion,
            "billed_usd": join.billed_usd, "model": model,
            # Started by us, or reached as a server of its own.
            "embedded": is_embedded(engine.source) or join.embedded(), "quarantined": counts.quarantined,
        }  # fmt: skip
        headline = {
            "distinct_answers": counts.answers, "distinct_wordings": counts.wordings,
            "requests": join.attempts, "billed_usd": round(join.billed_usd, 4),
            "requests_of_this_run": join.fresh_attempts, "taken_from_cache_by_this_run": join.cached,
        }  # fmt: skip
        return TrackResult(join, report, usage, headline)
