"""Sentence templates of the embedded analyst, filled from its knowledge of classes and features."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

KNOWLEDGE = Path(__file__).parent / "knowledge.yaml"

OPENINGS = (
    "This flow is consistent with {noun}.",
    "The measurements point to {noun}.",
    "Taken together, the features describe {noun}.",
    "The pattern seen here is that of {noun}.",
    "The record fits {noun} best.",
    "What this flow shows is {noun}.",
    "Read as a whole, the flow indicates {noun}.",
    "The evidence in this record speaks for {noun}.",
    "An analyst would read this flow as {noun}.",
    "These values are typical of {noun}.",
)
OPENINGS_LONG = (
    "The classification as {label} rests on how volume, headers and timing of this flow fit together.",
    "The assignment to {label} follows from several features that tell the same story.",
    "The label {label} is explained by the features discussed here, each cited with its value.",
)
# One feature with a direction: `v` is the value as printed, `d` e.g. "above the mean".
DIRECTED = (
    "{f} ({v}) is {d}",
    "{f} stands at {v}, {d}",
    "{f} is {v}, which is {d}",
    "{f} reads {v} and lies {d}",
    "the value of {f} is {v}, {d}",
    "{f} has the value {v}, {d}",
    "{f} of {v} lies {d}",
    "with {v}, {f} is {d}",
)
PLAIN = (
    "{f} is {v}",
    "{f} stands at {v}",
    "{f} reads {v}",
    "the value of {f} is {v}",
    "{f} has the value {v}",
    "we see {f} at {v}",
    "the record gives {f} as {v}",
    "{f} was measured as {v}",
)
JOINTS = ("; ", ", and ", ", while ", "; in addition, ", ", whereas ", "; likewise ")
STARTS = (
    "",
    "",
    "",
    "Here ",
    "In this flow ",
    "Notably, ",
    "Moreover, ",
    "In addition, ",
    "Besides, ",
    "First of all, ",
)
CONTRASTS = (
    "For {noun} one would expect a different picture in these features.",
    "The alternative reading, {noun}, explains the cited values less well.",
    "One might think of {noun} as well, yet the cited features argue against it.",
    "Compared with {noun}, the balance of the cited features is clearly different.",
    "{noun} was considered and set aside, since the strongest indicators do not support it.",
)
METHOD = (
    "No single value decides; it is the combination that makes the reading firm.",
    "The indicators were chosen by how far they depart from ordinary traffic and by what they mean for this class.",
    "Each value is cited as it stands in the record, so that the reasoning can be checked line by line.",
    "Features that are not mentioned neither add to this reading nor speak against it.",
    "A different label would have to explain the same values at least as well, and none does.",
    "The flow was judged by itself; neighbouring flows of the same source would make the picture more complete.",
    "Identical flows can occur under other labels, so the context of the capture deserves a look as well.",
    "Operators should weigh this reading together with alerts from the same period.",
    "The reading does not depend on addresses or ports, which an attacker can change at will.",
    "It rests on the behaviour of the flow, which is harder to disguise than its origin.",
    "Small changes of the cited values would not change the conclusion, large ones in several of them would.",
    "The features of both directions were read side by side, since one direction alone can mislead.",
)
PAIRS = (
    "Read side by side, {a} and {b} support each other.",
    "{a} gains weight when it is seen together with {b}.",
    "Neither {a} nor {b} alone would be enough, but together they speak a clear language.",
    "The joint behaviour of {a} and {b} is hard to explain in any other way.",
    "What {a} suggests is not contradicted by {b}.",
)
# For long texts only: these use most of the known sentences, and leads make their wording differ.
LEADS = (
    "",
    "",
    "",
    "It is worth noting that ",
    "As a rule, ",
    "From experience with such captures, ",
    "It should be added that ",
    "To put it in context, ",
    "For the analyst this means that ",
    "One has to keep in mind that ",
    "On closer inspection, ",
    "More generally, ",
    "Seen from the operator's side, ",
)
LONG = 300


@dataclass(frozen=True)
class Cite:
    """Cited feature: value as printed, percentile (`p97` or empty), direction (above, below, at, or empty)."""

    feature: str
    value: str
    percentile: str
    direction: str

    @property
    def printed(self) -> str:
        """Value and percentile as printed in a sentence."""
        return f"{self.value}, {self.percentile}" if self.percentile else self.value

    @property
    def reference(self) -> str:
        """Reference such as `above the mean`; empty if the direction is unknown."""
        if not self.direction:
            return ""
        return f"{self.direction} the {'median' if self.percentile else 'mean'}"

    def note(self) -> str:
        """Return the note in parentheses after the value; empty if the direction is unknown."""
        return ", ".join(filter(None, (self.reference, self.percentile))) if self.direction else ""

    def indicator(self) -> str:
        """Format the citation as an item of KEY_INDICATORS."""
        note = self.note()
        return f"{self.feature} {self.value}" + (f" ({note})" if note else "")


@cache
def knowledge() -> dict[str, Any]:
    """Load the knowledge base, knowledge.yaml, with class names in lower case."""
    content: dict[str, Any] = yaml.safe_load(KNOWLEDGE.read_text(encoding="utf-8"))
    content["classes"] = {name.lower(): value for name, value in content["classes"].items()}
    return content


def about_class(label: str) -> dict[str, Any]:
    """Return a class's nouns, reasons, actions and group weights; generic ones for an unknown class."""
    known: dict[str, Any] | None = knowledge()["classes"].get(label.lower())
    return known if known is not None else knowledge()["generic"]


@cache
def group_of(feature: str) -> str:
    """Return the group of a feature, by its name."""
    for part, group in (
        ("missed", "gaps"),
        ("_iat", "timing"),
        ("per_sec", "rate"),
        ("ratio", "balance"),
        ("difference", "balance"),
        ("header", "headers"),
        ("bwd_pkts_payload", "answered"),
        ("payload", "payload"),
        ("resp", "answered"),
        ("orig", "sent"),
        ("fwd", "sent"),
        ("bwd", "answered"),
    ):
        if part in feature:
            return group
    return "payload"


class Writer:
    """Writer of ANALYSIS texts. Temperature 0 always takes the first wording, a higher one chooses by `rng`."""

    def __init__(self, rng: random.Random, temperature: float) -> None:
        self._rng, self._free = rng, temperature > 0

    def pick(self, options: Sequence[str]) -> str:
        """Pick one of the options."""
        return options[int(self._rng.random() * len(options))] if self._free else options[0]

    def shuffled(self, options: Sequence[Any]) -> list[Any]:
        """Return the options, shuffled unless the temperature is 0."""
        listed = list(options)
        if self._free:
            self._rng.shuffle(listed)
        return listed

    def analysis(self, label: str, cites: Sequence[Cite], words: int, classes: Sequence[str]) -> str:
        """Write an analysis that cites each feature once.

        Args:
            label: class to explain.
            cites: features to cite.
            words: approximate length.
            classes: all classes; the others may appear as contrasts.
        """
        about = about_class(label)
        noun = self.pick(about["noun"]).format(label=label)
        opening = self.pick(OPENINGS).format(noun=noun)
        if words >= 100:
            opening += " " + self.pick(OPENINGS_LONG).format(label=label)
        why = self.shuffled(about["why"])
        room = words - _words(opening) - _words(why[0])
        clauses = [self._clause(cite) for cite in cites]
        room -= sum(map(_words, clauses))
        # Readings explain a value, so they have priority among the optional sentences.
        for index in self.shuffled(range(len(cites))):
            reading = self._reading(cites[index])
            if _words(reading) <= room + 3:
                clauses[index] += ", " + reading
                room -= _words(reading)
        middle, closing = [why[0]], []
        for sentence in self._more(why[1:], about, label, cites, classes, words):
            if room < 4:
                break
            if words >= LONG:
                sentence = self._led(sentence)
            if _words(sentence) <= room + 4:
                middle.append(sentence)
                room -= _words(sentence)
        if self._free and self._rng.random() < 0.5:
            middle, closing = middle[:-1], middle[-1:]
        return " ".join([opening, *self._joined(clauses, words >= 150), *middle, *closing])

    def _clause(self, cite: Cite) -> str:
        patterns = DIRECTED if cite.direction else PLAIN
        return self.pick(patterns).format(f=cite.feature, v=cite.printed, d=cite.reference)

    def _reading(self, cite: Cite) -> str:
        direction = cite.direction if cite.direction in ("above", "below") else "plain"
        return self.pick(knowledge()["groups"][group_of(cite.feature)][direction])

    def _joined(self, clauses: list[str], single: bool) -> list[str]:
        sentences = []
        index = 0
        while index < len(clauses):
            step = 1 if single else 2
            part = clauses[index : index + step]
            index += step
            text = self.pick(JOINTS).join(part)
            start = self.pick(STARTS)
            # A feature's name keeps its case at the start of a sentence.
            named = "_" in text.split(" ", 1)[0]
            sentences.append((start + text if start or named else text[0].upper() + text[1:]) + ".")
        return sentences

    def _more(
        self,
        why: list[str],
        about: dict[str, Any],
        label: str,
        cites: Sequence[Cite],
        classes: Sequence[str],
        words: int,
    ) -> list[str]:
        """Return all further sentences, the most useful first."""
        groups = list(dict.fromkeys(group_of(cite.feature) for cite in cites))
        background = self.shuffled([s for group in groups for s in knowledge()["groups"][group]["about"]])
        contrasts = []
        patterns = self.shuffled(CONTRASTS)
        # A short text has no room for contrasts with other classes.
        others = [c for c in classes if c != label] if words >= 100 else []
        for number, other in enumerate(self.shuffled(others)):
            noun = self.pick(about_class(other)["noun"]).format(label=other)
            text = patterns[number % len(patterns)].format(noun=noun)
            contrasts.append(text[0].upper() + text[1:])
        method, act = self.shuffled(METHOD), self.shuffled(about["act"])
        rest = [
            s for group in knowledge()["groups"] if group not in groups for s in knowledge()["groups"][group]["about"]
        ]
        first = [*why, *act[:1], *background[:4], *contrasts[:3], *method[:3]]
        second = self.shuffled([*act[1:], *background[4:], *contrasts[3:], *method[3:], *rest])
        return [*first, *second, *(self._pairs(cites) if words >= LONG else [])]

    def _pairs(self, cites: Sequence[Cite]) -> list[str]:
        names = [cite.feature for cite in cites]
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        return [self.pick(PAIRS).format(a=a, b=b) for a, b in self.shuffled(pairs)[:30]]

    def _led(self, sentence: str) -> str:
        lead = self.pick(LEADS)
        keeps = not lead or sentence[1:2].isupper() or "_" in sentence.split(" ", 1)[0]
        return lead + (sentence if keeps else sentence[0].lower() + sentence[1:])


def _words(text: str) -> int:
    return text.count(" ") + 1
