"""Editor of the embedded teacher: rewrites a given explanation by a sentence plan and phrases of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from iot_pipeline.embedded_teacher.phrasing import LONG, Cite, Writer, about_class, apart, group_of, meanings, names_one
from iot_pipeline.lake.yaml_reader import read_own_yaml

PHRASES = Path(__file__).parent / "paraphrase.yaml"
MOST_TOGETHER = 3  # features in one sentence
COUNTS = ("", "", "both", "all three")


@cache
def phrases() -> dict[str, Any]:
    """Load the editor's phrases, paraphrase.yaml, with class names in lower case."""
    content: dict[str, Any] = read_own_yaml(PHRASES)
    content["classes"] = {name.lower(): value for name, value in content["classes"].items()}
    return content


def phrases_of(label: str) -> dict[str, Any]:
    """Return a class's nouns, points and advice; generic ones for an unknown class."""
    found: dict[str, Any] = phrases()["classes"].get(label.lower(), phrases()["generic"])
    return found


class Editor:
    """Editor of one explanation; `drawn` draws its wordings (`Writer`: temperature 0 takes the first ones)."""

    def __init__(self, drawn: Writer) -> None:
        self._drawn, self._names = drawn, list[str]()

    def rewrite(self, analysis: str, label: str, cites: Sequence[Cite], classes: Sequence[str]) -> str:
        """Rewrite an analysis: the same class, features, values and directions, at about its length.

        Args:
            analysis: Analysis to rewrite.
            label: Its class.
            cites: Features that it cites, with the values and percentiles that it has.
            classes: All classes; the others may appear as contrasts.
        """
        words, self._names = len(analysis.split()), [cite.feature for cite in cites]
        first = self._drawn.chance(0.4)
        verdict = self._named(self._pick(phrases()["verdict_first" if first else "verdict_last"]), label)
        points = apart(self._points(analysis, label), cites)
        plan = self._plan(cites)
        room = words - _words(verdict) - _words(points[0]) - sum(_words(text) for text, _, _ in plan)
        evidence, room = self._read(plan, room)
        more, leads = list[str](), self._drawn.shuffled(phrases()["leads"])
        for sentence in self._more(points[1:], label, cites, classes, words):
            if room < 4:
                break
            if not names_one(sentence, cites) and _words(sentence) <= room + 4:
                more.append(_led(sentence, leads[len(more) % len(leads)]) if words >= LONG else sentence)
                room -= _words(more[-1])
        told = [points[0], *more]
        # The class's behaviour may be told before its evidence, between it and the verdict, or on both sides.
        cut = self._drawn.place(len(told) + 1)
        parts = [*told[:cut], *evidence, *told[cut:]]
        return " ".join([verdict, *parts] if first else [*parts, verdict])

    def _pick(self, options: Sequence[str]) -> str:
        return self._drawn.pick(options)

    def _named(self, frame: str, label: str) -> str:
        noun = self._pick(phrases_of(label)["noun"]).format(label=label)
        return frame.format(noun=noun, N=_capital(noun))

    def _points(self, analysis: str, label: str) -> list[str]:
        """Return the points of an analysis in other words, those that it makes first."""
        own, known = phrases_of(label)["points"], about_class(label)["why"]
        # A lead may have made the sentence's first letter small.
        made = [sentence[1:] in analysis for sentence in known]
        order = sorted(self._drawn.shuffled(range(len(own))), key=lambda place: not made[place])
        return [self._pick(own[place]) for place in order]

    def _plan(self, cites: Sequence[Cite]) -> list[tuple[str, str, list[str]]]:
        """Return sentences without their ends, each with its direction and what may be added: meanings of its last."""
        found = []
        for together in self._gathered(cites):
            text = self._several(together) if len(together) > 1 else self._single(together[0])
            direction = together[0].direction if together[0].direction in ("above", "below") else "plain"
            said = meanings(phrases()["groups"], phrases()["category"], together[-1])
            if len({group_of(cite.feature) for cite in together}) > 1:
                said = [f"the last of them {one}" for one in said if not one.startswith("which")]
            found.append((text, direction, said))
        return found

    def _gathered(self, cites: Sequence[Cite]) -> list[list[Cite]]:
        """Gather features of one direction, in two of five texts; the others take them one by one."""
        if not self._drawn.chance(0.4):
            return [[cite] for cite in cites]
        by_direction: dict[str, list[Cite]] = {}
        for cite in cites:
            if cite.is_category:  # its value stands behind its name
                by_direction[cite.feature] = [cite]
                continue
            by_direction.setdefault(cite.reference, []).append(cite)
        return [
            of[start : start + MOST_TOGETHER]
            for of in by_direction.values()
            for start in range(0, len(of), MOST_TOGETHER)
        ]

    def _single(self, cite: Cite) -> str:
        if cite.marked:
            return self._pick(phrases()["single_marked"]).format(fact=cite)
        if cite.is_category:
            return self._pick(phrases()["category"]["said"]).format(f=cite.feature, v=cite.value)
        frame = self._pick(phrases()["single" if cite.direction else "single_plain"])
        value = f"{cite.value} ({cite.percentile})" if cite.percentile else cite.value
        return frame.format(f=cite.feature, v=value, d=cite.reference)

    def _several(self, cites: Sequence[Cite]) -> str:
        items = [
            str(cite) if cite.marked else f"{cite.feature} ({', '.join(filter(None, (cite.value, cite.percentile)))})"
            for cite in cites
        ]
        listed, d = f"{', '.join(items[:-1])} and {items[-1]}", "" if cites[0].marked else cites[0].reference
        frame, every = self._pick(phrases()["several" if d else "several_plain"]), COUNTS[len(cites)]
        return frame.format(list=listed, d=d, D=_capital(d), all=every, All=_capital(every))

    def _read(self, plan: Sequence[tuple[str, str, list[str]]], room: int) -> tuple[list[str], int]:
        """Return the sentences of the evidence, with meanings where there is room, and the room that is left."""
        clauses, said = [text for text, _, _ in plan], set[str]()
        for place in self._drawn.shuffled(range(len(plan))):
            options = [one for one in plan[place][2] if one not in said]
            if options and _words(meaning := self._pick(options)) <= room + 3:
                clauses[place] += f", {meaning}"
                said.add(meaning)
                room -= _words(meaning)
        return self._joined(clauses, [direction for _, direction, _ in plan]), room

    def _joined(self, clauses: Sequence[str], directions: Sequence[str]) -> list[str]:
        """Join some clauses in pairs and begin the others, no two of them alike."""
        sentences: list[str] = []
        starts = [self._pick(phrases()["starts_first"]), *self._drawn.shuffled(phrases()["starts"])]
        place = 0
        while place < len(clauses):
            clause, following = clauses[place], clauses[place + 1 : place + 2]
            start = starts[len(sentences) % len(starts)]
            if not clause.startswith(tuple(self._names)):
                clause = _small(clause) if start else _capital(clause)
            text = start + clause
            if following and following[0][0].islower() and self._drawn.chance(0.3):
                opposed = {*directions[place : place + 2]} == {"above", "below"}
                text += self._pick(phrases()["joints_opposed" if opposed else "joints"]) + following[0]
                place += 1
            sentences.append(f"{text}.")
            place += 1
        return sentences

    def _more(
        self, points: Sequence[str], label: str, cites: Sequence[Cite], classes: Sequence[str], words: int
    ) -> Iterable[str]:
        """Yield further sentences, the most useful first."""
        known, shuffled = phrases(), self._drawn.shuffled
        groups = list(dict.fromkeys(group_of(cite.feature) for cite in cites if not cite.is_category))
        act = shuffled(phrases_of(label)["act"])
        background = shuffled([sentence for group in groups for sentence in known["background"][group]])
        remarks = shuffled(known["remarks"])
        yield from (*points, *act[:1], *background[:3])
        others = shuffled([name for name in classes if name != label]) if words >= 100 else []
        contrasts = [self._named(self._pick(known["contrasts"]), other) for other in others]
        yield from (*contrasts[:2], *remarks[:3])
        rest = [
            sentence for group in known["background"] if group not in groups for sentence in known["background"][group]
        ]
        yield from shuffled([*act[1:], *background[3:], *contrasts[2:], *remarks[3:], *rest])
        pairs = shuffled(list(itertools.combinations([cite.name for cite in cites], 2)))
        yield from (self._pick(known["pairs"]).format(a=a, b=b) for a, b in pairs[:30])


def _led(sentence: str, lead: str) -> str:
    keeps = not lead or sentence[1:2].isupper() or "_" in sentence.split(" ", 1)[0]
    return lead + (sentence if keeps else _small(sentence))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _small(text: str) -> str:
    return text[:1].lower() + text[1:]


def _words(text: str) -> int:
    return text.count(" ") + 1
