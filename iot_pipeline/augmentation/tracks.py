"""The three tracks: the same rows in the same order, with answers as first given, paraphrased, or of varied flows.

Belongs here: which request belongs to which row, and putting rows together. Does not belong here: asking (teacher).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.augmentation.answers import (
    SCHEMA_VERSION,
    ParsedAnswer,
    check_answer,
    check_paraphrase,
    format_answer,
    parse_answer,
)
from iot_pipeline.augmentation.prompts import PromptFile, Term, standardised
from iot_pipeline.augmentation.track_report import track_report
from iot_pipeline.augmentation.variation import vary
from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import replacing, write_table
from iot_pipeline.teacher.engine import Teacher
from iot_pipeline.teacher.request import Answer, Request

ROW_COLUMNS = ["position", "row_id", "flow_group", "label", "repeat", "text"]
VARIATION_DRAWS = 3
PROVENANCE = pa.schema([
    ("position", pa.int64()), ("row_id", pa.int64()), ("flow_group", pa.string()), ("label", pa.string()),
    ("repeat", pa.int32()), ("track", pa.string()), ("request_key", pa.string()), ("kept_original", pa.bool_()),
    ("source", pa.string()), ("model", pa.string()), ("attempts", pa.int32()), ("cost_usd", pa.float64()),
    ("words", pa.int32()), ("status", pa.string()), ("reasons", pa.list_(pa.string())), ("variation", pa.string()),
    ("varied_group", pa.string()), ("answer", pa.string()),
])
Texts = Callable[[pd.DataFrame], list[str]]


@dataclass(frozen=True)
class Asking:
    """How a track asks. `order` is label_first or explanation_first, `words` those of ANALYSIS, `seed` the run's.

    `model` replaces the prompt file's; `serialisation` is values or ranked, as in the rows' texts.
    """

    teacher: Teacher
    prompt: PromptFile
    classes: Sequence[str]
    glossary: Sequence[Term]
    words: int
    order: str
    serialisation: str
    seed: int
    model: str | None = None

    def request(self, seed: int | None, **variables: Any) -> Request:
        """The request for one prompt; `seed` None leaves it out, so that a run's seed does not change the key."""
        messages = self.prompt.render(
            classes=list(self.classes), glossary=self.glossary, words=self.words, order=self.order,
            serialisation=self.serialisation, **variables,
        )
        params = self.prompt.params() | ({} if seed is None else {"seed": seed})
        return Request(self.model or self.prompt.model, messages, params, SCHEMA_VERSION)


@dataclass(frozen=True)
class OriginalAnswer:
    """The answer that a (flow group, label) got in the track `original`; `answer` is its canonical text."""

    request_key: str
    answer: str
    source: str
    model: str


@dataclass(frozen=True)
class TrackResult:
    """`messages`: one dict a row that has an answer, in order; `provenance`: one line a row, schema PROVENANCE."""

    track: str
    messages: list[dict[str, Any]]
    provenance: pa.Table
    report: dict[str, Any]


@dataclass
class _Row:
    """What becomes of one row: the text of its flow and where its answer comes from."""

    text: str
    key: str | None
    kept: OriginalAnswer | None = None
    reason: str = ""
    variation: str = ""
    varied_group: str = ""


def build_original(rows: pd.DataFrame | pa.Table, asking: Asking) -> TrackResult:
    """The track `original`: the teacher is asked once a (flow_group, label), and all its rows share the answer."""
    frame = _frame(rows)
    requests: dict[tuple[str, str], Request] = {}
    flows: dict[str, tuple[str, str]] = {}
    plan = []
    for group, label, text in zip(frame["flow_group"], frame["label"], frame["text"], strict=True):
        request = requests.get((group, label))
        if request is None:
            request = requests[(group, label)] = asking.request(None, flow=text, label=label)
            flows[request.key] = (text, label)
        plan.append(_Row(text, request.key))
    answers = asking.teacher.ask(list(requests.values()), _checker(asking, flows))
    return _finish("original", frame, plan, answers, asking)


def build_paraphrased(
    rows: pd.DataFrame | pa.Table, asking: Asking, originals: Mapping[tuple[str, str], OriginalAnswer]
) -> TrackResult:
    """The track `paraphrased`: a first occurrence keeps the original answer, each further row has its own paraphrase.

    `originals` by (flow_group, label); a row whose original is not there is quarantined.
    """
    frame = _frame(rows)
    requests: list[Request] = []
    flows: dict[str, tuple[str, str]] = {}
    sources: dict[str, str] = {}
    plan = []
    columns = (frame["flow_group"], frame["label"], frame["text"], frame["repeat"])
    for group, label, text, repeat in zip(*columns, strict=True):
        original = originals.get((group, label))
        if original is None:
            plan.append(_Row(text, None, reason="no original answer"))
        elif repeat == 0:
            plan.append(_Row(text, original.request_key, kept=original))
        else:
            request = asking.request(derived_seed(asking.seed, repeat), answer=original.answer, flow=text, label=label)
            requests.append(request)
            flows[request.key], sources[request.key] = (text, label), original.answer
            plan.append(_Row(text, request.key))
    known, classes = standardised(asking.glossary), list(asking.classes)

    def check(request: Request, text: str) -> list[str]:
        return check_paraphrase(text, sources[request.key], *flows[request.key], classes, known)

    return _finish("paraphrased", frame, plan, asking.teacher.ask(requests, check), asking)


def build_feature_varied(
    rows: pd.DataFrame | pa.Table, asking: Asking, originals: Mapping[tuple[str, str], OriginalAnswer],
    features: Sequence[str], kind: str, zeros: Mapping[str, float], to_texts: Texts, to_groups: Texts,
    forbidden: AbstractSet[str],
) -> TrackResult:
    """The track `feature_varied`: a first occurrence is kept, each further row gets a varied flow explained anew.

    `rows` also hold `features`. `to_texts` gives the flow texts of a table of values, `to_groups` their flow groups;
    a variation whose group is in `forbidden` (the evaluation sides) is drawn again, then given up: `unchanged`.
    """
    frame = _frame(rows, features)
    varied = _varied(frame, features, kind, zeros, asking.seed, to_texts, to_groups, forbidden)
    requests: list[Request] = []
    flows: dict[str, tuple[str, str]] = {}
    plan = []
    columns = (frame["flow_group"], frame["label"], frame["text"], frame["repeat"], varied)
    for group, label, text, repeat, (child, child_group, what) in zip(*columns, strict=True):
        original = originals.get((group, label))
        if repeat == 0:
            reason = "" if original is not None else "no original answer"
            plan.append(_Row(text, original.request_key if original else None, kept=original, reason=reason))
            continue
        request = asking.request(derived_seed(asking.seed, repeat), flow=child, label=label)
        requests.append(request)
        flows[request.key] = (child, label)
        plan.append(_Row(child, request.key, variation=what, varied_group=child_group))
    answers = asking.teacher.ask(requests, _checker(asking, flows))
    return _finish("feature_varied", frame, plan, answers, asking)


def derived_seed(seed: int, repeat: int) -> int:
    """The seed sent for the n-th further row of a flow: 31 bits, so that every server takes it."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{repeat}".encode()).digest()[:4], "big") >> 1


def load_originals(folders: Sequence[Path]) -> dict[tuple[str, str], OriginalAnswer]:
    """Answers of the track `original` by (flow_group, label), from the folders of its increments."""
    found: dict[tuple[str, str], OriginalAnswer] = {}
    columns = ["flow_group", "label", "status", "request_key", "answer", "source", "model"]
    for folder in folders:
        table = pq.read_table(folder / "provenance.parquet", columns=columns)
        for group, label, status, key, answer, source, model in zip(*table.to_pydict().values(), strict=True):
            if status == "ok":
                found.setdefault((group, label), OriginalAnswer(key, answer, source, model))
    return found


def write_track(result: TrackResult, folder: Path) -> None:
    """Write track.jsonl and provenance.parquet atomically; the caller writes the report where it wants it."""
    with replacing(folder / "track.jsonl") as path, path.open("w", encoding="utf-8", newline="\n") as handle:
        for message in result.messages:
            handle.write(json.dumps(message, ensure_ascii=False) + "\n")
    write_table(folder / "provenance.parquet", result.provenance)


def _frame(rows: pd.DataFrame | pa.Table, features: Sequence[str] = ()) -> pd.DataFrame:
    frame = rows.to_pandas() if isinstance(rows, pa.Table) else rows
    missing = [name for name in [*ROW_COLUMNS, *features] if name not in frame.columns]
    if missing:
        raise UserError(f"the rows of a track lack the column {missing[0]!r}.")
    return frame.reset_index(drop=True)


def _checker(asking: Asking, flows: Mapping[str, tuple[str, str]]) -> Callable[[Request, str], list[str]]:
    known, classes = standardised(asking.glossary), list(asking.classes)
    return lambda request, text: check_answer(text, *flows[request.key], classes, known)


def _varied(
    frame: pd.DataFrame, features: Sequence[str], kind: str, zeros: Mapping[str, float], seed: int,
    to_texts: Texts, to_groups: Texts, forbidden: AbstractSet[str],
) -> list[tuple[str, str, str]]:
    """(text, flow group, "varied" or why unchanged) of each row; rows with repeat 0 are left as they are."""
    result = [(text, group, "") for text, group in zip(frame["text"], frame["flow_group"], strict=True)]
    pending = np.flatnonzero(frame["repeat"].to_numpy() > 0)
    for draw in range(VARIATION_DRAWS):
        if not len(pending):
            break
        part = frame.iloc[pending]
        values = part[list(features)].to_numpy(dtype=np.float64)
        ids = part["row_id"].to_numpy(dtype=np.int64)
        table = pd.DataFrame(vary(kind, features, values, ids, seed, draw, zeros), columns=list(features))
        again = []
        for index, text, group in zip(pending.tolist(), to_texts(table), to_groups(table), strict=True):
            old_text, old_group = frame["text"].iat[index], frame["flow_group"].iat[index]
            if group == old_group:
                result[index] = (old_text, old_group, "unchanged: nothing to vary")
            elif group in forbidden:
                result[index] = (old_text, old_group, "unchanged: would be an evaluation flow")
                again.append(index)
            else:
                result[index] = (text, group, "varied")
        pending = np.array(again, dtype=np.int64)
    return result


def _finish(
    track: str, frame: pd.DataFrame, plan: Sequence[_Row], answers: Mapping[str, Answer], asking: Asking
) -> TrackResult:
    """Join rows and answers by request key."""
    parsed: dict[str, ParsedAnswer] = {}
    paid: set[str] = set()
    messages, lines = [], []
    names = ROW_COLUMNS[:-1]
    for row, values in zip(plan, zip(*(frame[name].tolist() for name in names), strict=True), strict=True):
        line: dict[str, Any] = dict(zip(names, values, strict=True))
        line |= {
            "track": track, "request_key": row.key, "kept_original": row.kept is not None, "source": None,
            "model": None, "attempts": 0, "cost_usd": 0.0, "words": None, "status": "quarantined",
            "reasons": [row.reason] if row.reason else [], "variation": row.variation or None,
            "varied_group": row.varied_group or None, "answer": None,
        }
        text = None
        if row.kept is not None:
            text = row.kept.answer
            line |= {"source": row.kept.source, "model": row.kept.model}
        elif row.key is not None:
            answer = answers[row.key]
            line |= {"source": answer.source, "model": answer.model, "reasons": list(answer.reasons)}
            if row.key not in paid:  # once for all rows that share it, so that columns add up
                paid.add(row.key)
                line |= {"attempts": answer.attempts, "cost_usd": answer.cost_usd}
            text = answer.text if answer.status == "ok" else None
        if text is not None:
            content = parsed.get(row.key or "") or parse_answer(text)
            parsed[row.key or ""] = content
            written = format_answer(_labelled(content, line["label"]), asking.order)
            line |= {"status": "ok", "answer": written, "words": len(content.analysis.split())}
            messages.append({
                "messages": [{"role": "user", "content": row.text}, {"role": "assistant", "content": written}]
            })
        lines.append(line)
    table = pa.Table.from_pylist(lines, schema=PROVENANCE)
    report = track_report(track, table, [row.text for row in plan], asking.teacher.summary.to_json())
    return TrackResult(track, messages, table, report)


def _labelled(content: ParsedAnswer, label: str) -> ParsedAnswer:
    """The class spelt as in the data: a teacher may write "http flood"."""
    return ParsedAnswer(label, content.analysis, content.indicators)
