"""Writer of the embedded analyst's texts: fills the sentence templates of knowledge.yaml."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from iot_pipeline.flows.marked import cited_fact
from iot_pipeline.lake.yaml_reader import read_own_yaml

KNOWLEDGE = Path(__file__).parent / "knowledge.yaml"
LONG = 300  # words
RARE, COMMON = 5, 50  # percent of the train pool that has a category's value
WORD = re.compile(r"[A-Za-z]+")
# The first part that a feature's name contains decides its group.
GROUPS = {
    "missed": "gaps", "_iat": "timing", "per_sec": "rate", "ratio": "balance", "difference": "balance",
    "header": "headers", "bwd_pkts_payload": "answered", "payload": "payload", "resp": "answered", "orig": "sent",
    "fwd": "sent", "bwd": "answered",
}  # fmt: skip


@dataclass(frozen=True)
class Cite:
    """Cited feature: value as printed, percentile (`p97` or empty), direction (above, below, at, or empty).

    marked: written as a marked fact (`flows/marked.py`). is_category: its value is a word, without percentile and
    direction; `share` is its share of the train pool (`83%` or empty).
    """

    feature: str
    value: str
    percentile: str
    direction: str
    marked: bool = False
    is_category: bool = False
    share: str = ""

    @property
    def reference(self) -> str:
        """Reference such as `above the mean`; empty if the direction is unknown."""
        return f"{self.direction} the {'median' if self.percentile else 'mean'}" if self.direction else ""

    @property
    def note(self) -> str:
        """Note in parentheses after the value; empty if the direction is unknown."""
        if self.is_category:
            return self.share
        said = self.direction if self.marked else self.reference
        return ", ".join(filter(None, (said, self.percentile))) if self.direction else ""

    @property
    def name(self) -> str:
        """Feature name as prose mentions it."""
        return f"`{self.feature}`" if self.marked else self.feature

    def __str__(self) -> str:
        """Format the citation as an item of KEY_INDICATORS."""
        return cited_fact(self.feature, self.value, self.note, self.marked)


def meanings(groups: Mapping[str, Any], category: Mapping[str, Any], cite: Cite) -> list[str]:
    """Return what a citation may be said to mean: by the group of its feature, or as a category.

    Args:
        groups: Meanings by group and direction.
        category: Meanings of a category, by how common its value is.
        cite: The citation.
    """
    if cite.is_category:
        share = int(cite.share[:-1]) if cite.share else None
        how = "plain" if share is None else "rare" if share < RARE else "common" if share > COMMON else "plain"
        return list(category[how])
    return list(groups[group_of(cite.feature)][cite.direction if cite.direction in ("above", "below") else "plain"])


@cache
def knowledge() -> dict[str, Any]:
    """Load the knowledge base, knowledge.yaml, with class names in lower case."""
    content: dict[str, Any] = read_own_yaml(KNOWLEDGE)
    content["classes"] = {name.lower(): value for name, value in content["classes"].items()}
    return content


def about_class(label: str) -> dict[str, Any]:
    """Return a class's nouns, reasons, actions and group weights; generic ones for an unknown class."""
    found: dict[str, Any] = knowledge()["classes"].get(label.lower(), knowledge()["generic"])
    return found


def is_known(label: str) -> bool:
    """Return True if the knowledge base has an entry of its own for a class."""
    return label.lower() in knowledge()["classes"]


@cache
def group_of(feature: str) -> str:
    """Return the group of a feature, by its name."""
    return next((group for part, group in GROUPS.items() if part in feature), "payload")


class Writer:
    """Writer of ANALYSIS texts. Temperature 0 always takes the first wording, a higher one chooses by `rng`."""

    def __init__(self, rng: random.Random, temperature: float) -> None:
        self._rng, self._free = rng, temperature > 0

    def pick(self, options: Sequence[str]) -> str:
        """Pick one of the options."""
        return options[int(self._rng.random() * len(options))] if self._free else options[0]

    def chance(self, share: float) -> bool:
        """Return True in this share of cases; never at temperature 0."""
        return self._free and self._rng.random() < share

    def place(self, options: int) -> int:
        """Return a number below `options`; 0 at temperature 0."""
        return int(self._rng.random() * options) if self._free else 0

    def template(self, kind: str) -> str:
        """Pick one of the templates of this kind."""
        return self.pick(knowledge()["templates"][kind])

    def noun(self, label: str) -> str:
        """Pick a noun for a class."""
        return self.pick(about_class(label)["noun"]).format(label=label)

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
        noun = self.noun(label)
        opening = self.template("openings").format(noun=noun)
        if words >= 100:
            opening += " " + self.template("openings_long").format(label=label)
        why = apart(self.shuffled(about_class(label)["why"]), cites)
        clauses = [self._clause(cite) for cite in cites]
        room = words - sum(map(_words, (opening, why[0], *clauses)))
        # Readings explain a value, so they have priority among the optional sentences.
        for index in self.shuffled(range(len(cites))):
            reading = self.pick(meanings(knowledge()["groups"], knowledge()["category"], cites[index]))
            if _words(reading) <= room + 3:
                clauses[index] += ", " + reading
                room -= _words(reading)
        middle, closing = [why[0]], []
        for sentence in apart(self._more(why[1:], label, cites, classes, words), cites):
            if room < 4:
                break
            if words >= LONG:
                sentence = self._led(sentence)
            if _words(sentence) <= room + 4:
                middle.append(sentence)
                room -= _words(sentence)
        if self._free and self._rng.random() < 0.5:
            middle, closing = middle[:-1], middle[-1:]
        size = 1 if words >= 150 else 2
        parts = [clauses[start : start + size] for start in range(0, len(clauses), size)]
        names = tuple(cite.feature for cite in cites)
        return " ".join([opening, *(self._sentence(part, names) for part in parts), *middle, *closing])

    def _clause(self, cite: Cite) -> str:
        if cite.marked:
            return self.template("marked").format(fact=cite)
        if cite.is_category:
            return self.pick(knowledge()["category"]["said"]).format(f=cite.feature, v=cite.value)
        value = f"{cite.value}, {cite.percentile}" if cite.percentile else cite.value
        return self.template("directed" if cite.direction else "plain").format(
            f=cite.feature, v=value, d=cite.reference
        )

    def _sentence(self, clauses: list[str], names: tuple[str, ...]) -> str:
        """Join clauses into a sentence; the name of a feature keeps its case at the start."""
        text = self.template("joints").join(clauses)
        start = self.template("starts")
        named = "_" in text.split(" ", 1)[0] or text.startswith(names)
        return (start + text if start or named else text[0].upper() + text[1:]) + "."

    def _more(self, why: list[str], label: str, cites: Sequence[Cite], classes: Sequence[str], words: int) -> list[str]:
        """Return all further sentences, the most useful first."""
        about = {name: group["about"] for name, group in knowledge()["groups"].items()}
        cited = list(dict.fromkeys(group_of(cite.feature) for cite in cites if not cite.is_category))
        background = self.shuffled([sentence for group in cited for sentence in about[group]])
        contrasts = []
        patterns = self.shuffled(knowledge()["templates"]["contrasts"])
        # A short text has no room for contrasts with other classes.
        others = [name for name in classes if name != label] if words >= 100 else []
        for pattern, other in zip(itertools.cycle(patterns), self.shuffled(others)):
            text = pattern.format(noun=self.noun(other))
            contrasts.append(text[0].upper() + text[1:])
        method = self.shuffled(knowledge()["templates"]["method"])
        act = self.shuffled(about_class(label)["act"])
        rest = [sentence for group in about if group not in cited for sentence in about[group]]
        first = [*why, *act[:1], *background[:4], *contrasts[:3], *method[:3]]
        second = self.shuffled([*act[1:], *background[4:], *contrasts[3:], *method[3:], *rest])
        if words < LONG:
            return [*first, *second]
        pairs = self.shuffled(list(itertools.combinations([cite.name for cite in cites], 2)))
        return [*first, *second, *(self.template("pairs").format(a=a, b=b) for a, b in pairs[:30])]

    def _led(self, sentence: str) -> str:
        lead = self.template("leads")
        keeps = not lead or sentence[1:2].isupper() or "_" in sentence.split(" ", 1)[0]
        return lead + (sentence if keeps else sentence[0].lower() + sentence[1:])


def names_one(sentence: str, cites: Sequence[Cite]) -> bool:
    """Return True if an ordinary word of a sentence is the name of a cited feature, such as `service` or `duration`.

    The sentence would be read as one about this feature.
    """
    words = [cite.feature for cite in cites if cite.feature.isalpha() and cite.feature.islower()]
    return bool(words) and not {*words}.isdisjoint(WORD.findall(sentence))


def apart(sentences: Sequence[str], cites: Sequence[Cite]) -> list[str]:
    """Return the sentences that name no cited feature by an ordinary word; all if there is no other."""
    return [one for one in sentences if not names_one(one, cites)] or list(sentences)


def _words(text: str) -> int:
    return text.count(" ") + 1
