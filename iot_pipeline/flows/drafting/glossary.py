"""Units and meanings of the columns that known flow tools write (glossary.yaml)."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from iot_pipeline.lake.yaml_reader import read_own_yaml

FILE = Path(__file__).with_name("glossary.yaml")
PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Entry:
    """Unit and meaning of a column, and the tool that calls it so."""

    unit: str
    meaning: str
    family: str
    source: str
    name: str


def plain(name: str) -> str:
    """Return a column's name as it is looked up: letters and digits alone, in small letters."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def entries() -> dict[str, list[Entry]]:
    """Load the glossary: the entries of each name, in the order of the file."""
    found: dict[str, list[Entry]] = {}
    for family in read_own_yaml(FILE):
        for pattern, (unit, meaning) in family["columns"].items():
            for names, told in _expanded(pattern, meaning, family.get("each", {})):
                for name in map(str.strip, names.split("|")):
                    entry = Entry(unit, told, family["family"], family["source"], name)
                    found.setdefault(plain(name), []).append(entry)
    return found


def _expanded(pattern: str, meaning: str, each: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield (names, meaning) for each choice of the words in braces."""
    places = list(dict.fromkeys(PLACE.findall(pattern)))
    for words in itertools.product(*(each[place] for place in places)):
        chosen = dict(zip(places, words, strict=True))
        told = {place: each[place][word] for place, word in chosen.items()}
        yield _filled(pattern, chosen), _filled(meaning, told)


def _filled(text: str, words: dict[str, Any]) -> str:
    return PLACE.sub(lambda found: str(words[found[1]]), text)


def known(columns: list[str]) -> dict[str, Entry]:
    """Return the entries of the known columns.

    Where tools share a name, the tool is meant that knows most of the columns; its own spelling counts twice.
    """
    options = {column: entries()[plain(column)] for column in columns if plain(column) in entries()}
    votes: Counter[str] = Counter()
    for column, listed in options.items():
        for entry in {one.family: one for one in listed}.values():
            votes[entry.family] += 2 if entry.name.lower() == column.lower() else 1
    return {column: max(listed, key=lambda entry: votes[entry.family]) for column, listed in options.items()}
