"""Answers with one planted fault each, a wrong number, category or direction, held against their flow's grammar."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from iot_pipeline.augmentation.answers import ORDERS, format_answer, parse_answer
from iot_pipeline.embedded_teacher.phrasing import Cite
from iot_pipeline.flows.marked import MARKED
from iot_pipeline.inference.grammar import facts_to_cite, gbnf, lark
from iot_pipeline.tiny_base.tokenizer import build_tokenizer
from iot_pipeline_tests.augmentation.mutations import Case, true_answers

# Features with words as values, which no flow has yet.
CATEGORIES = {"conn_state": ("SF", "S0", "REJ", "RSTO"), "proto": ("tcp", "udp", "icmp", "unknown_transport")}
PROSE_NUMBERS = ("12 packets", "nearly 50 %", "port 1883", "p97", "a factor of 2.5", "-3", "the 94th percentile")
PROSE_DIRECTIONS = ("far above the usual", "Below the mean", "above average", "ABOVE what is normal")


@dataclass(frozen=True)
class Right:
    """A right answer with marked facts, and its grammar's parts."""

    text: str
    facts: tuple[Cite, ...]
    classes: tuple[str, ...]
    order: str
    label: str | None

    @cached_property
    def by_name(self) -> dict[str, Cite]:
        return {fact.feature: fact for fact in self.facts}

    def gbnf(self) -> str:
        return gbnf(self.facts, self.classes, self.order, self.label)

    def lark(self) -> str:
        return lark(self.gbnf())


def right_answers(number: int, seed: int, words: Sequence[int] = (30, 60, 60, 120, 300)) -> Iterator[Right]:
    """The embedded teacher's answers in the marked form, of all tracks, data sets and serialisations."""
    draw = random.Random(seed)
    for place, case in enumerate(true_answers(number, seed, words, marked=True)):
        stated = [Cite(name, draw.choice(values), "", "", True) for name, values in CATEGORIES.items()]
        order = ORDERS[place % 2]
        text = with_facts(format_answer(parse_answer(case.answer), order, True), stated)
        facts = (*facts_to_cite(case.flow, case.signed), *stated)
        yield Right(text, facts, case.classes, order, case.label if place % 3 else None)


def with_facts(text: str, facts: Sequence[Cite]) -> str:
    """The answer with further facts in prose and key indicators."""
    added = " and ".join(map(str, facts))
    text = text.replace("\nKEY_INDICATORS: ", f" The record also has {added}.\nKEY_INDICATORS: ", 1)
    line = next(line for line in text.split("\n") if line.startswith("KEY_INDICATORS: "))
    items = line.removeprefix("KEY_INDICATORS: ").split("; ")[: 12 - len(facts)]
    return text.replace(line, "KEY_INDICATORS: " + "; ".join([*items, *map(str, facts)]))


def changed_fact(right: Right, draw: random.Random, change: Callable[[Cite], Cite | None]) -> tuple[str, int] | None:
    """The answer with one cited fact changed, and where the fact ends; None if the change does not apply to it."""
    found = draw.choice(list(MARKED.finditer(right.text)))
    fact = right.by_name[found[1]]
    new = change(fact)
    true = right.by_name.get(new.feature) if new is not None else None
    if new is None or (true is not None and str(new) in (str(true), str(true).partition(" (")[0])):
        return None
    return right.text[: found.start()] + str(new) + right.text[found.end() :], found.start() + len(str(new))


def number(kind: str) -> Callable[[Right, random.Random], tuple[str, int] | None]:
    """A planter of wrong values of a kind."""

    def plant(right: Right, draw: random.Random) -> tuple[str, int] | None:
        def change(fact: Cite) -> Cite | None:
            value, digits = fact.value, [place for place, mark in enumerate(fact.value) if mark.isdigit()]
            if fact.feature in CATEGORIES:
                return None
            if kind == "sign":
                if not re.search("[1-9]", value):
                    return None
                return replace(fact, value=value[1:] if value.startswith("-") else f"-{value}")
            if kind == "of another feature":
                return replace(fact, value=draw.choice(right.facts).value)
            place, digit = draw.choice(digits), str(draw.randint(0, 9))
            if kind == "digit changed":
                return replace(fact, value=value[:place] + digit + value[place + 1 :])
            if kind == "digit added":
                return replace(fact, value=value[:place] + digit + value[place:])
            if kind == "digit left out":
                return replace(fact, value=value[:place] + value[place + 1 :]) if len(digits) > 1 else None
            if kind == "drawn":
                return replace(fact, value=f"{draw.gauss(0, 100):.3f}")
            assert kind == "percentile"
            return replace(fact, percentile=f"p{draw.randint(0, 100)}") if fact.percentile else None

        return changed_fact(right, draw, change)

    return plant


def flipped(right: Right, draw: random.Random) -> tuple[str, int] | None:
    """A fact with another direction."""
    return changed_fact(
        right,
        draw,
        lambda fact: replace(fact, direction=draw.choice(["above", "below", "at"])) if fact.direction else None,
    )


def renamed(right: Right, draw: random.Random) -> tuple[str, int] | None:
    """A fact under another feature's name, or one that the flow lacks."""
    return changed_fact(right, draw, lambda fact: replace(fact, feature=draw.choice([*right.by_name, "dst_port"])))


def category(right: Right, draw: random.Random) -> tuple[str, int] | None:
    """A wrong value of a feature whose values are words."""

    def change(fact: Cite) -> Cite | None:
        values = CATEGORIES.get(fact.feature)
        if values is None:
            return None
        return replace(fact, value=draw.choice([*values, f"{fact.value}x", fact.value[:-1] or "x", "sctp"]))

    return changed_fact(right, draw, change)


def wrong_class(right: Right, draw: random.Random) -> tuple[str, int] | None:
    """Another class in the class line: of the data where the grammar has the scored one, else one that is none."""
    found = re.search(r"^CLASSIFICATION: (.+)$", right.text, re.MULTILINE)
    assert found is not None
    others = [name for name in right.classes if name != found[1]] if right.label else []
    name = draw.choice([*others, "Rogue_Update", f"{found[1]}s", found[1][:-1]])
    return right.text[: found.start(1)] + name + right.text[found.end(1) :], found.start(1) + len(name) + 1


def in_prose(phrases: Sequence[str]) -> Callable[[Right, random.Random], tuple[str, int]]:
    """A planter of phrases into the prose."""

    def plant(right: Right, draw: random.Random) -> tuple[str, int]:
        start = right.text.index("ANALYSIS: ") + 10
        prose = right.text[start : right.text.index("\nKEY_INDICATORS")]
        gaps = [start + place.start() for place in re.finditer(r"(?<=[a-z]) (?=[a-z])", MARKED.sub(blank, prose))]
        place, phrase = draw.choice(gaps), draw.choice(list(phrases))
        return f"{right.text[:place]} {phrase}{right.text[place:]}", place + 1 + len(phrase)

    return plant


def blank(found: re.Match[str]) -> str:
    return "|" * len(found[0])


KINDS: dict[str, Callable[[Right, random.Random], tuple[str, int] | None]] = {
    **{
        f"number: {kind}": number(kind)
        for kind in (
            "sign", "of another feature", "digit changed", "digit added", "digit left out", "drawn", "percentile",
        )
    },
    "number: in prose": in_prose(PROSE_NUMBERS),
    "number: of another name": renamed,
    "category: value": category,
    "category: class": wrong_class,
    "direction: in a fact": flipped,
    "direction: in prose": in_prose(PROSE_DIRECTIONS),
}  # fmt: skip


def planted(right: Right, place: int, draw: random.Random) -> tuple[str, str, int]:
    """The kind that is next, the answer with one fault of it, and where the fault ends."""
    kinds = list(KINDS)
    for turn in range(10_000):
        kind = kinds[(place + turn // 50) % len(kinds)]  # a kind may not apply to this answer at all
        found = KINDS[kind](right, draw)
        if found is not None:
            return kind, *found
    raise AssertionError(f"nothing can be planted in {right.text!r}")


def tiny_tokenizer(seed: int) -> Any:
    """A tokenizer as the tiny base has, of marked answers and their flows."""
    cases: list[Case] = true_answers(240, seed, marked=True)
    names = {fact.feature for case in cases for fact in facts_to_cite(case.flow, case.signed)}
    return build_tokenizer([f"{case.flow}\n{case.answer}" for case in cases], sorted(names), 2048)
