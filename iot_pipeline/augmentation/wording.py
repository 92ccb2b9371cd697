"""Wording of analyses, with feature names and numbers masked, and the likeness of two."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from iot_pipeline.augmentation.answers import NUMBER
from iot_pipeline.augmentation.mentions import names_pattern

WORD = re.compile(r"[a-z']+|#")
NAME_OR_WORD = re.compile(r"[a-z]+(?:[._'][a-z]+)*|#")


@lru_cache(maxsize=16)
def word_mask(features: tuple[str, ...]) -> Callable[[str], str]:
    """Return a function from a word to its wording, words in small letters that end in a blank.

    Marks go, and feature names and numbers become `#`.
    """
    names = names_pattern(features)

    @lru_cache(maxsize=8192)  # the same words occur in most answers: this makes it ten times as fast
    def mask(word: str) -> str:
        return "".join(f"{part} " for part in WORD.findall(NUMBER.sub("#", names.sub("#", word)).lower()))

    return mask


def masked_words(analysis: str, features: tuple[str, ...]) -> list[str]:
    """Return the words of an analysis with features and numbers masked, so that only the wording remains."""
    return "".join(map(word_mask(features), analysis.split())).split()


def similarity(first: str, second: str) -> tuple[float, float]:
    """Return the Jaccard indices of the words and of the word bigrams of two analyses with numbers masked."""
    words = [NAME_OR_WORD.findall(NUMBER.sub("#", text.lower())) for text in (first, second)]
    return _jaccard(*map(set, words)), _jaccard(*(set(itertools.pairwise(of)) for of in words))


def _jaccard(a: set[Any], b: set[Any]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0
