"""Diversity of a track's analyses: distinct n-grams, self-BLEU, compression ratio and near-duplicates.

Each measure depends on the number of texts, so that every track is measured on a sample of the same size.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from iot_pipeline.augmentation.wording import masked_words

SAMPLE = 2_000  # distinct answers
ORDERS = (1, 2, 3, 4)
# Signatures of 16 bands of 4: two texts with a Jaccard index of 0.7 meet in a band with probability 0.988.
BANDS, BAND_ROWS = 16, 4
NEAR_JACCARD = 0.7
NEIGHBOURS = 8  # texts of a band's bucket that each text is compared with
MIX, BASE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0x100000001B3)

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


def diversity(analyses: Sequence[str], features: tuple[str, ...]) -> dict[str, Any]:
    """Measure the diversity of analyses as they are, and with feature names and numbers masked."""
    raw = [analysis.lower().split() for analysis in analyses]
    masked = [masked_words(analysis, features) for analysis in analyses]
    return {"answers": len(analyses), "raw": measures(raw), "masked": measures(masked)}


def measures(texts: Sequence[Sequence[str]]) -> dict[str, float | None]:
    """Compute the measures of diversity of texts given as words; None where there are too few."""
    known: dict[str, int] = {}
    lengths = np.array([len(words) for words in texts], dtype=np.int64)
    ids = np.array([known.setdefault(word, len(known) + 1) for words in texts for word in words], dtype=np.uint64)
    owner = np.repeat(np.arange(len(texts)), lengths)
    counted = [count_ngrams(ids, owner, order) for order in ORDERS]
    written = "\n".join(map(" ".join, texts)).encode()
    found: dict[str, float | None] = {
        f"distinct_{order}": round(float(len(np.unique(grams)) / counts.sum()), 4) if len(grams) else None
        for order, (grams, _, counts) in zip(ORDERS[:3], counted, strict=False)
    }
    near = near_duplicates(*counted[1][:2], len(texts))
    return found | {
        "self_bleu": round(float(self_bleu(counted, len(texts)).mean()), 4) if len(texts) > 1 else None,
        "compression_ratio": round(len(written) / len(zlib.compress(written, 6)), 3) if written else None,
        "near_duplicates": round(float(near.mean()), 4) if len(texts) > 1 else None,
    }


def count_ngrams(ids: Hashes, owner: Ints, order: int) -> tuple[Hashes, Ints, Ints]:
    """Count the n-grams of each text: hash, text and count of each pair of both, sorted by hash and falling count.

    Args:
        ids: Words [n].
        owner: Text of each word [n], ascending.
        order: Words in an n-gram.
    """
    last = len(ids) - order + 1
    if last < 1:
        return np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64)
    grams = np.zeros(last, np.uint64)
    for offset in range(order):
        grams = (grams * BASE + ids[offset : last + offset]) * MIX
    grams ^= grams >> np.uint64(31)
    whole = owner[:last] == owner[order - 1 :]
    grams, text = grams[whole], owner[:last][whole]
    by_pair = np.lexsort((text, grams))
    grams, text = grams[by_pair], text[by_pair]
    first = np.flatnonzero(np.r_[True, (grams[1:] != grams[:-1]) | (text[1:] != text[:-1])][: len(grams)])
    counts = np.diff(np.r_[first, len(grams)])
    grams, text = grams[first], text[first]
    by_count = np.lexsort((-counts, grams))
    return grams[by_count], text[by_count], counts[by_count]


def self_bleu(counted: Sequence[tuple[Hashes, Ints, Ints]], texts: int) -> npt.NDArray[np.float64]:
    """Compute the BLEU-4 of each text against all others, without brevity penalty: [texts], 0 (all differ) to 1."""
    logs = np.zeros(texts)
    for grams, text, counts in counted:
        new = np.r_[True, grams[1:] != grams[:-1]][: len(grams)]
        top = np.flatnonzero(new)
        size = np.diff(np.r_[top, len(grams)])
        # The highest count among the other texts: the second highest for the text that has the highest.
        limit = np.repeat(counts[top], size)
        second = np.where(size > 1, counts[np.minimum(top + 1, len(counts) - 1)], 0) if len(counts) else counts
        limit[top] = second
        shared = np.bincount(text, np.minimum(counts, limit), texts)
        total = np.bincount(text, counts, texts)
        logs += np.log(np.maximum(shared, 0.1) / np.maximum(total, 1))  # smoothing 1 of Chen and Cherry
    return np.minimum(np.exp(logs / len(counted)), 1.0)


def near_duplicates(grams: Hashes, text: Ints, texts: int) -> npt.NDArray[np.bool_]:
    """Return True for each text that shares most of its bigrams with another one, by MinHash and then exactly.

    Args:
        grams: Bigrams, each once a text.
        text: Text of each bigram.
        texts: Number of texts.
    """
    near = np.zeros(texts, dtype=bool)
    by_text = np.argsort(text, kind="stable")
    grams, text = grams[by_text], text[by_text]
    present, starts = np.unique(text, return_index=True)
    if len(present) < 2:
        return near
    sets = dict(zip(present.tolist(), map(frozenset, np.split(grams, starts[1:])), strict=True))
    signature = signatures(grams, starts)
    for band in range(BANDS):
        rows = signature[:, band * BAND_ROWS : (band + 1) * BAND_ROWS]
        order = np.lexsort(rows.T)
        for step in range(1, min(NEIGHBOURS + 1, len(order))):
            left, right = order[:-step], order[step:]
            same = (rows[left] == rows[right]).all(axis=1)
            left, right = left[same], right[same]
            open_ = ~(near[present[left]] & near[present[right]])
            left, right = left[open_], right[open_]
            likely = (signature[left] == signature[right]).mean(axis=1) > NEAR_JACCARD - 0.2
            for a, b in zip(present[left[likely]].tolist(), present[right[likely]].tolist(), strict=True):
                if len(sets[a] & sets[b]) >= NEAR_JACCARD * len(sets[a] | sets[b]):
                    near[[a, b]] = True
    return near


def signatures(grams: Hashes, starts: Ints) -> Hashes:
    """Return the MinHash signature of each set of hashes, [sets, 64]; `starts` is where each set begins."""
    draw = np.random.default_rng(0)
    factors = draw.integers(0, 2**64, BANDS * BAND_ROWS, dtype=np.uint64) | np.uint64(1)
    mixed = (grams ^ (grams >> np.uint64(29))) * MIX
    mixed ^= mixed >> np.uint64(32)
    hashed = (np.minimum.reduceat((mixed * factor) >> np.uint64(20), starts) for factor in factors)
    return np.column_stack(list(hashed))
