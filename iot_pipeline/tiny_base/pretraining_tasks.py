"""Label-free pre-training tasks for the tiny base, built from flow texts and class names alone."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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

KINDS = ("groups", "masked", "answer", "lookup")
SHARES = (0.4, 0.1, 0.25, 0.25)  # of the kinds of task
FEWEST, LOOKED_UP = 8, 8  # lines of a lookup's flow, and values looked up in it

# (flow text, class name, random) -> answer in the form that will be requested.
Writer = Callable[[str, str, np.random.Generator], str]


class Task(NamedTuple):
    """Task on a flow; `real`: the flow text occurs in the data, so that the text itself is worth learning."""

    text: str
    answer: str
    real: bool = True


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


def group_answer(codes: np.ndarray, rng: np.random.Generator) -> str:
    """Return a group answer `CLASSIFICATION: c40 a12 f3 b7`: random order, one letter for each clustering.

    With random order the base must know all clusterings at the position where a class name will be asked for later.
    """
    places = rng.permutation(len(codes))[:4].tolist()
    return "CLASSIFICATION:" + "".join(f" {chr(97 + place)}{codes[place]}" for place in places)


def masked(flows: Flows, row: int, rng: np.random.Generator) -> Task:
    """Mask up to four values of a flow with `?`; the answer fills them in."""
    places = sorted(rng.choice(len(flows.names), size=min(4, len(flows.names)), replace=False).tolist())
    cells = ["?" if place in places else cell for place, cell in enumerate(flows.printed[row])]
    form = "\n{}: {}" if flows.leads[0].endswith(": ") else " {} {}"
    answer = "FILL:" + "".join(form.format(flows.names[place], flows.printed[row][place]) for place in places)
    return Task("".join(lead + cell for lead, cell in zip(flows.leads, cells, strict=True)), answer)


def planted(flows: Flows, rng: np.random.Generator) -> list[str]:
    """Plant values in a flow that only copying can cite: [features], each in the form of some flow's value.

    Values are other flows' or, six times in ten, have random digits; percentiles are random. The values of real flows
    can be guessed: a student that learned from them alone cited frequent values whatever its flow said.
    """
    cells = []
    for column in range(len(flows.names)):
        value, _, rank = flows.printed[int(rng.integers(len(flows.printed)))][column].partition(" ")
        if rng.random() < 0.6:
            value = _other_digits(value, rng)
        cells.append(f"{value} p{rng.integers(101)}" if rank else value)
    return cells


def _other_digits(value: str, rng: np.random.Generator) -> str:
    """Return a number of the same form: every digit is drawn, but for those of an exponent; no zero is put in front."""
    mantissa, mark, exponent = value.partition("e")
    digits = iter(rng.integers(0, 10, len(mantissa)).tolist())
    drawn = re.sub(r"\d", lambda _: str(next(digits)), mantissa)
    # Half of the fractions keep their whole part: most z-scores begin with 0.
    if "." in mantissa and not mark and rng.random() < 0.5:
        whole = mantissa.index(".")
        drawn = mantissa[:whole] + drawn[whole:]
    front = re.match(r"-?0(?=\d)" if not mark else r"-?0", drawn)
    return (drawn if front is None else drawn.replace("0", str(rng.integers(1, 10)), 1)) + mark + exponent


def lookup(flows: Flows, size: int, rng: np.random.Generator) -> Task:
    """Ask for values by name: a flow of `size` lines with planted values, and some of its lines in another order.

    Half the words of such an answer are copied, in a written answer one in ten. `compact` lines depend on one another,
    so that such a flow keeps them all.
    """
    cells, names = planted(flows, rng), flows.names
    if not flows.leads[0].endswith(": "):
        size = len(names)
    lines = np.sort(rng.permutation(len(names))[:size])
    text = "".join(flows.leads[line] + cells[line] for line in lines).lstrip("\n")
    asked = rng.permutation(lines)[:LOOKED_UP]
    return Task(text, "FILL:" + "".join(f" {names[line]} {cells[line]}" for line in asked), real=False)


@dataclass(frozen=True)
class Curriculum:
    """Curriculum of the pre-training: tasks on flows; `codes` are their `groups`.

    The class of a written answer is drawn at random whatever the flow, so it carries no label.
    """

    flows: Flows
    codes: np.ndarray
    classes: Sequence[str]
    writer: Writer

    def task(self, row: int, rng: np.random.Generator, first: bool = False) -> Task:
        """Draw a task on a flow: name its groups, fill in masked values, write an answer, or look values up.

        `first`: only lookups, in the shortest flows, until the base copies.
        """
        features = len(self.flows.names)
        if first:
            return lookup(self.flows, min(FEWEST, features), rng)
        kind = KINDS[int(rng.choice(len(KINDS), p=SHARES))]
        if kind == "groups":
            return Task(self.flows.texts[row], group_answer(self.codes[row], rng))
        if kind == "masked":
            return masked(self.flows, row, rng)
        if kind == "lookup":
            return lookup(self.flows, int(rng.integers(min(FEWEST, features), features + 1)), rng)
        text = "".join(lead + cell for lead, cell in zip(self.flows.leads, planted(self.flows, rng), strict=True))
        return Task(text, self.write(text, rng), real=False)

    def write(self, text: str, rng: np.random.Generator) -> str:
        """Write a true answer about a flow, with a class drawn at random."""
        return self.writer(text, self.classes[int(rng.integers(len(self.classes)))], rng)
