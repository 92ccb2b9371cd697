"""Rule-based analyst of the embedded teacher: it parses the prompt it receives and writes an answer."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter

from iot_pipeline.embedded_teacher.editor import Editor
from iot_pipeline.embedded_teacher.phrasing import Cite, Writer, about_class, group_of, is_known
from iot_pipeline.flows.categories import VALUE
from iot_pipeline.flows.marked import ASKED_FORM
from iot_pipeline.flows.names import NAME as FEATURE_NAME
from iot_pipeline.flows.serialise import parse_line

# Linear time: possessive quantifiers (`*+`), and text before a keyword is matched within its line only. A prompt of
# 300,000 empty lines takes no longer than one of 300,000 words.
TRUE_CLASS = re.compile(
    r"^[^\w\n]*(?:true|correct|known) (?:class|label)[^\w:]*+:\W*+(\w[^\n]*)", re.MULTILINE | re.IGNORECASE
)
NAME = re.compile(r"\w[\w.-]*")
CLASSES = re.compile(r"^[^\w\n]*(?:known )?classes[^\w:]*+:\s*+(.+)$", re.MULTILINE | re.IGNORECASE)
WORDS = re.compile(r"(\d{2,4})\s+words", re.IGNORECASE)
NAME_IT = re.compile(r"^Name the class of this flow\b", re.MULTILINE | re.IGNORECASE)
GLOSSARY_LINE = re.compile(rf"^- ({FEATURE_NAME}) \(([^)\n]*)\)", re.MULTILINE)
PART = re.compile(r"^[^\w\n]*(ANALYSIS|CLASSIFICATION|KEY_INDICATORS)[^\w:]*+:", re.MULTILINE)
GIVEN_CATEGORY = re.compile(rf"\s*+(`?)([^\s`]++)(?:` =)? ({VALUE})(?: \((\d{{1,3}}%)\))?\s*+")
GIVEN_INDICATOR = re.compile(
    rf"(?:[^\w#]|\d)*+({FEATURE_NAME})(` =)? (-?\.?\d[\w.+-]*)"
    r"(?: \((above|below|at)(?: [^;)]*?)?(?:, (p\d{1,3}))?\))?\s*"
)
# A paraphrase too like the original is drawn again: 1 in 100 of 60 words, since short texts have few sentences.
DRAWS, MOST_LIKENESS = 6, 0.5
LETTERS = re.compile(r"[a-z]+")
MOST_INDICATORS = 100  # read from a given answer; sentences about pairs grow with the square
NOTHING_TO_DO = "I cannot find a flow and its true class in this request, so there is nothing that I can explain."
DEFAULT_WORDS = 120
CATEGORY_WEIGHT = 0.8  # as the groups that matter most for a class
# Rough estimates: English prose has about 4.5 characters per token, tables of numbers about 2.5.
PROMPT_BYTES_A_TOKEN, ANSWER_BYTES_A_TOKEN = 3, 4


@dataclass(frozen=True)
class Task:
    """Instructions of one message, usually the system message, which thousands of requests share."""

    classes: tuple[str, ...]
    standardised: frozenset[str]
    words: int | None
    label_first: bool | None
    marked: bool


def write_answer(
    messages: Sequence[Mapping[str, str]],
    temperature: float,
    seed: int | None,
    max_tokens: int,
    fields: Sequence[str] = (),
) -> tuple[str, str, dict[str, int]]:
    """Write the answer to a chat; equal arguments give equal answers.

    Args:
        messages: the chat, with role and content.
        temperature: 0 always takes the first wording; above 0, wordings are drawn at random.
        seed: seed of the draw, together with the prompt.
        max_tokens: length at which the answer is truncated.
        fields: fields of a JSON object to write in place of text, in order: classification, analysis, key_indicators.

    Returns:
        Text, finish reason ("stop" or "length") and token usage.
    """
    prompt = "\n".join(message["content"] for message in messages)
    usage = prompt_tokens(prompt)
    rng = random.Random(f"{seed}|{hashlib.sha256(prompt.encode()).hexdigest()}" if temperature > 0 else "0")
    text, reason = _write(messages, rng, temperature), "stop"
    if fields:
        text = _object(text, fields)
    limit = max_tokens * ANSWER_BYTES_A_TOKEN
    if len(text) > limit:
        text, reason = text[:limit], "length"
    said = len(text) // ANSWER_BYTES_A_TOKEN + 1
    return text, reason, {"prompt_tokens": usage, "completion_tokens": said, "total_tokens": usage + said}


def prompt_tokens(prompt: str) -> int:
    """Estimate the tokens of a prompt."""
    return len(prompt.encode()) // PROMPT_BYTES_A_TOKEN + 1


def find_classes(messages: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the classes that a prompt lists."""
    return next((list(found) for message in messages if (found := _task(message["content"]).classes)), [])


def _write(messages: Sequence[Mapping[str, str]], rng: random.Random, temperature: float) -> str:
    tasks = [_task(message["content"]) for message in messages[:-1]]
    last = messages[-1]["content"]
    given, rest = _given_answer(last)
    tasks.append(_task_of(rest))
    classes = next((task.classes for task in tasks if task.classes), ())
    standardised = frozenset[str]().union(*(task.standardised for task in tasks))
    words = next((task.words for task in reversed(tasks) if task.words), DEFAULT_WORDS)
    label_first = next((task.label_first for task in tasks if task.label_first is not None), True)
    writer = Writer(rng, temperature)
    if given:
        return _paraphrase(given, writer, classes, label_first)
    texts = [last, *(message["content"] for message in messages)]
    label = next((_named(found[1], classes) for text in texts if (found := TRUE_CLASS.search(text))), "")
    flow = [found for line in last.split("\n") for found in parse_line(line)]
    marked = any(task.marked for task in tasks)
    cites = [replace(_cite(name, value, rank, standardised), marked=marked) for name, value, rank in flow]
    if not label and NAME_IT.search(last):
        label = _guess(cites, classes)
    if not label or not flow:
        return NOTHING_TO_DO
    chosen = _choose(cites, label, words, rng, temperature)
    cited = chosen[: max(1, min(len(chosen), (words - 22) // 10))]
    analysis = writer.analysis(label, cited, words, classes)
    return _assemble(label, analysis, chosen, label_first)


def _named(line: str, classes: Sequence[str]) -> str:
    """Return the class that a line begins with: the longest known one, which may have blanks in it, else a word.

    The list of classes is cut at commas, so a name with one is known by its parts.
    """
    whole = line.strip(" *`\"'")
    if whole in classes or (", " in whole and all(part in classes for part in whole.split(", "))):
        return whole
    known = [name for name in classes if line.startswith(name) and not line[len(name) : len(name) + 1].isalnum()]
    return max(known, key=len) if known else NAME.match(line)[0]  # type: ignore[index]  # TRUE_CLASS begins with \w


def _guess(cites: Sequence[Cite], classes: Sequence[str]) -> str:
    """Guess a class that nobody told: the known one whose groups of features, by weight, are farthest from normal.

    The weights are there to choose what to cite, so this is a guess and is told as one of the embedded teacher. Returns
    an empty text if knowledge.yaml knows none of the classes.
    """

    def deviation(name: str) -> float:
        weights: Mapping[str, float] = about_class(name)["groups"]
        weighted = [
            (weights.get(group_of(cite.feature), 0.0), _extremity(cite)) for cite in cites if not cite.is_category
        ]
        whole = sum(weight for weight, _ in weighted)
        return sum(weight * extremity for weight, extremity in weighted) / whole if whole else 0.0

    return max((name for name in classes if is_known(name)), key=deviation, default="")


def _given_answer(text: str) -> tuple[str, str]:
    """Return the answer between <answer> and </answer> (empty if there is none) and the remaining text."""
    before, _, after = text.partition("<answer>")
    given, end, rest = after.partition("</answer>")
    return (given.strip(), before + rest) if end else ("", text)


@lru_cache(maxsize=64)
def _task(text: str) -> Task:
    return _task_of(text)


def _task_of(text: str) -> Task:
    classes, words = CLASSES.search(text), WORDS.search(text)
    parts = PART.findall(text)
    ordered = {"CLASSIFICATION", "ANALYSIS"} <= {*parts}
    return Task(
        classes=tuple(c.strip(" .") for c in classes[1].split(",")) if classes else (),
        standardised=frozenset(name for name, unit in GLOSSARY_LINE.findall(text) if "standardised" in unit),
        words=int(words[1]) if words else None,
        label_first=parts.index("CLASSIFICATION") < parts.index("ANALYSIS") if ordered else None,
        marked=ASKED_FORM in text,
    )


def _cite(name: str, value: str, rank: int | str | None, standardised: frozenset[str]) -> Cite:
    """Cite a value with its direction: by percentile if there is one, else by the sign of a standardised value."""
    if isinstance(rank, str):
        return Cite(name, value, "", "", is_category=True, share=rank)
    if rank is None and name not in standardised:
        return Cite(name, value, "", "")
    distance = float(value) if rank is None else rank - 50
    direction = "above" if distance > 0 else "below" if distance < 0 else "at"
    return Cite(name, value, "" if rank is None else f"p{rank}", direction)


def _choose(cites: list[Cite], label: str, words: int, rng: random.Random, temperature: float) -> list[Cite]:
    """Choose 3 to 12 indicators: far from normal, in groups that matter for the class, few per group."""
    weights: Mapping[str, float] = about_class(label)["groups"]

    def score(cite: Cite) -> float:
        weight = CATEGORY_WEIGHT if cite.is_category else weights.get(group_of(cite.feature), 0.4)
        return weight * (0.25 + _extremity(cite)) + 0.1 * temperature * rng.random()

    scored = sorted(((-score(cite), cite.feature, cite) for cite in cites), key=itemgetter(0, 1))
    wanted = max(3, min(12, round(words / 15)))
    each = max(2, wanted // 3)
    chosen: list[Cite] = []
    left: list[Cite] = []
    taken: Counter[str] = Counter()
    for _, _, cite in scored:
        group = "category" if cite.is_category else group_of(cite.feature)
        fits = taken[group] < each and len(chosen) < wanted
        (chosen if fits else left).append(cite)
        taken[group] += fits
    return chosen + left[: wanted - len(chosen)]


def _extremity(cite: Cite) -> float:
    """Score a value's distance from normal, from 0 (ordinary) to 1 (extreme); a category's by its share."""
    if cite.is_category:
        return 1 - int(cite.share[:-1]) / 100 if cite.share else 0.5
    if cite.percentile:
        return abs(int(cite.percentile[1:]) - 50) / 50
    if cite.direction:
        return min(abs(float(cite.value)), 3.0) / 3.0
    return 0.5 if float(cite.value) else 0.3


def _paraphrase(answer: str, writer: Writer, classes: Sequence[str], label_first: bool) -> str:
    """Reword a given answer; its features, values, directions and label stay the same."""
    parts = _parts(answer)
    indicators = _indicators(parts.get("KEY_INDICATORS", ""))
    label = parts.get("CLASSIFICATION", "").strip()
    analysis = parts.get("ANALYSIS", "").strip()
    if not label or not indicators or not analysis:
        return NOTHING_TO_DO
    # Cite features that the given analysis names; a percentile that it omits stays omitted, with its direction.
    cited = [
        cite if re.search(rf"\b{cite.percentile}\b", analysis) else replace(cite, percentile="", direction="")
        for cite in indicators
        if _is_cited(cite, analysis, [other.feature for other in indicators])
    ]
    drawn: list[str] = []
    while len(drawn) < DRAWS and (not drawn or _likeness(drawn[-1], analysis) > MOST_LIKENESS):
        drawn.append(Editor(writer).rewrite(analysis, label, writer.shuffled(cited), classes))
    return _assemble(label, min(drawn, key=lambda text: _likeness(text, analysis)), indicators, label_first)


def _is_cited(cite: Cite, analysis: str, names: Sequence[str]) -> bool:
    """Return True if an analysis cites a feature; a name that may be a word as well, only beside its value.

    A name within a longer one of `names`, such as `Z` in `#Z#e9`, is not cited there.
    """
    if longer := [name for name in names if cite.feature in name and name != cite.feature]:
        analysis = re.sub("|".join(map(re.escape, longer)), " ", analysis)
    name = rf"(?<![\w.]){re.escape(cite.feature)}(?!\w|\.\w)"
    value = rf"(?<![\w.]){re.escape(cite.value)}(?!\w|\.\d)"
    beside = rf"{name}[^;]{{0,30}}?{value}|{value}[^;]{{0,24}}?{name}" if cite.feature.isalpha() else name
    return re.search(beside, analysis) is not None


def _likeness(first: str, second: str) -> float:
    """Return the share of word pairs that two texts have in common, without numbers."""
    a, b = (set(itertools.pairwise(LETTERS.findall(text.lower()))) for text in (first, second))
    return len(a & b) / max(1, len(a | b))


def _parts(answer: str) -> dict[str, str]:
    _, *pieces = PART.split(answer)  # name, text, name, text, ...
    return dict(zip(pieces[::2], map(str.strip, pieces[1::2]), strict=True))


def _assemble(label: str, analysis: str, indicators: Sequence[Cite], label_first: bool) -> str:
    classification = f"CLASSIFICATION: {label}"
    explanation = f"ANALYSIS: {analysis}\nKEY_INDICATORS: {'; '.join(map(str, indicators))}"
    return f"{classification}\n{explanation}" if label_first else f"{explanation}\n{classification}"


def _object(answer: str, fields: Sequence[str]) -> str:
    """Format an answer as a JSON object with the given fields, in order."""
    parts = _parts(answer)
    content = {
        "classification": parts.get("CLASSIFICATION", ""),
        "analysis": parts.get("ANALYSIS", answer),
        "key_indicators": [
            {"feature": cite.feature, "value": cite.value, "note": cite.note}
            for cite in _indicators(parts.get("KEY_INDICATORS", ""))
        ],
    }
    return json.dumps({name: content[name] for name in fields}, ensure_ascii=False)


def _indicators(text: str) -> list[Cite]:
    found = [cite for item in text.split(";") if (cite := _indicator(item)) is not None]
    return found[:MOST_INDICATORS]


def _indicator(item: str) -> Cite | None:
    """Read an item of given KEY_INDICATORS; None if it is none."""
    if (number := GIVEN_INDICATOR.fullmatch(item)) is not None:
        feature, marked, value, direction, rank = number.groups()
        return Cite(feature, value, rank or "", direction or "", marked is not None)
    if (word := GIVEN_CATEGORY.fullmatch(item)) is not None:
        return Cite(word[2], word[3], "", "", bool(word[1]), is_category=True, share=word[4] or "")
    return None
