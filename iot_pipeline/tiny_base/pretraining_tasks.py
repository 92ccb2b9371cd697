"""Label-free pre-training tasks for the tiny base, built from flow texts alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from iot_pipeline.flows.serialise import leads, serialisation_of

# Words that answers about flows use; the tokeniser learns each as a whole.
_WORDS = """
above below at the median quartile lower upper of and is in with this flow traffic packets bytes rate value values
percentile train pool a to its high low very which that no answer indicates consistent typical pattern payload header
time for than by these are as it from on one many few while both sides shows points class The This most all flows near
far middle range usual average forward backward seconds duration
"""
_MARKS = ("CLASSIFICATION:", "\nANALYSIS:", "\nKEY_INDICATORS:", "FILL:")
ANSWER_WORDS = (*_MARKS, *(f" {word}" for word in _WORDS.split()))


@dataclass(frozen=True)
class Flows:
    """Parsed flow texts: printed values [flows][features], with their percentiles where the text has them.

    `leads`: text before each value. `ranks`: percentile ranks of the values among these flows, 0..100.
    """

    texts: list[str]
    names: list[str]
    leads: tuple[str, ...]
    printed: list[list[str]]
    ranks: np.ndarray  # int [flows, features]
    numbers: np.ndarray  # float64 [flows, features]


def parse(texts: Sequence[str], names: Sequence[str]) -> Flows:
    """Parse flow texts in the serialisation of the first; ValueError for another, or a missing or unreadable value."""
    before = leads(names, serialisation_of(texts[0])) if texts else ()
    form = re.compile("".join(re.escape(lead) + r"(\S+(?: p\d{1,3})?)" for lead in before))
    printed: list[list[str]] = []
    for text in texts:
        found = form.fullmatch(text)
        if found is None:
            raise ValueError(f"flow text whose features are not {list(names)[:3]}...: {text[:80]!r}")
        printed.append(list(found.groups()))
    numbers = np.array([float(value.split(" ")[0]) for row in printed for value in row])
    numbers = numbers.reshape(len(printed), len(names))
    ranks = np.empty(numbers.shape, dtype=np.int64)
    for column in range(numbers.shape[1]):
        ordered = np.sort(numbers[:, column])
        left = np.searchsorted(ordered, numbers[:, column], "left")
        right = np.searchsorted(ordered, numbers[:, column], "right")
        ranks[:, column] = np.round(100 * (left + right) / 2 / len(ordered))
    return Flows(list(texts), list(names), before, printed, ranks, numbers)


def groups(flows: Flows, sizes: Sequence[int], seed: int) -> np.ndarray:
    """Group flows by k-means on their ranks, one clustering for each size: int [flows, len(sizes)]; no labels.

    Naming a flow's groups makes the base gather the whole flow at the position where an answer begins.
    """
    from sklearn.cluster import MiniBatchKMeans

    places = flows.ranks / 100.0
    columns = []
    for number, size in enumerate(sizes):
        # Each clustering weights the features at random, so that the groups differ in kind.
        picked = np.random.default_rng([seed, number])
        weights = picked.uniform(0, 1, places.shape[1]) ** 2
        size = min(size, len(places))
        model = MiniBatchKMeans(size, random_state=seed + number, n_init=1, batch_size=2048, max_iter=30)
        columns.append(model.fit_predict(places * weights))
    return np.stack(columns, axis=1)


def group_answer(codes: np.ndarray, rng: np.random.Generator, shown: int = 4) -> str:
    """Return a group answer `CLASSIFICATION: c40 a12 f3 b7`: random order, one letter for each clustering.

    With random order the base must know all clusterings at the position where a class name will be asked for later.
    """
    places = rng.permutation(len(codes))[:shown].tolist()
    return "CLASSIFICATION:" + "".join(f" {chr(97 + place)}{codes[place]}" for place in places)


def masked(flows: Flows, row: int, rng: np.random.Generator, hidden: int = 4) -> tuple[str, str]:
    """Mask `hidden` values of a flow with `?`; return the text and the answer that fills them in."""
    hidden = min(hidden, len(flows.names))
    places = sorted(rng.choice(len(flows.names), size=hidden, replace=False).tolist())
    cells = ["?" if place in places else cell for place, cell in enumerate(flows.printed[row])]
    form = "\n{}: {}" if flows.leads[0].endswith(": ") else " {} {}"
    answer = "FILL:" + "".join(form.format(flows.names[place], flows.printed[row][place]) for place in places)
    return "".join(lead + cell for lead, cell in zip(flows.leads, cells, strict=True)), answer


def reading(flows: Flows, row: int, name: str, rng: np.random.Generator) -> str:
    """Write an answer in a teacher's form, true to the flow's values, whatever the class `name` is."""
    extreme = np.abs(flows.ranks[row] - 50) + rng.uniform(0, 25, len(flows.names))
    places = np.argsort(-extreme)[: int(rng.integers(4, 7))]
    cited = []
    for place in places.tolist():
        value = flows.printed[row][place].split(" ")[0]
        cited.append((flows.names[place], value, side_of_median(int(flows.ranks[row, place]))))
    closing = _CLOSINGS[int(rng.integers(len(_CLOSINGS)))].format(name=name)
    sentences = " ".join(_sentence(*one, rng) for one in cited[: int(rng.integers(2, 4))])
    listed = "; ".join(f"{feature} {value} ({side} the median)" for feature, value, side in cited)
    return f"CLASSIFICATION: {name}\nANALYSIS: {sentences} {closing}\nKEY_INDICATORS: {listed}"


_CLOSINGS = (
    "Together these marks fit {name}.",
    "This is the pattern of {name} traffic.",
    "The flow is consistent with {name}.",
    "All of this indicates {name}.",
    "This profile is typical of {name}.",
)
_SENTENCES = (
    "{name} of {value} is {side} the median.",
    "The value {value} of {name} lies {side} the median of the train pool.",
    "This flow shows {name} {value}, {side} the typical value.",
    "With {value}, {name} is {side} the usual range.",
    "{name} is {value}, {side} the median of all flows.",
    "Here {name} reaches {value}, which is {side} what most flows show.",
)


def side_of_median(rank: int) -> str:
    """Return the side of the median of a rank 0..100: above, below, or at (48 to 52)."""
    return "above" if rank > 52 else "below" if rank < 48 else "at"


def _sentence(name: str, value: str, side: str, rng: np.random.Generator) -> str:
    return _SENTENCES[int(rng.integers(len(_SENTENCES)))].format(name=name, value=value, side=side)
