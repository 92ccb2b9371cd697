"""Label-free pre-training tasks for the tiny base, built from flow texts and class names alone."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from iot_pipeline.flows.serialise import leads, parse_line, serialisation_of

# Words that answers about flows use; the tokeniser learns each as a whole.
_WORDS = """
above below at the median quartile lower upper of and is in with this flow traffic packets bytes rate value values
percentile train pool a to its high low very which that no answer indicates consistent typical pattern payload header
time for than by these are as it from on one many few while both sides shows points class The This most all flows near
far middle range usual average forward backward seconds duration
"""
_MARKS = ("CLASSIFICATION:", "\nANALYSIS:", "\nKEY_INDICATORS:", "FILL:")
ANSWER_WORDS = (*_MARKS, *(f" {word}" for word in _WORDS.split()))

# (flow text, class name, random) -> answer in the form that will be requested.
Writer = Callable[[str, str, np.random.Generator], str]


@dataclass(frozen=True)
class Flows:
    """Parsed flow texts: printed values [flows][features], with their percentiles where the text has them.

    `leads`: text before each value. `ranks`: percentile ranks of the values among these flows, 0..100; the value of a
    category has a number by its name.
    """

    texts: list[str]
    names: list[str]
    leads: tuple[str, ...]
    printed: list[list[str]]
    ranks: np.ndarray  # int [flows, features]
    numbers: np.ndarray  # float64 [flows, features]


def parse(texts: Sequence[str], names: Sequence[str]) -> Flows:
    """Parse flow texts in the form of the first; ValueError for another, or a missing or unreadable value."""
    first = [found for line in (texts[0].split("\n") if texts else []) for found in parse_line(line)]
    categories = {name for name, _, place in first if isinstance(place, str)}
    before = leads(names, serialisation_of(texts[0]), categories) if texts else ()
    form = re.compile("".join(re.escape(lead) + r"(\S+(?: (?:p\d{1,3}|\d{1,3}%))?)" for lead in before))
    printed: list[list[str]] = []
    for text in texts:
        found = form.fullmatch(text)
        if found is None:
            raise ValueError(f"flow text whose features are not {list(names)[:3]}...: {text[:80]!r}")
        printed.append(list(found.groups()))
    words = [[value.split(" ")[0] for value in row] for row in printed]
    numbers = np.empty((len(printed), len(names)))
    for place, name in enumerate(names):
        cells = [row[place] for row in words]
        numbers[:, place] = np.unique(cells, return_inverse=True)[1] if name in categories else np.array(cells, float)
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


def group_answer(codes: np.ndarray, rng: np.random.Generator) -> str:
    """Return a group answer `CLASSIFICATION: c40 a12 f3 b7`: random order, one letter for each clustering.

    With random order the base must know all clusterings at the position where a class name will be asked for later.
    """
    places = rng.permutation(len(codes))[:4].tolist()
    return "CLASSIFICATION:" + "".join(f" {chr(97 + place)}{codes[place]}" for place in places)


def masked(flows: Flows, row: int, rng: np.random.Generator) -> tuple[str, str]:
    """Mask up to four values of a flow with `?`; return the text and the answer that fills them in."""
    places = sorted(rng.choice(len(flows.names), size=min(4, len(flows.names)), replace=False).tolist())
    cells = ["?" if place in places else cell for place, cell in enumerate(flows.printed[row])]
    compact = not all(lead.endswith((": ", " = ")) for lead in flows.leads)
    form = " {} {}" if compact else "\n{}: {}"
    answer = "FILL:" + "".join(form.format(flows.names[place], flows.printed[row][place]) for place in places)
    return "".join(lead + cell for lead, cell in zip(flows.leads, cells, strict=True)), answer


@dataclass(frozen=True)
class Curriculum:
    """Curriculum of the pre-training: tasks on flows; `codes` are their `groups`.

    The class of a written answer is drawn at random whatever the flow, so it carries no label.
    """

    flows: Flows
    codes: np.ndarray
    classes: Sequence[str]
    writer: Writer

    def task(self, row: int, rng: np.random.Generator) -> tuple[str, str]:
        """Draw a task on a flow: name its groups, fill in masked values, or write an answer; (text, answer)."""
        kind = rng.choice(3, p=(0.4, 0.2, 0.4))
        if kind == 1:
            return masked(self.flows, row, rng)
        text = self.flows.texts[row]
        return text, group_answer(self.codes[row], rng) if kind == 0 else self.write(text, rng)

    def write(self, text: str, rng: np.random.Generator) -> str:
        """Write a true answer about a flow, with a class drawn at random."""
        return self.writer(text, self.classes[int(rng.integers(len(self.classes)))], rng)
