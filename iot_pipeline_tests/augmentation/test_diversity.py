"""Diversity of analyses: bounds, known cases, and near-duplicates as a comparison of all pairs finds them."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.augmentation.diversity import (
    NEAR_JACCARD,
    count_ngrams,
    diversity,
    measures,
    near_duplicates,
    self_bleu,
)
from iot_pipeline.augmentation.join import Wording, share

WORDS = [f"w{n}" for n in range(400)]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS[:30]), min_size=6, max_size=20), min_size=2, max_size=12)


def test_equal_texts_have_no_diversity_and_different_ones_all() -> None:
    same, other = measures([WORDS[:20]] * 5), measures([WORDS[n * 20 : n * 20 + 20] for n in range(5)])
    assert same["self_bleu"] == 1.0 and same["near_duplicates"] == 1.0 and same["distinct_1"] == 0.2
    assert other["self_bleu"] < 0.02 and other["near_duplicates"] == 0.0 and other["distinct_2"] == 1.0  # type: ignore[operator]
    assert same["compression_ratio"] > other["compression_ratio"]  # type: ignore[operator]


def test_masking_finds_what_differs_in_numbers_and_features_alone() -> None:
    said = "the value of {} is {} and lies above the median, so the sender pushes more than a sensor would"
    found = diversity(
        [said.format(name, n) for n, name in enumerate(["orig_pkts", "resp_pkts"])], ("orig_pkts", "resp_pkts")
    )
    assert found["masked"]["near_duplicates"] == 1.0 and found["masked"]["self_bleu"] == 1.0
    assert found["raw"]["near_duplicates"] == 0.0 and found["raw"]["self_bleu"] < 1.0


def test_nothing_to_measure_is_none() -> None:
    empty = dict.fromkeys(
        ["distinct_1", "distinct_2", "distinct_3", "self_bleu", "compression_ratio", "near_duplicates"]
    )
    assert measures([]) == empty
    assert measures([["a"]])["self_bleu"] is None


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.randoms())
def test_measures_are_shares_and_do_not_depend_on_the_order(texts, draw) -> None:  # type: ignore[no-untyped-def]
    found = measures(texts)
    assert all(0 <= found[name] <= 1 for name in found if name != "compression_ratio")
    draw.shuffle(texts)
    again = measures(texts)
    assert {**again, "compression_ratio": 0} == {**found, "compression_ratio": 0}


@settings(max_examples=50, deadline=None)
@given(TEXTS)
def test_self_bleu_is_that_of_its_definition(texts: list[list[str]]) -> None:
    def grams(words: list[str], order: int) -> dict[tuple[str, ...], int]:
        told = [tuple(words[n : n + order]) for n in range(len(words) - order + 1)]
        return {gram: told.count(gram) for gram in told}

    expected = []
    for n, words in enumerate(texts):
        logs = []
        for order in (1, 2, 3, 4):
            own, others = grams(words, order), [grams(text, order) for m, text in enumerate(texts) if m != n]
            hits = sum(min(count, max(other.get(gram, 0) for other in others)) for gram, count in own.items())
            logs.append(np.log(max(hits, 0.1) / sum(own.values())))
        expected.append(np.exp(np.mean(logs)))
    ids = {word: n + 1 for n, word in enumerate(WORDS)}
    words = np.array([ids[word] for text in texts for word in text], dtype=np.uint64)
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    counted = [count_ngrams(words, owner, order) for order in (1, 2, 3, 4)]
    assert np.allclose(self_bleu(counted, len(texts)), np.minimum(expected, 1))


def test_near_duplicates_are_those_of_all_pairs() -> None:
    draw = np.random.default_rng(5)
    texts = [list(draw.choice(WORDS, 60)) for _ in range(150)]
    for n in range(0, 100, 2):  # every other text is its neighbour with up to a fifth of its words exchanged
        copy = list(texts[n])
        for place in draw.choice(60, int(draw.integers(0, 12)), replace=False):
            copy[place] = "other"
        texts[n + 1] = copy
    pairs = [set(itertools.pairwise(text)) for text in texts]
    expected = np.zeros(len(texts), dtype=bool)
    for a, b in itertools.combinations(range(len(texts)), 2):
        if len(pairs[a] & pairs[b]) >= NEAR_JACCARD * len(pairs[a] | pairs[b]):
            expected[[a, b]] = True
    ids = {word: n + 1 for n, word in enumerate([*WORDS, "other"])}
    owner = np.repeat(np.arange(len(texts)), 60)
    grams, text, _ = count_ngrams(np.array([ids[w] for t in texts for w in t], dtype=np.uint64), owner, 2)
    found = near_duplicates(grams, text, len(texts))
    assert 40 < expected.sum() < 100
    assert not (found & ~expected).any() and (expected & ~found).sum() <= 2


def test_the_sample_of_answers_does_not_depend_on_their_order() -> None:
    answers = [f"CLASSIFICATION: x\nANALYSIS: {' '.join(WORDS[n : n + 9])}\nKEY_INDICATORS: a 1" for n in range(60)]
    one, two = Wording(["a"]), Wording(["a"])
    for answer in answers:
        one.add(answer)
    for answer in [*reversed(answers), *answers]:
        two.add(answer)
    assert one.diversity() == two.diversity() and one.diversity()["answers"] == 60


def test_a_share_has_its_interval() -> None:
    assert share(0, 3) == (0.0, 0.0, 0.5615) and share(3, 3)[1:] == (0.4385, 1.0)
    assert share(498, 1000) == (0.498, 0.4671, 0.5289)
