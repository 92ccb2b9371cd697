"""Controls of the study: training rows of the track `original` with one thing changed, so that an effect has one cause.

- `label_only`: each answer is its CLASSIFICATION line alone.
- `shuffled_explanations`: the stage's explanations change places over all its rows; flow and class line stay. As few
  rows as possible keep an equal explanation. An explanation may name a wrong class and cite another flow's values;
  equal rows, which share one explanation in `original`, receive different ones.
- `other_class_explanations`: each row has the explanation of a random row of another class; flow and class line stay.
- `repeated_originals`: the distinct rows, all of them in a new random order in each pass, until the next would pass
  the tokens of `paraphrased` at the stage. Every flow then has the same weight, and no text is new.
- `shuffled_names`: feature names change places, each to another feature, in flows and answers of training and in every
  prompt of evaluation; values stay. Only names as they are spelled in flows are replaced in answers, no description in
  words. The tiny base has read flows with their true names.
- `untrained`: the base without an adapter; it has no rows here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from iot_pipeline.augmentation.mentions import names_pattern
from iot_pipeline.errors import UserError
from iot_pipeline.flows.serialise import leads
from iot_pipeline.models.tokenizer import LABEL_LINE

Row = dict[str, Any]  # a chat row: {"messages": [user, assistant]}


def answer_parts(answer: str) -> tuple[int, list[str]]:
    """Return the place of an answer's class line, and all its lines; UserError if it has none."""
    lines = answer.split("\n")
    place = next((place for place, line in enumerate(lines) if line.startswith(LABEL_LINE)), None)
    if place is None:
        raise UserError(f"a training answer has no {LABEL_LINE} line")
    return place, lines


def changed(row: Row, flow: str | None = None, answer: str | None = None) -> Row:
    """Return a chat row with another flow or answer."""
    user, assistant = row["messages"]
    texts = (user["content"] if flow is None else flow, assistant["content"] if answer is None else answer)
    return {"messages": [{**turn, "content": text} for turn, text in zip((user, assistant), texts, strict=True)]}


def label_only(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield chat rows whose answers are the class lines alone."""
    for row in rows:
        place, lines = answer_parts(row["messages"][1]["content"])
        yield changed(row, answer=lines[place])


def shuffled_explanations(rows: Sequence[Row], seed: int) -> Iterator[Row]:
    """Yield chat rows with the explanations of others, each explanation as often as before."""
    explanations = [explanation_of(row) for row in rows]
    return exchanged(rows, deranged(codes(explanations), np.random.default_rng(seed)))


def other_class_explanations(rows: Sequence[Row], seed: int) -> Iterator[Row]:
    """Yield chat rows with the explanations of random rows of another class; UserError if there is one class only."""
    random, labels = np.random.default_rng(seed), codes([label_of(row) for row in rows])
    drawn = np.empty(len(rows), dtype=np.int64)
    for label in np.unique(labels):
        own, others = np.flatnonzero(labels == label), np.flatnonzero(labels != label)
        if not len(others):
            raise UserError("the control other_class_explanations needs rows of two classes at least")
        drawn[own] = random.choice(others, len(own))
    return exchanged(rows, drawn)


def exchanged(rows: Sequence[Row], places: Sequence[int] | np.ndarray) -> Iterator[Row]:
    """Yield chat rows with the explanations of the rows at `places` [rows]; each class line stays where it stands."""
    for row, other in zip(rows, places, strict=True):
        place, lines = answer_parts(row["messages"][1]["content"])
        explanation = explanation_of(rows[other])
        yield changed(row, answer="\n".join([lines[place], explanation] if place == 0 else [explanation, lines[place]]))


def explanation_of(row: Row) -> str:
    """Return a row's answer without its class line."""
    place, lines = answer_parts(row["messages"][1]["content"])
    return "\n".join(lines[:place] + lines[place + 1 :])


def label_of(row: Row) -> str:
    """Return the class line of a row's answer."""
    place, lines = answer_parts(row["messages"][1]["content"])
    return lines[place]


def codes(texts: Sequence[str]) -> np.ndarray:
    """Number texts; equal texts have equal numbers, int64 [texts]."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(text, len(known)) for text in texts], dtype=np.int64)


def deranged(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Permute the places of values [n] so that as few as possible receive an equal value.

    None does unless one value fills more than half of the places. Places that received their own value exchange with
    random places where neither value is that one; as long as one exists, each exchange mends a place and spoils none.
    """
    places = random.permutation(len(values))
    for value in np.unique(values[values[places] == values]):
        given, received = values == value, values[places] == value
        own = random.permutation(np.flatnonzero(given & received))
        others = random.permutation(np.flatnonzero(~given & ~received))[: len(own)]
        own = own[: len(others)]
        places[own], places[others] = places[others], places[own]
    return places


def distinct_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the distinct chat rows, in the order of their first places."""
    return list({tuple(turn["content"] for turn in row["messages"]): row for row in rows}.values())


def repeated(lengths: Sequence[int] | np.ndarray, budget: int, seed: int) -> Iterator[int]:
    """Yield places of rows in passes, each in a new random order, until the next row would pass the budget.

    Args:
        lengths: Tokens of each row, at least one row.
        budget: Tokens in total.
        seed: Seed of the orders.
    """
    random = np.random.default_rng(seed)
    while True:
        for place in random.permutation(len(lengths)).tolist():
            budget -= int(lengths[place])
            if budget < 0:
                return
            yield place


@dataclass(frozen=True)
class ShuffledNames:
    """Feature names of a data set in places that a seed decides; a single cycle, so that none keeps its place.

    The values of categories stay in their places, whatever name is shown for them.
    """

    names: tuple[str, ...]
    serialisation: str
    seed: int
    categories: frozenset[str] = frozenset()

    @cached_property
    def shown(self) -> dict[str, str]:
        """Map each feature to the name that is shown for it."""
        order = np.random.default_rng(self.seed).permutation(len(self.names))
        return {self.names[own]: self.names[other] for own, other in zip(order, np.roll(order, 1), strict=True)}

    def flow(self, text: str) -> str:
        """Write a flow text with the shown names; UserError if it is not of this data set and serialisation."""
        old, new = self._leads
        values, rest = [], text.removeprefix(old[0])
        for lead in old[1:]:
            value, _, rest = rest.partition(lead)
            values.append(value)
        values.append(rest)
        if "".join(map("".join, zip(old, values, strict=True))) != text:
            raise UserError(f"the flow text is not as {self.serialisation} writes it: {text[:80]!r}")
        return "".join(map("".join, zip(new, values, strict=True)))

    def answer(self, text: str) -> str:
        """Write an answer with the shown names."""
        return names_pattern(self.names, self.categories).sub(lambda name: self.shown[name[0]], text)

    def restored(self, text: str) -> str:
        """Write an answer to a shown flow with the true names."""
        true = {other: own for own, other in self.shown.items()}
        shown = frozenset(self.shown[name] for name in self.categories)
        return names_pattern(self.names, shown).sub(lambda name: true[name[0]], text)

    def rows(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield chat rows with the shown names in flow and answer."""
        for row in rows:
            user, assistant = row["messages"]
            yield changed(row, self.flow(user["content"]), self.answer(assistant["content"]))

    @cached_property
    def _leads(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Text before each value, with the true names and with the shown ones."""
        shown = [self.shown[name] for name in self.names]
        places = {self.shown[name] for name in self.categories}
        return leads(self.names, self.serialisation, self.categories), leads(shown, self.serialisation, places)
