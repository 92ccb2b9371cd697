"""Words of an analysis, with fixed phrases and class names put into one word each."""

from __future__ import annotations

import re
from functools import lru_cache

from iot_pipeline.augmentation.answers import plain_label
from iot_pipeline.augmentation.lexicon import PHRASES
from iot_pipeline.augmentation.symbols import OTHER, OWN, TOKEN

GENERIC = frozenset({"normal", "benign", "attack", "malicious", "anomaly"})  # found by the words of the lexicon alone
# Classes of public data sets (UNSW-NB15, NSL-KDD) or made ones whose names are ordinary words: prose that has the word
# does not speak of the class. A name of one letter is none either.
ORDINARY = {
    "analysis", "generic", "back", "land", "all", "any", "both", "it", "its", "no", "none", "not", "of", "off", "on",
    "one", "other", "others", "over", "the", "this", "up",
}  # fmt: skip
CAPITAL = re.compile(r"[NB](?:ormal|ORMAL|enign|ENIGN)(?<=[a-z,:;\"'] .{6})(?![\w-])")
LEAST_LETTERS = 2
# "Flood attacks, by contrast, come in masses" speaks of floods in general.
IN_CONTRAST = re.compile(r",? (?:by|in) (?:contrast|comparison),|, on the other hand,")
SHORT = re.compile(r"\b(it|that|this|there|here|what)'s\b")


def words_of(masked: str, label: str, classes: tuple[str, ...]) -> list[str]:
    """Return the words and marks of an analysis whose feature names are masked.

    The own class is OWN and another one OTHER, in any spelling and form; a fixed phrase is the word that it means.
    """
    if plain_label(label) not in ("normal", "benign") and any(plain_label(name) in GENERIC for name in classes):
        masked = CAPITAL.sub(OTHER, masked)
    text = masked.lower().replace("\u2019", "'")
    names = _names(label, classes)
    if names is not None:
        text = names.sub(lambda found: f" {OWN if found[1] is not None else OTHER} ", text)
    if "'" in text:
        text = SHORT.sub(r"\1 is", text)
    if " contrast," in text or " comparison," in text or "other hand," in text:
        text = IN_CONTRAST.sub(" generally", text)
    text = PHRASES.replaced(text)
    return TOKEN.findall(text)


@lru_cache(maxsize=256)
def _names(label: str, classes: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return a pattern of all class names, the own one in group 1; None if all of them are generic or ordinary."""
    own = plain_label(label)
    unsaid = GENERIC | ORDINARY | {name for name in map(plain_label, (label, *classes)) if len(name) < LEAST_LETTERS}
    others = [
        _spelt(name) for name in sorted(classes, key=len, reverse=True) if plain_label(name) not in unsaid | {own}
    ]
    told = own not in unsaid
    options = ([f"({_spelt(label)})"] if told else ["((?!))"]) + others
    return re.compile(rf"(?<![\w.])(?:{'|'.join(options)})") if told or others else None


def _spelt(name: str) -> str:
    """Return the pattern of a class name: Port_Scanning -> port[\\s_-]*scan\\w*."""
    words = [word for word in plain_label(name).split("_") if word] or [name.lower()]
    last = re.sub(r"(?<=\w{3})([b-df-hj-np-tv-z]?)(?:\1ing|\1ed)$", r"\1", words[-1])
    spelt = r"[\s_-]*".join(map(re.escape, [*words[:-1], last]))
    return spelt + (r"\w*" if len(last) > 3 else r"(?!\w)")
