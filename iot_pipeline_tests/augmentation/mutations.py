"""Seeded mutations of true answers: the class line stays right, the argument does not.

The phrases of `phrases.py` were written before the checks' word lists and know nothing of them.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from iot_pipeline.augmentation import degree_words, lexicon
from iot_pipeline.augmentation.answers import facts_of, format_answer, parse_answer
from iot_pipeline.augmentation.checks import check_answer
from iot_pipeline.augmentation.plan import TrackConfig
from iot_pipeline.augmentation.prompts import PromptFile, load_prompt
from iot_pipeline.embedded_teacher.analyst import write_answer
from iot_pipeline.flows.serialise import SERIALISATIONS, leads, printed, shortened
from iot_pipeline.flows.spec import DatasetSpec, load_spec
from iot_pipeline.settings import PROJECT_ROOT
from iot_pipeline.vocabulary import TRACKS
from iot_pipeline_tests.augmentation.phrases import PHRASES, phrase_set

HARMLESS = {"Normal", "Thing_Speak", "MQTT_Publish", "Wipro_bulb"}
SYNONYMS = {
    "flow": "connection", "record": "entry", "shows": "reveals", "which": "that", "packets": "frames",
    "traffic": "exchange", "features": "fields", "sender": "originator", "target": "destination", "means": "implies",
    "class": "category", "reading": "view", "values": "numbers", "little": "hardly anything", "request": "call",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A true answer with what it is judged by; `label` as in the data."""

    answer: str
    flow: str
    label: str
    classes: tuple[str, ...]
    signed: frozenset[str]
    words: int
    original: str = ""


@dataclass(frozen=True)
class Mutant:
    """A mutated answer: the text, the phrase that was put in, and the original that it must differ from, if any."""

    text: str
    phrase: str
    original: str = ""


class Draw(random.Random):
    """Random draws, with the phrases that are drawn from."""

    phrases: dict[str, list[str]] = PHRASES


def with_analysis(case: Case, analysis: str) -> str:
    """The answer with another analysis."""
    parsed = parse_answer(case.answer)
    return format_answer(type(parsed)(parsed.label, analysis, parsed.indicators), "label_first")


def spoken(name: str, draw: Draw) -> str:
    """A class as prose writes it."""
    return draw.choice([name, name.replace("_", " "), name.replace("_", " ").lower(), name.replace("_", "-")])


def put(case: Case, sentence: str, draw: Draw) -> str:
    """The answer with a sentence more: in place of the first, after any other, or at the end."""
    sentences = re.split(r"(?<=[.!?]) ", parse_answer(case.answer).analysis)
    place = draw.randrange(len(sentences) + 1)
    return with_analysis(case, " ".join([sentence, *sentences[1:]] if not place else
                                        [*sentences[:place], sentence, *sentences[place:]]))  # fmt: skip


def other_class(case: Case, draw: Draw) -> Mutant | None:
    others = [name for name in case.classes if name != case.label and name not in ("Normal", "Attack")]
    if not others:
        return None
    phrase = draw.choice(draw.phrases["other class"])
    told = {"other": spoken(draw.choice(others), draw), "own": spoken(case.label, draw)}
    return Mutant(put(case, phrase.format(**told), draw), phrase)


def polarity(case: Case, draw: Draw) -> Mutant:
    phrase = draw.choice(draw.phrases["attack" if case.label in HARMLESS else "harmless"])
    return Mutant(put(case, phrase, draw), phrase)


def label_given(case: Case, draw: Draw) -> Mutant:
    phrase = draw.choice(draw.phrases["label given"])
    return Mutant(put(case, phrase.format(own=spoken(case.label, draw)), draw), phrase)


def length(case: Case, draw: Draw) -> Mutant:
    analysis = parse_answer(case.answer).analysis
    if draw.random() < 0.5:
        phrase = draw.choice(draw.phrases["short"])
        return Mutant(with_analysis(case, phrase), phrase)
    return Mutant(with_analysis(case, " ".join([analysis] * draw.randint(3, 6))), "(repeated)")


def swapped(case: Case, draw: Draw) -> Mutant | None:
    """The values of two features of the prose, exchanged where they stand or in a sentence of its own."""
    facts, analysis = facts_of(case.flow, case.signed), parse_answer(case.answer).analysis
    named = [name for name in dict.fromkeys(facts.names.findall(analysis)) if f" {facts.values[name]}" in
             analysis.replace("(", " ")]  # fmt: skip
    pairs = [(a, b) for a in named for b in named if a < b and facts.values[a] != facts.values[b]]
    if not pairs:
        return None
    a, b = draw.choice(pairs)
    if draw.random() < 0.5:
        told = [
            draw.choice(draw.phrases["cited"]).format(f=f, v=v) for f, v in ((a, facts.values[b]), (b, facts.values[a]))
        ]
        phrase = f"We note {told[0]}{draw.choice([' and ', '; ', ', while '])}{told[1]}."
        return Mutant(put(case, phrase, draw), phrase)
    one, two = (rf"(?<![\w.+-]){re.escape(facts.values[name])}(?![\d.]*\d)" for name in (a, b))
    other = {facts.values[a]: facts.values[b], facts.values[b]: facts.values[a]}
    # Only the first of each is exchanged, since another feature may have the same value.
    ends = [re.search(one, analysis), re.search(two, analysis)]
    if not all(ends) or any(sum(facts.values[n] == v for n in named) > 1 for v in other):
        return None
    text = analysis
    for found in sorted(filter(None, ends), key=lambda found: -found.start()):
        text = text[: found.start()] + other[found[0]] + text[found.end() :]
    return Mutant(with_analysis(case, text), "(in place)")


def direction(case: Case, draw: Draw) -> Mutant | None:
    """A feature said to be high though it is low, or the other way round."""
    facts = facts_of(case.flow, case.signed)
    known = [name for name, true in facts.directions.items() if true in ("above", "below")]
    if not known:
        return None
    name = draw.choice(known)
    phrase = draw.choice(draw.phrases["low" if facts.directions[name] == "above" else "high"])
    told = phrase.format(f=name)
    if phrase.endswith("."):
        return Mutant(put(case, told, draw), phrase)
    sentence = draw.choice([f"Here {told}.", f"Moreover, {told}, which fits.", f"We also see that {told}."]
                           if phrase.startswith("{f}") else [f"We see {told}.", f"It comes with {told}."])  # fmt: skip
    return Mutant(put(case, sentence, draw), phrase)


def near_copy(case: Case, draw: Draw) -> Mutant:
    """A paraphrase that is none: the original with sentences moved and up to a tenth of its words exchanged."""
    analysis = parse_answer(case.answer).analysis
    sentences = re.split(r"(?<=[.!?]) ", analysis)
    if draw.random() < 0.5:
        draw.shuffle(sentences)
    words = " ".join(sentences).split(" ")
    places = [place for place, word in enumerate(words) if word in SYNONYMS]
    for place in draw.sample(places, min(len(places), draw.randint(0, max(1, len(words) // 10)))):
        words[place] = SYNONYMS[words[place]]
    return Mutant(with_analysis(case, " ".join(words)), "(near copy)", case.answer)


def honest(cases: Sequence[Case], seed: int) -> list[tuple[Case, Mutant]]:
    """Answers with one honest sentence of honest.yaml more, three of each; they must pass."""
    draw, found = Draw(seed), []
    for kind, sentences in phrase_set("honest").items():
        fitting = [
            (case, others) for case in cases
            if kind not in ("attack", "benign") or (case.label in HARMLESS) == (kind == "benign")
            if (others := [name for name in case.classes if name not in (case.label, "Normal", "Attack")])
        ]  # fmt: skip
        for sentence in sentences * 3:
            name, case, other = "", *draw.choice(fitting)
            facts = facts_of(case.flow, case.signed)
            name = draw.choice([name for name, true in facts.directions.items() if true in ("above", "below")] or [""])
            if "{f}" in sentence and not name:
                continue
            told = sentence.format(
                f=name, d=facts.directions.get(name), v=facts.values.get(name), other=spoken(draw.choice(other), draw)
            )
            found.append((replace(case, words=0), Mutant(put(case, told, draw), sentence)))
    return found


KINDS: dict[str, Callable[[Case, Draw], Mutant | None]] = {
    "other class": other_class, "polarity": polarity, "length": length, "swapped values": swapped,
    "direction synonym": direction, "label given": label_given, "near copy": near_copy,
}  # fmt: skip


def mutants(
    cases: Sequence[Case], number: int, seed: int, phrases: dict[str, list[str]] = PHRASES
) -> list[tuple[str, Case, Mutant]]:
    """`number` mutants in equal parts by kind, of cases drawn by `seed`."""
    draw = Draw(seed)
    draw.phrases = phrases
    found: list[tuple[str, Case, Mutant]] = []
    kinds = list(KINDS)
    while len(found) < number:
        kind, case = kinds[len(found) % len(kinds)], draw.choice(cases)
        mutant = KINDS[kind](case, draw)
        if mutant is not None:
            found.append((kind, case, mutant))
    return found


def judged(case: Case, text: str, original: str) -> list[str]:
    """Reasons against a text as the answer of a case."""
    return check_answer(text, case.flow, case.label, case.classes, case.signed, original, case.words)


def unlisted(phrase: str) -> bool:
    """True if most of a phrase's words of content stand in no word list of the checks as they are."""
    listed = {
        word
        for module in (lexicon, degree_words)
        for word in re.findall("[a-z]{4,}", Path(module.__file__).read_text())
    }
    said = re.findall(r"[a-z]{4,}", phrase.lower().replace("{other}", "").replace("{own}", ""))
    return sum(word not in listed for word in said) * 2 > len(said)


def flow_texts(spec: DatasetSpec, serialisation: str, number: int, draw: random.Random) -> list[str]:
    """Flows with values as they occur: many zeros, and values that several features share."""
    rows = []
    for _ in range(number):
        shared = [draw.choice([0.0, draw.gauss(0, 1)]) for _ in range(4)]
        drawn = [draw.choice([*shared, draw.gauss(0, 1), draw.gauss(0, 3)]) for _ in spec.feature_names]
        # Raw units are not negative and spread over orders of magnitude.
        rows.append(
            drawn if spec.standardised else [round(abs(value) * 10 ** draw.randint(0, 6), 3) for value in drawn]
        )
    parts = leads(spec.feature_names, serialisation)
    ordered = [sorted(column) for column in zip(*rows, strict=True)]
    texts = []
    for row in rows:
        values = [printed(spec.format, value) for value in row]
        if serialisation == "compact":
            values = [shortened(value) for value in values]
        if serialisation == "ranked":
            ranks = [bisect_left(column, value) * 100 // number for column, value in zip(ordered, row, strict=True)]
            values = [f"{value} p{rank}" for value, rank in zip(values, ranks, strict=True)]
        texts.append("".join(lead + value for lead, value in zip(parts, values, strict=True)))
    return texts


def true_answers(
    number: int, seed: int, words: Sequence[int] = (30, 60, 60, 120, 300), marked: bool = False
) -> list[Case]:
    """Answers of the embedded analyst over all data sets, classes, tracks, ways of writing a flow, and lengths."""
    draw = random.Random(seed)
    specs = [load_spec(name) for name in ("farm_flow", "rt_iot2022", "farm_flow_binary", "farm_flow_8")]
    prompts = {track: load_prompt(PROJECT_ROOT / "iot_pipeline" / "prompts" / f"{track}.md") for track in TRACKS}
    ways = [(spec, way) for spec in specs for way in SERIALISATIONS]
    flows = {(spec.name, way): flow_texts(spec, way, number // len(ways) + 1, draw) for spec, way in ways}
    found = []
    for place in range(number):
        spec, way = ways[place % len(ways)]
        text = flows[spec.name, way].pop()
        label, length = spec.classes[place // len(ways) % len(spec.classes)], draw.choice(words)
        config = TrackConfig(spec, length, "label_first", way, seed, marked=marked)
        told = {**config.variables(), "flow": text, "label": label}
        track, original = draw.choice(TRACKS), ""
        answer = asked(prompts[track if track != "paraphrased" else "original"], told, place)
        if track == "paraphrased":
            original, answer = answer, asked(prompts[track], {**told, "answer": answer}, place)
        found.append(Case(answer, text, label, tuple(spec.classes), spec.standardised, length, original))
    return found


def asked(prompt: PromptFile, told: dict[str, Any], seed: int) -> str:
    """The embedded analyst's answer."""
    params = prompt.params()
    return write_answer(prompt.render(**told), params["temperature"], seed, params["max_tokens"])[0]
