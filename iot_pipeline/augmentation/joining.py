"""Rows and the answers to their requests: drawn one after the other, joined by key, counted; held on disk."""

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
    """A request with what its answer is judged by: flow text, label, of a paraphrase the original answer; classes and
    standardised features of the data set.
    """

    flow: str = field(default="", compare=False)
    label: str = field(default="", compare=False)
    original: str = field(default="", compare=False)
    classes: tuple[str, ...] = field(default=(), compare=False)
    signed: frozenset[str] = field(default=frozenset(), compare=False)

    def context(self) -> dict[str, str]:
        """What the answer is judged by, as texts."""
        data_set = json.dumps({"classes": self.classes, "signed": sorted(self.signed)})
        return {"flow": self.flow, "label": self.label, "original": self.original, "data_set": data_set}


class Row(NamedTuple):
    """One row and how it gets its answer: by the request numbered `asked`, or `given`; else `reason` says why not.

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
    """What became of a request, but for the text; few differ."""

    status: Status
    reasons: tuple[str, ...]
    model: str
    source: str
    attempts: int
    from_cache: bool


class Joined(NamedTuple):
    """A row with its answer: `text` as students see it, None if quarantined; the rest is of its request, if any."""

    row: Row
    text: str | None
    reasons: list[str]
    key: str | None = None
    seed: int | None = None
    outcome: Outcome | None = None


class Join:
    """Rows as they were drawn and answers as they came, whatever their order. Memory: some 200 bytes a request.

    order: of an answer's parts.
    """

    def __init__(self, order: str) -> None:
        self.order = order
        self.usage, self.attempts, self.billed_usd = Usage(), 0, 0.0  # of the answers, whenever they were given
        self.fresh_attempts = self.cached = self.drawn = 0
        self._numbers: dict[bytes, int] = {}  # by key
        self._labels: list[str] = []  # from here on by number
        self._seeds = array("q")
        self._outcomes: list[Outcome | None] = []
        self._texts = array("q")  # number in `_answers`, -1 without a good answer
        self._new: list[FlowRequest] = []
        self._rows, self._answers = Spill(), Spill()
        self._same: dict[Outcome, Outcome] = {}

    def __len__(self) -> int:
        """Distinct requests."""
        return len(self._numbers)

    def number(self, request: FlowRequest) -> int:
        """The request's number; equal requests have one, and are asked once."""
        found = self._numbers.setdefault(bytes.fromhex(request.key), len(self._numbers))
        if found == len(self._outcomes):
            self._new.append(request)
            self._labels.append(request.label)
            self._seeds.append(request.params["seed"])
            self._outcomes.append(None)
            self._texts.append(-1)
        return found

    def draw(self, parts: Iterable[Iterable[Row]]) -> Iterator[FlowRequest]:
        """Keep the rows, a part at a time, and yield the requests that were numbered while a part was made."""
        for part in parts:
            rows = []
            for row in part:
                rows.append(row)
                yield from self._new
                self._new.clear()
            self._rows.add(json.dumps(rows).encode())
            self.drawn += len(rows)

    def take(self, answer: Answer) -> None:
        """Keep an answer."""
        number = self._numbers[bytes.fromhex(answer.key)]
        self.usage, self.billed_usd = self.usage + answer.usage, self.billed_usd + answer.cost_usd
        self.attempts += answer.attempts
        self.cached += answer.from_cache
        self.fresh_attempts += 0 if answer.from_cache else answer.attempts
        found = Outcome(answer.status, answer.reasons, answer.model, answer.source, answer.attempts, answer.from_cache)
        self._outcomes[number] = self._same.setdefault(found, found)
        if answer.status == "ok":
            # The class is spelt as in the data: a teacher may write "http flood".
            parsed = replace(parse_answer(answer.text), label=self._labels[number])
            self._texts[number] = self._answers.add(format_answer(parsed, self.order).encode())

    def complete(self, rows: int) -> None:
        """Raise RuntimeError where one of `rows` rows was not drawn or a request got no answer, good or bad."""
        missing = sum(outcome is None for outcome in self._outcomes)
        if missing or self.drawn != rows:
            raise RuntimeError(
                f"{self.drawn:,} of {rows:,} rows were drawn, {missing:,} of {len(self):,} requests got no answer"
            )

    def embedded(self) -> bool:
        """Whether the embedded teacher wrote any answer."""
        return any(outcome.model == EMBEDDED_MODEL for outcome in self._same)

    def text(self, number: int) -> str | None:
        """The good answer to a request, if it has one."""
        return self._answers[self._texts[number]].decode() if self._texts[number] >= 0 else None

    def texts(self, numbers: Mapping[Key, int]) -> StoredAnswers:
        """Good answers by (flow_group, label), given the number of each one's request."""
        return StoredAnswers(
            {key: self._texts[number] for key, number in numbers.items() if self._texts[number] >= 0}, self._answers
        )

    def parts(self) -> Iterator[list[Joined]]:
        """Rows with their answers, in the order in which they were drawn, some thousands at a time."""
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
    """Answers by (flow_group, label), the texts on disk. numbers: of each one's text in `texts`."""

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
    """Requests to be drawn once, and about how many there are, for whoever shows progress."""

    requests: Iterator[FlowRequest]
    expected: int

    def __iter__(self) -> Iterator[FlowRequest]:
        return self.requests

    def __length_hint__(self) -> int:
        return self.expected


@dataclass
class Counts:
    """What the report says of rows and answers."""

    rows: int = 0
    quarantined: int = 0
    words: int = 0  # of the rows' analyses
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    variations: Counter[str] = field(default_factory=Counter)
    by_class: dict[str, Counter[str]] = field(default_factory=dict)
    answers: int = 0  # distinct ones
    wordings: int = 0


def count(join: Join) -> Counts:
    """Count rows, and answers by digest: each text is read and measured once."""
    found = Counts()
    measure: Callable[[str], tuple[bytes, bytes, int]] | None = None
    words = array("q", [-1]) * len(join)  # of each request's answer, once it is measured
    answers, wordings = bytearray(), bytearray()
    for part in join.parts():
        for row, text, reasons, *_ in part:
            # Any flow text will do: only the features' names matter for the wording.
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
    """A function of an answer: digest of its text, digest of its wording, words of its analysis."""
    facts = facts_of(flow_text)

    def measure(text: str) -> tuple[bytes, bytes, int]:
        analysis = parse_answer(text).analysis
        wording = "\n".join(map(" ".join, masked_bigrams(analysis, facts)))
        return digest(text), digest(wording), len(analysis.split())

    return measure


def digest(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def distinct(digests: bytearray) -> int:
    """How many of the digests, one behind the other, differ."""
    return len(np.unique(np.frombuffer(digests, dtype=f"S{DIGEST_BYTES}")))


def class_table(counts: Counts, distinct_flows: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rows, quarantined rows and distinct flows of each class."""
    return [
        {"class": name, "rows": n["ok"], "quarantined": n["quarantined"], "distinct_flows": int(distinct_flows[name])}
        for name, n in sorted(counts.by_class.items())
    ]
