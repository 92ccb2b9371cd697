"""The three tracks (original, paraphrased, feature-varied): which row asks what of the teacher."""

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
# Texts of some rows, built on demand: those of all rows would fill the memory.
ToTexts = Callable[[pd.DataFrame], Sequence[str]]
COLUMNS = ("position", "row_id", "flow_group", "label", "repeat")
ROWS_AT_ONCE = 2000


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
    """Answer check whose version is a hash of the rules' source and inputs, so that nobody has to bump it."""

    version: str

    def __call__(self, request: Request, text: str) -> list[str]:
        """Return the reasons against an answer, [] if it is good."""
        assert isinstance(request, FlowRequest)
        told = request.flow, request.label, request.classes, request.signed
        return check_paraphrase(text, request.original, *told) if request.original else check_answer(text, *told)


def answer_checker(brief: TrackConfig) -> AnswerChecker:
    """Return the answer checker of a track, with its version."""
    sources = [inspect.getsource(module) for module in (answers_module, serialise)]
    told = [brief.spec.classes, sorted(brief.signed), *sources]
    return AnswerChecker(hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16])


def check_imported(request: Request, context: Mapping[str, Any], text: str) -> list[str]:
    """Return the reasons against an imported answer, given the context in its file; never raises.

    A track checks the answer again, with its own flow and label.
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
    """Track configuration: what the teacher gets besides flow and label, the same for all rows.

    words: length of ANALYSIS. order: `label_first` or `explanation_first`. seed: part of every request. objects:
    answers are requested as JSON objects.
    """

    spec: DatasetSpec
    words: int
    order: str
    serialisation: str
    seed: int
    objects: bool = False

    def variables(self) -> dict[str, Any]:
        """Return the template variables that every prompt can use."""
        return {
            "classes": self.spec.classes, "words": self.words, "order": self.order,
            "serialisation": self.serialisation, "standardised": self.spec.scaling != "none",
            "glossary": glossary_of(self.spec), "objects": self.objects,
        }  # fmt: skip

    @property
    def signed(self) -> frozenset[str]:
        """Features whose sign says on which side of the mean a value is."""
        return standardised(glossary_of(self.spec))


def text_column(rows: pd.DataFrame) -> list[str]:
    """Return the texts of a table's `text` column."""
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
    """Build the original track: one answer for each (flow group, label), shared by its rows.

    Args:
        rows: Columns position, row_id, flow_group, label, repeat, and what `to_texts` reads.
        prompt: Prompt file of the track.
        engine: Teacher that answers the requests.
        brief: Track configuration.
        log: Called with progress messages.
        to_texts: Returns the flow texts of some rows.

    Raises:
        UserError: From prompt or teacher, or a column is missing.
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
    """Build the paraphrased track: a paraphrase for each repeated row.

    The first row of a (flow group, label) keeps the original answer.

    Args:
        rows: As in `build_original`.
        answers: Original answers by (flow group, label).
        prompt: Prompt file of the track.
        engine: Teacher that answers the requests.
        brief: Track configuration.
        log: Called with progress messages.
        to_texts: Returns the flow texts of some rows.
    """
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
    """Build the feature-varied track: each repeated row is varied and explained anew.

    The first row of a (flow group, label) keeps flow and answer.

    Args:
        rows: As in `build_original`, and the features' values.
        answers: Original answers by (flow group, label).
        prompt: Prompt file of the track.
        engine: Teacher that answers the requests.
        brief: Track configuration.
        variation: Variation mode.
        to_text: Returns the text of values [features].
        forbidden: Flow groups that no varied flow may have (those of evaluation).
        log: Called with progress messages.
        to_texts: Returns the flow texts of some rows.
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
    """Give a row the original answer, or a reason if there is none."""
    return row._replace(given=answer, reason="" if answer is not None else "the original answer is quarantined")


def derived_seed(seed: int, repeat: int) -> int:
    """Derive the request seed of a repeated row: 0..2^31-1."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{repeat}".encode()).digest()[:4], "big") >> 1


class _Asking:
    """Rows of one track and their requests, some rows at a time; UserError if a column is missing."""

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
        """Yield rows without answers, and the part of the table that they come from."""
        for start in range(0, len(self.rows), ROWS_AT_ONCE):
            part = self.rows.iloc[start : start + ROWS_AT_ONCE]
            columns = (part[name].tolist() for name in COLUMNS)
            yield map(Row, *columns, self.to_texts(part)), part

    def number(self, row: Row, seed: int, original: str = "") -> int:
        """Return the number of the row's request; `original` is the answer to paraphrase."""
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
        """Send the requests (about `expected`), join the answers by key, and count."""
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
            # Started by this run, or reached as a separate server.
            "embedded": is_embedded(engine.source) or join.embedded(), "quarantined": counts.quarantined,
        }  # fmt: skip
        headline = {
            "distinct_answers": counts.answers, "distinct_wordings": counts.wordings,
            "requests": join.attempts, "billed_usd": round(join.billed_usd, 4),
            "requests_of_this_run": join.fresh_attempts, "taken_from_cache_by_this_run": join.cached,
        }  # fmt: skip
        return TrackResult(join, report, usage, headline)
