"""Teacher answers: three parts, parsed tolerantly, checked strictly against their flow, formatted canonically."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from iot_pipeline.augmentation.mentions import BETWEEN, NamesPattern, names_pattern
from iot_pipeline.errors import UserError
from iot_pipeline.flows.categories import VALUE
from iot_pipeline.flows.marked import cited_fact
from iot_pipeline.flows.names import NAME
from iot_pipeline.flows.serialise import NUMBER as A_NUMBER
from iot_pipeline.flows.serialise import parse_text, plain_number

# Versions of the answer formats, text, JSON object and class of the zero-shot teacher; part of the request key.
SCHEMA_VERSION, OBJECT_VERSION, ZERO_SHOT_VERSION = "1", "1-json", "zero-shot-1"
ORDERS = ("label_first", "explanation_first")

# Longer texts are rejected before any pattern runs: the longest answer that can be requested, 1,200 words, has about
# 9,000 characters.
MOST_CHARACTERS = 20_000
MOST_REASONS = 50

# Every pattern runs in linear time: no two neighbouring quantifiers match the same characters, and no pattern begins
# with a run of punctuation, which would be retried from each of its characters.
# It begins with a set of letters, which `re` looks for twice as fast as for words whose case is ignored.
HEADING = re.compile(
    r"([AaKkCc](?i:(?<=a)NALYSIS|(?<=k)EY[_ ]INDICATORS|(?<=c)LASSIFICATION))[*_`\s]*+:"
    r"(?:[*\s]|_(?!#?\w)|`(?!#?[^\W\d][^`\n]*`))*"  # a backtick that opens a name is the text's, and so is its `_`
)
INDICATOR = re.compile(rf"[\W\d]*?({NAME})[`*\s:=(]*({A_NUMBER})[`*]*[\s,(]*")
# An item that cites a category: `proto tcp (83%)`. A number that goes on with letters is such a word too: 3pc.
WORD_INDICATOR = re.compile(
    rf"[`*•\s]*+(?:-\s++)?([^\s`*:=(;,]++)[`*]*+(?:\s*+[=:]\s*+|\s++)[`*'\"]*+({VALUE})[`*'\"]*+\.?\s*+(?:\(([^()]*+)\)?\.?)?"
)
# A number as `serialise.NUMBER` has it, or a percentile. It begins with a set of characters, which `re` finds fast.
NUMBER = re.compile(
    r"[-+.\dp](?:(?<=p)(?<!\w.)\d{1,3}\b|(?<![\w.].)(?:(?<=\d)\d*(?:\.\d+)?|(?<=\.)\d+|(?<=[-+])(?:\d+(?:\.\d+)?|\.\d+))"
    r"(?:[eE][-+]?\d+)?(st|nd|rd|th)?)"
)
STATED = re.compile(rf"{BETWEEN}({A_NUMBER})")
STATED_WORD = re.compile(
    rf"[`]?\s*(?:([=:])|\(|(?:of|at|as|is|was|reads|shows|stands at|has the value)\b)?\s*((?<=[\s=:(])[`'\"])?({VALUE})"
)
ORDINARY = re.compile("[a-z]+")
DIGIT = re.compile(r"\d")
VALUE_HEAD = re.compile(A_NUMBER)
GOES_ON = re.compile(r"[\w%/-]")
SHARE = re.compile(r"\s?%")
Known = frozenset[tuple[str, str]]  # (category, value)
NOTHING_KNOWN: Known = frozenset()
LIST_MARK = re.compile(r"^[^\S\n]*\(?\d{1,2}[.)]\s", re.MULTILINE)
COUNTED = re.compile(r"\s+(?:key\s+|cited\s+)?(?:features|indicators|values|fields|attributes|metrics)\b")
NAME_LIKE = re.compile(r"\b[A-Za-z]+(?:_[A-Za-z]+)+(?:\.[a-z]+)?\b")
# Halves of surrogate pairs and control characters, which files, databases and terminals do not take as text, and signs
# that hide or turn text round: direction marks, zero-width signs, tags.
NO_TEXT = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
# Control tokens of chat templates: ChatML, Llama, Gemma, Mistral, DeepSeek, BERT and T5.
CONTROL_TOKEN = re.compile(
    r"<[|\uff5c][^<>\n]{1,80}[|\uff5c]>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk|mask|cls|sep|sop|eop)>"
    r"|</?(?:think|tool_call|tool_response)>|<</?SYS>>|\[/?INST\]|\[(?:CLS|SEP|PAD|MASK|UNK|gMASK)\]"
    r"|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<extra_id_\d{1,3}>",
    re.IGNORECASE,
)
OBJECT = re.compile(r'^\{|\{\s*"')  # the start of a JSON object


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the object of its pairs; ValueError for a name that comes twice, as it may say two things."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice in it")
    return found


# Numbers keep their spelling: 0.500 is not 0.5.
AS_SPELT = json.JSONDecoder(parse_float=str, parse_int=str, object_pairs_hook=_each_once)
# One of these at the very end of an answer is a leftover and is removed.
END_TOKENS = (
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "</s>", "<eos>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)  # fmt: skip


@dataclass(frozen=True)
class Indicator:
    """One item of KEY_INDICATORS: feature, value as written, note in parentheses."""

    feature: str
    value: str
    note: str


@dataclass(frozen=True)
class ParsedAnswer:
    """Parts of an answer; `problems` lists what could not be parsed."""

    label: str
    analysis: str
    indicators: tuple[Indicator, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Facts of a flow text by feature: value (as `plain_number`), percentile ("p97", if there is one) and direction.

    `shares` has the categories, which have no percentile and no direction: their share of the train pool ("83%") or "".
    """

    values: dict[str, str]
    percentiles: dict[str, str]
    directions: dict[str, str]
    numbers: frozenset[str]
    names: NamesPattern
    shares: dict[str, str] = field(default_factory=dict)
    known: Known = NOTHING_KNOWN

    def stated(self, name: str, text: str, start: int) -> re.Match[str] | None:
        """Return the match of the value that a text states of a category from `start` on, right behind its name.

        A word counts as a stated value behind `=` or `:` or in quotes, or if it is one of the category's known values.
        """
        found = STATED_WORD.match(text, start)
        if found is None or found[1] or found[2]:
            return found
        word = found[3].casefold()
        is_value = word == self.values[name].casefold() or any(
            (name, form) in self.known for form in (found[3], word, found[3].upper())
        )
        return found if is_value else None

    def says(self, item: Indicator) -> str:
        """Return an indicator's value as it is compared: a category's as it stands, a number without its unit."""
        if item.feature in self.shares:
            return item.value
        number = VALUE_HEAD.match(item.value)
        return plain_number(number[0] if number else item.value)


@lru_cache(maxsize=2048)
def facts_of(flow_text: str, standardised: frozenset[str] = frozenset(), known: Known = NOTHING_KNOWN) -> Facts:
    """Return the facts of a flow text; directions come from percentiles, else from the signs of standardised values.

    `known` are values that categories have elsewhere, by which a false one is recognised in prose.
    """
    values: dict[str, str] = {}
    percentiles: dict[str, str] = {}
    directions: dict[str, str] = {}
    shares: dict[str, str] = {}
    for name, value, percentile in parse_text(flow_text):
        if isinstance(percentile, str):
            values[name], directions[name], shares[name] = value, "", percentile
            continue
        values[name] = plain_number(value)
        if percentile is not None:
            percentiles[name] = f"p{percentile}"
            distance = float(percentile - 50)
        elif name in standardised:
            distance = float(value)
        else:
            directions[name] = ""
            continue
        directions[name] = "above" if distance > 0 else "below" if distance < 0 else "at"
    numbers = frozenset(values.values()) | frozenset(percentiles.values()) | ({"p50"} if percentiles else set())
    if shares:  # a category's value may be a number: 6
        numbers |= frozenset(share for share in shares.values() if share)
    return Facts(
        values, percentiles, directions, numbers, names_pattern(tuple(values), frozenset(shares)), shares, known
    )


def answer_schema(order: str) -> dict[str, Any]:
    """Return the strict JSON Schema of an answer; values are strings, so that they keep their digits."""

    def form(properties: dict[str, Any]) -> dict[str, Any]:
        return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}

    item = form({name: {"type": "string"} for name in ("feature", "value", "note")})
    label = {"classification": {"type": "string"}}
    explanation = {"analysis": {"type": "string"}, "key_indicators": {"type": "array", "items": item}}
    return form(label | explanation if order == "label_first" else explanation | label)


def parse_answer(text: str) -> ParsedAnswer:
    """Parse an answer (text in either order, or JSON; with or without Markdown). Never raises: see `problems`."""
    if len(text) > MOST_CHARACTERS:
        return ParsedAnswer("", "", (), (f"{len(text):,} characters, {MOST_CHARACTERS:,} at most",))
    text = plain_minus(text).rpartition("</think>")[2].strip()  # drop the reasoning before it
    text = next((text.removesuffix(token).rstrip() for token in END_TOKENS if text.endswith(token)), text)
    # Servers that hold no schema put the object into a Markdown fence, often with a sentence before or behind it.
    opened = OBJECT.search(text)
    is_object = opened is not None and HEADING.search(text, 0, opened.start()) is None
    parsed = _parse_object(text, opened.start()) if opened and is_object else _parse_text(text)
    problems, texts = list(parsed.problems), [text]
    if is_object:  # its escapes hide characters; the parts of a text stand in it as they are
        notes = (part for item in parsed.indicators for part in (item.feature, item.value, item.note))
        texts += [parsed.label, parsed.analysis, *notes]
    for written in texts:
        if found := NO_TEXT.search(written):
            return ParsedAnswer("", "", (), (f"the character {found[0]!a} is no text",))
        if ("<" in written or "[" in written) and (found := CONTROL_TOKEN.search(written)):
            problems.append(f"the control token {found[0]}")
    return replace(parsed, problems=tuple(dict.fromkeys(problems)))


def _parse_object(text: str, opened: int) -> ParsedAnswer:
    """Parse the JSON object that opens at `opened`; a sentence or a fence around it says nothing."""
    try:
        content, end = AS_SPELT.raw_decode(text, opened)
        if OBJECT.search(text, end) or HEADING.search(text, end):
            return ParsedAnswer("", "", (), ("more than one answer",))
        items = tuple(
            Indicator(str(item["feature"]).strip(), str(item["value"]).strip().lstrip("+"), _note(item.get("note")))
            for item in content["key_indicators"]
        )
        label, analysis = str(content["classification"]).strip(), _line(str(content["analysis"]))
    except (ValueError, RecursionError) as error:
        return ParsedAnswer("", "", (), (f"no JSON object: {error}",))
    except (KeyError, TypeError, AttributeError) as error:
        return ParsedAnswer("", "", (), (f"a JSON object without {error}",))
    given = {"ANALYSIS": analysis, "KEY_INDICATORS": items, "CLASSIFICATION": label}
    return ParsedAnswer(label, analysis, items, tuple(f"no {name}" for name, value in given.items() if not value))


def _note(value: Any) -> str:
    """Clean the note of a JSON item; a `;` would end the item in an answer's text."""
    return _line(str(value or "").replace(";", ",")).strip(" ().")


def _line(text: str) -> str:
    """Join a text into one line with single spaces."""
    return " ".join(text.split())


def _headings(text: str) -> list[tuple[int, int, str]]:
    """Return (start, end, name) of each part's heading; only punctuation may precede it on its line."""
    found: list[tuple[int, int, str]] = []
    last = 0
    for match in HEADING.finditer(text):
        start = match.start()
        while start > last and not text[start - 1].isalnum():
            start -= 1
        if start and text[start - 1] != "\n":
            start = text.find("\n", start, match.start()) + 1
            if not start:  # words precede it on its line
                continue
        found.append((start, match.end(), match[1].upper().replace(" ", "_")))
        last = match.end()
    return found


def _parse_text(text: str) -> ParsedAnswer:
    marks = _headings(text)
    ends = [start for start, _, _ in marks[1:]] + [len(text)] * bool(marks)
    parts: dict[str, str] = {}
    problems = []
    for (_, begin, name), end in zip(marks, ends, strict=True):
        if name in parts:
            problems.append(f"{name} stands twice")
        parts.setdefault(name, text[begin:end].strip())
    for name in ("ANALYSIS", "KEY_INDICATORS", "CLASSIFICATION"):
        if not parts.get(name):
            problems.append(f"no {name}")
    indicators = []
    for item in re.split(r"[;\n]", parts.get("KEY_INDICATORS", "")):
        if not item.strip(" \t*-•.`"):
            continue
        found = INDICATOR.match(item.strip())
        if found is None or GOES_ON.match(item.strip(), found.end(2)):
            word = WORD_INDICATOR.fullmatch(item.strip())
            if word is not None:
                indicators.append(Indicator(word[1], word[2], _line(word[3] or "").rstrip(" ).")))
                continue
        if found is None:
            problems.append(f"indicator {item.strip()[:40]!r}")
            continue
        indicators.append(Indicator(found[1], found[2].lstrip("+"), _line(item.strip()[found.end() :]).rstrip(" ).")))
    label = bare_label(parts.get("CLASSIFICATION", "").split("\n")[0])
    return ParsedAnswer(label, _line(parts.get("ANALYSIS", "")), tuple(indicators), tuple(problems))


def format_answer(parsed: ParsedAnswer, order: str, marked: bool = False) -> str:
    """Format an answer canonically, `label_first` or `explanation_first`, its indicators plain or as marked facts."""
    if order not in ORDERS:
        raise UserError(f"unknown answer order {order!r}; use one of {', '.join(ORDERS)}.")
    items = "; ".join(cited_fact(i.feature, i.value, i.note, marked) for i in parsed.indicators)
    explanation = f"ANALYSIS: {parsed.analysis}\nKEY_INDICATORS: {items}"
    label = f"CLASSIFICATION: {parsed.label}"
    return f"{label}\n{explanation}" if order == "label_first" else f"{explanation}\n{label}"


def bare_label(text: str) -> str:
    """Return a class name without Markdown marks and the point of a sentence, which KDD's own names end in."""
    return text.strip(" *`._\"'")


@lru_cache(maxsize=1024)
def plain_label(text: str) -> str:
    """Return a class name without case and the choice of space, `_` or `-`."""
    return re.sub(r"[\s_-]+", "_", text.strip()).lower()


def plain_minus(text: str) -> str:
    """Replace other minus signs (U+2212 and U+2011) by the plain one."""
    return text.replace("\u2212", "-").replace("\u2011", "-")


def mentions_in(text: str, facts: Facts) -> list[re.Match[str]]:
    """Return the mentions of features in a text.

    The name of a category may be an ordinary word (`service`, `flag`): then it is a mention where it stands in
    backticks or its value follows, and a word of the language elsewhere. A name within a stated value is none.
    """
    found: list[re.Match[str]] = []
    end = 0
    for name in facts.names.finditer(text):
        if name.start() < end:
            continue
        if name[0] in facts.shares:
            stated = facts.stated(name[0], text, name.end())
            if stated is None and ORDINARY.fullmatch(name[0]) and text[name.start() - 1 : name.start()] != "`":
                continue
            end = stated.end() if stated is not None else 0
        found.append(name)
    return found


def masked_names(text: str, facts: Facts) -> tuple[str, list[re.Match[str]]]:
    """Return a text of the same length with feature names and list marks masked, and the matches of the names.

    The flow's own values of categories are masked too, so that no number or class is read in them.
    """
    names, parts, end = mentions_in(text, facts) if facts.shares else list(facts.names.finditer(text)), [], 0
    for name in names:
        parts += [text[end : name.start()], "|" * (name.end() - name.start())]
        end = name.end()
        if name[0] in facts.shares and (stated := facts.stated(name[0], text, end)):
            parts += [text[end : stated.start(3)], " " * (stated.end() - stated.start(3))]
            end = stated.end()
    if facts.shares:
        rest = "".join(parts) + text[end:]
        for word in {facts.values[name] for name in facts.shares}:
            if DIGIT.search(word) and not VALUE_HEAD.fullmatch(word):
                rest = re.sub(rf"(?<![\w./%-]){re.escape(word)}(?![\w/%-])", " " * len(word), rest)
        return LIST_MARK.sub(lambda mark: " " * len(mark[0]), rest), names
    return LIST_MARK.sub(lambda mark: " " * len(mark[0]), "".join(parts) + text[end:]), names


def numbers_at(masked: str, facts: Facts) -> list[tuple[int, str]]:
    """Return the numbers of a masked text with their places, percentiles as `p97`, without feature counts."""
    found = []
    for match in NUMBER.finditer(masked):
        number = match[0]
        # int() refuses more than 4,300 digits.
        counts = len(number) < 5 and number.isdigit() and int(number) <= len(facts.values)
        if match[1]:
            percentile = "percentile" in masked[match.end() : match.end() + 14]
            number = f"p{number[: -len(match[1])]}" if percentile else number
        elif counts and COUNTED.match(masked, match.end()):
            continue
        share = facts.shares and SHARE.match(masked, match.end())
        found.append((match.start(), f"{number}%" if share else plain_number(number)))
    return found


def numbers_in(text: str, facts: Facts) -> list[str]:
    """Return the numbers of a text (percentiles as `p97`), without list marks, feature counts and feature names."""
    if DIGIT.search(text) is None:
        return []
    return [number for _, number in numbers_at(masked_names(text, facts)[0], facts)]
