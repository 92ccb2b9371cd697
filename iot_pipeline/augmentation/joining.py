"""Join of rows and teacher answers by request key, with counts; rows and texts are held on disk."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from iot_pipeline.augmentation.answers import facts_of, format_answer, masked_bigrams, parse_answer
from iot_pipeline.augmentation.spill import Spill
from iot_pipeline.teacher.request import EMBEDDED_MODEL, Answer, Request, Status, Usage

Key = tuple[str, str]
DIGEST_BYTES = 16


@dataclass(frozen=True)
class FlowRequest(Request):
    """Request with the context for checking its answer.

    flow: text of the flow. original: answer to paraphrase, if any. classes, signed: classes and standardised features
    of the data set.
    """

    flow: str = field(default="", compare=False)
    label: str = field(default="", compare=False)
    original: str = field(default="", compare=False)
    classes: tuple[str, ...] = field(default=(), compare=False)
    signed: frozenset[str] = field(default=frozenset(), compare=False)

    def context(self) -> dict[str, str]:
        """Return the checking context as texts."""
        data_set = json.dumps({"classes": self.classes, "signed": sorted(self.signed)})
        return {"flow": self.flow, "label": self.label, "original": self.original, "data_set": data_set}


class Row(NamedTuple):
    """One row and the origin of its answer: the request numbered `asked`, or `given`; else `reason` says why none.

    variation, factor, varied_group: of a varied flow, see variation.Varied.
    """

    position: int
    row_id: int
    flow_group: str
    label: str
    repeat: int
    text: str
    kind: str = "original"
    asked: int | None = None
    given: str | None = None
    reason: str = ""
    variation: str | None = None
    factor: float | None = None
    varied_group: str | None = None


class Outcome(NamedTuple):
    """Outcome of a request without its text; only few distinct values occur."""

    status: Status
    reasons: tuple[str, ...]
    model: str
    source: str
    attempts: int
    from_cache: bool


class Joined(NamedTuple):
    """Row with its answer: `text` as students see it, None if quarantined.

    key, seed, outcome: of the row's request, if it has one.
    """

    row: Row
    text: str | None
    reasons: list[str]
    key: str | None = None
    seed: int | None = None
    outcome: Outcome | None = None


class Join:
    """Join of rows and answers, which may arrive in any order. Memory: about 200 bytes a request.

    order: order of an answer's parts, `label_first` or `explanation_first`.
    """

    def __init__(self, order: str) -> None:
        self.order = order
        self.usage, self.attempts, self.billed_usd = Usage(), 0, 0.0  # of all answers, cached ones too
        self.fresh_attempts = self.cached = self.drawn = 0
        self._numbers: dict[bytes, int] = {}  # request number by key
        self._labels: list[str] = []  # this and the next three: by request number
        self._seeds = array("q")
        self._outcomes: list[Outcome | None] = []
        self._texts = array("q")  # index into `_answers`, -1 without a good answer
        self._new: list[FlowRequest] = []
        self._rows, self._answers = Spill(), Spill()
        self._same: dict[Outcome, Outcome] = {}

    def __len__(self) -> int:
        """Return the number of distinct requests."""
        return len(self._numbers)

    def number(self, request: FlowRequest) -> int:
        """Return the request number; equal requests share one and are asked once."""
        found = self._numbers.setdefault(bytes.fromhex(request.key), len(self._numbers))
        if found == len(self._outcomes):
            self._new.append(request)
            self._labels.append(request.label)
            self._seeds.append(request.params["seed"])
            self._outcomes.append(None)
            self._texts.append(-1)
        return found

    def draw(self, parts: Iterable[Iterable[Row]]) -> Iterator[FlowRequest]:
        """Store rows part by part, and yield each request that is new."""
        for part in parts:
            rows = []
            for row in part:
                rows.append(row)
                yield from self._new
                self._new.clear()
            self._rows.add(json.dumps(rows).encode())
            self.drawn += len(rows)

    def take(self, answer: Answer) -> None:
        """Store an answer."""
        number = self._numbers[bytes.fromhex(answer.key)]
        self.usage, self.billed_usd = self.usage + answer.usage, self.billed_usd + answer.cost_usd
        self.attempts += answer.attempts
        self.cached += answer.from_cache
        self.fresh_attempts += 0 if answer.from_cache else answer.attempts
        found = Outcome(answer.status, answer.reasons, answer.model, answer.source, answer.attempts, answer.from_cache)
        self._outcomes[number] = self._same.setdefault(found, found)
        if answer.status == "ok":
            # Spell the class as in the data: a teacher may write "http flood".
            parsed = replace(parse_answer(answer.text), label=self._labels[number])
            self._texts[number] = self._answers.add(format_answer(parsed, self.order).encode())

    def complete(self, rows: int) -> None:
        """Require that all `rows` rows were drawn and each request has an answer, good or bad; else RuntimeError."""
        missing = sum(outcome is None for outcome in self._outcomes)
        if missing or self.drawn != rows:
            raise RuntimeError(
                f"{self.drawn:,} of {rows:,} rows were drawn, {missing:,} of {len(self):,} requests got no answer"
            )

    def embedded(self) -> bool:
        """Return True if the embedded teacher wrote any answer."""
        return any(outcome.model == EMBEDDED_MODEL for outcome in self._same)

    def text(self, number: int) -> str | None:
        """Return the good answer to a request, None without one."""
        return self._answers[self._texts[number]].decode() if self._texts[number] >= 0 else None

    def texts(self, numbers: Mapping[Key, int]) -> StoredAnswers:
        """Return good answers by (flow_group, label), given the request number of each."""
        return StoredAnswers(
            {key: self._texts[number] for key, number in numbers.items() if self._texts[number] >= 0}, self._answers
        )

    def parts(self) -> Iterator[list[Joined]]:
        """Yield rows with their answers in the order in which they were drawn, some thousands at a time."""
        keys = list(self._numbers)
        for number in range(len(self._rows)):
            rows = (Row(*values) for values in json.loads(self._rows[number]))
            yield [self._joined(row, keys) for row in rows]

    def _joined(self, row: Row, keys: list[bytes]) -> Joined:
        if row.asked is None:
            return Joined(row, row.given, [row.reason] if row.reason else [])
        outcome, text = self._outcomes[row.asked], self.text(row.asked)
        reasons = list(outcome.reasons) if outcome is not None and text is None else []
        return Joined(row, text, reasons, keys[row.asked].hex(), self._seeds[row.asked], outcome)


class StoredAnswers(Mapping[Key, str]):
    """Answers by (flow_group, label), with the texts on disk. numbers: index of each text in `texts`."""

    def __init__(self, numbers: dict[Key, int], texts: Spill) -> None:
        self._numbers, self._texts = numbers, texts

    def __getitem__(self, key: Key) -> str:
        return self._texts[self._numbers[key]].decode()

    def __iter__(self) -> Iterator[Key]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


@dataclass(frozen=True)
class Drawn:
    """One-pass iterator over requests, with an expected count for progress displays."""

    requests: Iterator[FlowRequest]
    expected: int

    def __iter__(self) -> Iterator[FlowRequest]:
        return self.requests

    def __length_hint__(self) -> int:
        return self.expected


@dataclass
class Counts:
    """Counts of rows and answers for the report."""

    rows: int = 0
    quarantined: int = 0
    words: int = 0  # of the rows' analyses
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    variations: Counter[str] = field(default_factory=Counter)
    by_class: dict[str, Counter[str]] = field(default_factory=dict)
    answers: int = 0  # distinct
    wordings: int = 0  # distinct


def count(join: Join) -> Counts:
    """Count rows, distinct answers and distinct wordings; the answer to each request is measured once."""
    found = Counts()
    measure: Callable[[str], tuple[bytes, bytes, int]] | None = None
    words = array("q", [-1]) * len(join)  # of each request's answer, -1 until it is measured
    answers, wordings = bytearray(), bytearray()
    for part in join.parts():
        for row, text, reasons, *_ in part:
            # Any flow text will do: only feature names matter for the wording.
            measure = measure or measuring(row.text)
            status = "ok" if text is not None else "quarantined"
            found.by_class.setdefault(row.label, Counter())[status] += 1
            found.kinds[row.kind] += 1
            found.reasons.update(reason.split(":")[0] for reason in reasons)
            if row.variation is not None:
                found.variations[row.variation] += 1
            if text is None:
                found.quarantined += 1
                continue
            found.rows += 1
            if row.asked is not None and words[row.asked] >= 0:
                found.words += words[row.asked]
                continue
            answer, wording, length = measure(text)
            answers += answer
            wordings += wording
            found.words += length
            if row.asked is not None:
                words[row.asked] = length
    found.answers, found.wordings = distinct(answers), distinct(wordings)
    return found


def measuring(flow_text: str) -> Callable[[str], tuple[bytes, bytes, int]]:
    """Return an answer-measuring function: text -> (digest, digest of its wording, words of its analysis)."""
    facts = facts_of(flow_text)

    def measure(text: str) -> tuple[bytes, bytes, int]:
        analysis = parse_answer(text).analysis
        wording = "\n".join(map(" ".join, masked_bigrams(analysis, facts)))
        return digest(text), digest(wording), len(analysis.split())

    return measure


def digest(text: str) -> bytes:
    """Return a 16-byte digest of a text."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def distinct(digests: bytearray) -> int:
    """Count the distinct digests in their concatenation."""
    return len(np.unique(np.frombuffer(digests, dtype=f"S{DIGEST_BYTES}")))


def class_table(counts: Counts, distinct_flows: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return a table of rows, quarantined rows and distinct flows for each class."""
    return [
        {"class": name, "rows": n["ok"], "quarantined": n["quarantined"], "distinct_flows": int(distinct_flows[name])}
        for name, n in sorted(counts.by_class.items())
    ]
