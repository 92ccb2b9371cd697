"""The three tracks: which row asks what of the teacher, and what becomes of the answers.

Belongs here: requests, joining answers to rows, counts. Does not belong here: sending (teacher), checks (answers).
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.augmentation import answers as answers_module
from iot_pipeline.augmentation.answers import (
    OBJECT_VERSION,
    SCHEMA_VERSION,
    answer_schema,
    check_answer,
    check_paraphrase,
    facts_of,
    format_answer,
    masked_bigrams,
    parse_answer,
)
from iot_pipeline.augmentation.prompts import PromptFile, glossary_of, standardised
from iot_pipeline.augmentation.variation import Variation, Varied, Varier, zero_points
from iot_pipeline.errors import UserError
from iot_pipeline.flows import serialise
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.lake.atomic import write_table, write_text
from iot_pipeline.teacher.request import EMBEDDED_MODEL, Answer, Request, Usage, is_embedded

Log = Callable[[str], None]
Key = tuple[str, str]


class Asks(Protocol):
    """What tracks need of `teacher.engine.Teacher`."""

    source: str

    def ask(self, requests: Sequence[Request], check: Callable[[Request, str], list[str]]) -> dict[str, Answer]:
        """An answer for each distinct key."""


@dataclass(frozen=True)
class Judge:
    """A check that knows its version: the rules' source and what they are told, so that no one has to count it up."""

    rules: Callable[[Request, str], list[str]]
    version: str

    def __call__(self, request: Request, text: str) -> list[str]:
        """The reasons against an answer; none if it is good."""
        return self.rules(request, text)


def judge_of(rules: Callable[[Request, str], list[str]], brief: Brief) -> Judge:
    """The rules with their version."""
    sources = [inspect.getsource(module) for module in (answers_module, serialise)]
    told = [brief.spec.classes, sorted(brief.signed), *sources]
    return Judge(rules, hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16])


@dataclass(frozen=True)
class Brief:
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


@dataclass(frozen=True)
class TrackResult:
    """One track's increment. messages: chat rows by position; provenance: one row for each row of the increment.

    report holds only what is the same in every equal run; usage also what was sent and billed. answers: the
    answer of each (flow_group, label), of the original track only. headline: facts for the asset's page.
    """

    messages: list[dict[str, Any]]
    provenance: pa.Table
    report: dict[str, Any]
    usage: dict[str, Any]
    quarantined: int
    by_class: list[dict[str, Any]]
    headline: dict[str, Any]
    answers: dict[Key, str] = field(default_factory=dict)


@dataclass
class _Row:
    """How one row gets its answer: from a request, or one that is given; `reason` where it gets none."""

    position: int
    row_id: int
    flow_group: str
    label: str
    repeat: int
    text: str
    kind: str = "original"
    request: Request | None = None
    given: str | None = None
    reason: str = ""
    varied: Varied | None = None


def build_original(
    rows: pd.DataFrame, prompt: PromptFile, engine: Asks, brief: Brief, log: Log | None = None
) -> TrackResult:
    """One answer for each flow group and label, shared by its rows.

    rows: position, row_id, flow_group, label, repeat, text. UserError from the prompt or the teacher.
    """
    variables, asked = brief.variables(), {}
    plan = _plan(rows)
    for row in plan:
        key = (row.flow_group, row.label)
        if key not in asked:
            messages = prompt.render(**variables, flow=row.text, label=row.label)
            asked[key] = _request(prompt, messages, brief, brief.seed)
        row.request = asked[key]
    result = _finish(plan, prompt, engine, brief, _answer_check(plan, brief), log)
    texts = {(m["flow_group"], m["label"]): m["answer"] for m in result.provenance.to_pylist() if m["answer"]}
    return _with_answers(result, texts)


def build_paraphrased(
    rows: pd.DataFrame, answers: Mapping[Key, str], prompt: PromptFile, engine: Asks, brief: Brief,
    log: Log | None = None,
) -> TrackResult:
    """The first row of a (flow group, label) keeps the original answer, each further row gets a paraphrase of it."""
    variables = brief.variables()
    plan = _plan(rows)
    sources: dict[str, tuple[str, str, str]] = {}
    signed = brief.signed
    for row in plan:
        answer = answers.get((row.flow_group, row.label))
        if answer is None:
            row.reason = "the original answer is quarantined"
        elif row.repeat == 0:
            row.given = answer
        else:
            messages = prompt.render(**variables, flow=row.text, label=row.label, answer=answer)
            row.kind = "paraphrase"
            row.request = _request(prompt, messages, brief, derived_seed(brief.seed, row.repeat))
            sources[row.request.key] = (answer, row.text, row.label)

    def check(request: Request, text: str) -> list[str]:
        answer, flow, label = sources[request.key]
        return check_paraphrase(text, answer, flow, label, brief.spec.classes, signed)

    return _finish(plan, prompt, engine, brief, check, log)


def build_feature_varied(
    rows: pd.DataFrame, answers: Mapping[Key, str], prompt: PromptFile, engine: Asks, brief: Brief,
    variation: Variation, to_text: Callable[[Sequence[float]], str], forbidden: Collection[str],
    log: Log | None = None,
) -> TrackResult:
    """The first row of a (flow group, label) keeps flow and answer, each further row is varied and explained anew.

    to_text: values [features] -> text; forbidden: flow groups that no varied flow may have (those of evaluation).
    """
    variables = brief.variables()
    values = rows[brief.spec.feature_names].to_numpy(np.float64)
    zero = zero_points(brief.spec, values.min(axis=0, initial=np.inf).tolist())
    varier = Varier(variation, brief.spec, zero, to_text, forbidden, brief.seed)
    plan = _plan(rows)
    for row, features in zip(plan, values, strict=True):
        if row.repeat == 0:
            row.given = answers.get((row.flow_group, row.label))
            row.reason = "" if row.given is not None else "the original answer is quarantined"
            continue
        row.varied = varier.vary(row.row_id, features, row.text)
        row.text, row.kind = row.varied.text, row.varied.outcome.split(":")[0]
        messages = prompt.render(**variables, flow=row.text, label=row.label)
        row.request = _request(prompt, messages, brief, derived_seed(brief.seed, row.repeat))
    return _finish(plan, prompt, engine, brief, _answer_check(plan, brief), log)


def derived_seed(seed: int, repeat: int) -> int:
    """The request seed of a repeated row: 0..2^31-1."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{repeat}".encode()).digest()[:4], "big") >> 1


def _plan(rows: pd.DataFrame) -> list[_Row]:
    columns = ("position", "row_id", "flow_group", "label", "repeat", "text")
    if missing := [name for name in columns if name not in rows.columns]:
        raise UserError(f"the rows of a track lack the column {missing[0]!r}.")
    return [_Row(*values) for values in zip(*(rows[name].tolist() for name in columns), strict=True)]


def _request(prompt: PromptFile, messages: tuple[Mapping[str, str], ...], brief: Brief, seed: int) -> Request:
    version, schema = (OBJECT_VERSION, answer_schema(brief.order)) if brief.objects else (SCHEMA_VERSION, None)
    return Request(prompt.model, messages, prompt.params() | {"seed": seed}, version, schema)


def _answer_check(plan: Sequence[_Row], brief: Brief) -> Callable[[Request, str], list[str]]:
    """Checks an answer against the flow and label that its request was made from."""
    against = {row.request.key: (row.text, row.label) for row in plan if row.request is not None}
    signed = brief.signed
    return lambda request, text: check_answer(text, *against[request.key], brief.spec.classes, signed)


def _finish(
    plan: Sequence[_Row], prompt: PromptFile, engine: Asks, brief: Brief,
    check: Callable[[Request, str], list[str]], log: Log | None,
) -> TrackResult:
    """Ask, join by key, and count."""
    requests = {row.request.key: row.request for row in plan if row.request is not None}
    if log is not None:
        log(f"{len(plan):,} rows need {len(requests):,} distinct answers of {prompt.model}")
    got = engine.ask(list(requests.values()), judge_of(check, brief)) if requests else {}
    # The class is spelt as in the data: a teacher may write "http flood".
    labels = {row.request.key: row.label for row in plan if row.request is not None}
    forms = {
        key: format_answer(replace(parse_answer(answer.text), label=labels[key]), brief.order)
        for key, answer in got.items() if answer.status == "ok"
    }  # fmt: skip
    messages, records = [], []
    for row in plan:
        answer = got[row.request.key] if row.request is not None else None
        text = row.given if row.given is not None else forms.get(row.request.key) if row.request is not None else None
        if text is not None:
            turns = [{"role": "user", "content": row.text}, {"role": "assistant", "content": text}]
            messages.append({"messages": turns})
        records.append(_record(row, answer, text))
    return _result(plan, records, messages, got, prompt, engine, brief)


def _record(row: _Row, answer: Answer | None, text: str | None) -> dict[str, Any]:
    return {
        "position": row.position, "row_id": row.row_id, "flow_group": row.flow_group, "label": row.label,
        "repeat": row.repeat, "kind": row.kind, "status": "ok" if text is not None else "quarantined",
        "reasons": [row.reason] if row.reason else list(answer.reasons) if answer is not None and text is None else [],
        "answer": text, "key": row.request.key if row.request is not None else None,
        "seed": row.request.params["seed"] if row.request is not None else None,
        "variation": row.varied.outcome if row.varied is not None else None,
        "factor": row.varied.factor if row.varied is not None else None,
        "varied_group": row.varied.group if row.varied is not None else None,
        "model": answer.model if answer is not None else None,
        "source": answer.source if answer is not None else None,
        "attempts": answer.attempts if answer is not None else None,
        "from_cache": answer.from_cache if answer is not None else None,
    }  # fmt: skip


PROVENANCE = pa.schema(
    [
        ("position", pa.int64()), ("row_id", pa.int64()), ("flow_group", pa.string()), ("label", pa.string()),
        ("repeat", pa.int32()), ("kind", pa.string()), ("status", pa.string()), ("reasons", pa.list_(pa.string())),
        ("answer", pa.string()), ("key", pa.string()), ("seed", pa.int64()), ("variation", pa.string()),
        ("factor", pa.float64()), ("varied_group", pa.string()), ("model", pa.string()), ("source", pa.string()),
        ("attempts", pa.int32()), ("from_cache", pa.bool_()),
    ]
)  # fmt: skip


def _result(
    plan: Sequence[_Row], records: list[dict[str, Any]], messages: list[dict[str, Any]], got: Mapping[str, Answer],
    prompt: PromptFile, engine: Asks, brief: Brief,
) -> TrackResult:
    quarantined = len(records) - len(messages)
    asked = list(got.values())
    tokens = sum((answer.usage for answer in asked), Usage())
    fresh = [answer for answer in asked if not answer.from_cache]
    distinct = {record["answer"] for record in records if record["answer"] is not None}
    analyses = {text: parse_answer(text).analysis for text in distinct}
    # Any flow text will do: only the features' names matter for the wording.
    facts = facts_of(plan[0].text) if plan else None
    wordings = {tuple(masked_bigrams(text, facts)) for text in analyses.values()} if facts else set()
    words = {text: len(analysis.split()) for text, analysis in analyses.items()}
    mean_words = sum(words[r["answer"]] for r in records if r["answer"] is not None) / max(1, len(messages))
    kinds = Counter(row.kind for row in plan)
    reasons = Counter(reason.split(":")[0] for record in records for reason in record["reasons"])
    by_class = _by_class(records)
    report = {
        "rows": len(messages), "quarantined": quarantined, "distinct_requests": len(got),
        "distinct_answers": len(distinct), "distinct_wordings": len(wordings),
        "mean_analysis_words": round(mean_words, 2), "kinds": dict(kinds), "quarantine_reasons": dict(reasons),
        "variations": dict(Counter(row.varied.outcome for row in plan if row.varied is not None)),
        "by_class": by_class,
    }  # fmt: skip
    billed = sum(answer.cost_usd for answer in asked)
    usage = {
        "rows": len(messages), "requests": sum(answer.attempts for answer in fresh), "distinct_requests": len(got),
        "cached": len(asked) - len(fresh), "prompt_tokens": tokens.prompt, "completion_tokens": tokens.completion,
        "billed_usd": billed, "model": prompt.model, "embedded": written_here(asked, engine),
        "quarantined": quarantined,
    }  # fmt: skip
    return TrackResult(
        messages=messages,
        provenance=pa.Table.from_pylist(records, schema=PROVENANCE),
        report=report,
        usage=usage,
        quarantined=quarantined,
        by_class=by_class,
        headline={
            "distinct_answers": len(distinct), "distinct_wordings": len(wordings),
            "requests": usage["requests"], "cached": usage["cached"], "billed_usd": round(billed, 4),
        },
    )  # fmt: skip


def written_here(answers: Sequence[Answer], engine: Asks) -> bool:
    """Did the embedded teacher write any of it, started by us or reached as a server of its own?"""
    return is_embedded(engine.source) or any(answer.model == EMBEDDED_MODEL for answer in answers)


def _by_class(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, Counter[str]] = {}
    groups: dict[str, set[str]] = {}
    for record in records:
        found.setdefault(record["label"], Counter())[record["status"]] += 1
        groups.setdefault(record["label"], set()).add(record["flow_group"])
    return [
        {"class": name, "rows": count["ok"], "quarantined": count["quarantined"], "distinct_flows": len(groups[name])}
        for name, count in sorted(found.items())
    ]


def _with_answers(result: TrackResult, answers: dict[Key, str]) -> TrackResult:
    result.answers.update(answers)
    return result


def write_track(result: TrackResult, folder: Path) -> None:
    """Write track.jsonl, provenance.parquet and, of the original track, answers.parquet into `folder`."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in result.messages]
    write_text(folder / "track.jsonl", "".join(lines))
    write_table(folder / "provenance.parquet", result.provenance)
    if result.answers:
        ordered = sorted(result.answers.items())
        columns = {
            "flow_group": [key[0] for key, _ in ordered], "label": [key[1] for key, _ in ordered],
            "answer": [text for _, text in ordered],
        }  # fmt: skip
        write_table(folder / "answers.parquet", pa.table(columns))


def read_answers(folder: Path) -> dict[Key, str]:
    """{(flow_group, label): answer} that `write_track` wrote for the original track; UserError if it is missing."""
    path = folder / "answers.parquet"
    if not path.is_file():
        raise UserError(f"{path} is missing: no answer of the original track was accepted; make it again.")
    table = pq.read_table(path)
    columns = [table[name].to_pylist() for name in ("flow_group", "label", "answer")]
    return {(group, label): text for group, label, text in zip(*columns, strict=True)}
