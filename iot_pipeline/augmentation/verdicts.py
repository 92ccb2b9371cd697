"""Verdict of the prose: it must be that of the class line, and must not say that the class was given."""

from __future__ import annotations

import re
from functools import lru_cache

from iot_pipeline.augmentation import lexicon
from iot_pipeline.augmentation.answers import plain_label

GENERIC = frozenset({"normal", "benign", "attack", "malicious", "anomaly"})  # found by the phrases of the lexicon alone
BENIGN_CLASS = re.compile(r"normal|benign|legit|background|thing_speak|mqtt_publish|wipro_bulb|amazon_alexa")
ATTACK_CLASS = re.compile(
    r"attack|flood|dos|scan|spoof|poi|brute|slowloris|bot|mirai|malware|malicious|inject|xss|sql|exploit|hijack|backdoor"
    r"|ransom|theft|recon|fuzz|worm|shellcode|nmap|detection|hping|infiltrat|exfil|keylog|password|cracking|probe|r2l|u2r"
)
BREAK = re.compile(r"[.!?](?=\s|$)|;")
CLAUSE = re.compile(r"[,:(\u2013\u2014]|\bbut\b")
CHAIN = re.compile(r"(?:[\s,/]|\b(?:and|or|nor|an?|the)\b)*")
REACH = 160  # characters on either side of a mention in which a comparison is looked for


def verdict_faults(analysis: str, label: str, classes: tuple[str, ...]) -> list[str]:
    """Return the faults of an analysis's verdict.

    A mention of another class is a verdict unless it is a comparison; so is a phrase that calls an attack benign or a
    benign flow an attack.
    """
    text = lexicon.NO_NEGATION.sub(lambda found: " " * len(found[0]), analysis.lower())
    own, others = _patterns(label, classes)
    named = [found.span() for found in own.finditer(text)] if own else []
    ends = [0, *(found.end() for found in BREAK.finditer(text)), len(text)]
    faults = []
    for start, end in named:
        before, after = text[max(0, start - REACH) : start], text[end : end + REACH]
        if lexicon.DENIED_BEFORE.search(_last(before, BREAK)) or lexicon.DENIED_AFTER.match(after):
            faults.append(f"other verdict: it denies {label}")
    for pattern in filter(None, (others, _opposite(label))):
        faults += _claimed(text, pattern, named, ends)
    given = lexicon.LABEL_GIVEN.search(text)
    return list(dict.fromkeys(faults)) + ([f"label given: {given[0]!r}"] if given else [])


def _claimed(text: str, pattern: re.Pattern[str], own: list[tuple[int, int]], ends: list[int]) -> list[str]:
    """Return a fault for each phrase of a pattern that is no comparison."""
    faults, last, allowed, place = [], 0, False, 0
    for found in pattern.finditer(text):
        start, end = found.span()
        while ends[place + 1] < start:
            place += 1
        begin = max([ends[place], start - REACH, *(e for _, e in own if e <= start)])
        stop = min([max(ends[place + 1], end), end + REACH, *(s for s, _ in own if s >= end)])
        chained = allowed and start - last < REACH and CHAIN.fullmatch(text, last, start)
        allowed = bool(chained or _compared(text[begin:start], text[end:stop]))
        last = end
        if not allowed:
            faults.append(f"other verdict: {found[0][:40]!r}")
    return faults


def _compared(before: str, after: str) -> bool:
    alternative = lexicon.COMPARED_BEFORE.search(before if "alternative" in before[-40:] else _last(before, CLAUSE))
    return bool(alternative or lexicon.COMPARED_AFTER.match(after))


def _last(text: str, ends: re.Pattern[str]) -> str:
    """Return what follows the last of these ends in a text."""
    return ends.split(text)[-1]


@lru_cache(maxsize=256)
def _patterns(label: str, classes: tuple[str, ...]) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    """Return patterns of the own class and of the others, in any spelling and form; None for generic names."""
    own = plain_label(label)
    names = [name for name in classes if plain_label(name) not in GENERIC | {own}]
    return _any_of([label] if own not in GENERIC else []), _any_of(names)


def _any_of(names: list[str]) -> re.Pattern[str] | None:
    options = "|".join(map(_spelt, sorted(names, key=len, reverse=True)))
    return re.compile(rf"(?<![\w.])(?:{options})") if options else None


def _spelt(name: str) -> str:
    """Return the pattern of a class name: Port_Scanning -> port[\\s_-]*scan\\w*."""
    words = [word for word in plain_label(name).split("_") if word] or [name.lower()]
    last = re.sub(r"(?<=\w{3})([b-df-hj-np-tv-z]?)(?:\1ing|\1ed)$", r"\1", words[-1])
    spelt = r"[\s_-]*".join(map(re.escape, [*words[:-1], last]))
    return spelt + (r"\w*" if len(last) > 3 else r"(?!\w)")


@lru_cache(maxsize=256)
def _opposite(label: str) -> re.Pattern[str] | None:
    """Return the phrases that deny that a class is benign, or that it is an attack; None if neither is known."""
    name = plain_label(label)
    if BENIGN_CLASS.search(name):
        return lexicon.ATTACK
    return lexicon.BENIGN if ATTACK_CLASS.search(name) else None
