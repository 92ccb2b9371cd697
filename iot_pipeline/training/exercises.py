"""Label-free reading exercises for the tiny base, made from flow texts alone.

Belongs here: parsing flow text, the exercises and their answers. Does not belong here: any label of any flow;
class names appear only at random, drawn without looking at the flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Words that answers about flows are made of: the tokenizer learns them as they stand.
ANSWER_WORDS = (
    "CLASSIFICATION:|\nANALYSIS:|\nKEY_INDICATORS:|GROUP:|FILL:| above| below| at| the| median| quartile| lower| upper"
    "| of| and| is| in| with| this| flow| traffic| packets| bytes| rate| value| values| percentile| train| pool| a| to"
    "| its| high| low| very| which| that| no| answer| indicates| consistent| typical| pattern| payload| header| time"
    "| for| than| by| these| are| as| it| from| on| one| many| few| typical| while| both| sides| shows| points| class"
    "| The| This| most| all| flows| near| far| middle| range| usual| average| forward| backward| seconds| duration"
).split("|")


@dataclass(frozen=True)
class Flows:
    """Parsed flow texts: printed values [flows][features], and their rank among these flows in 0..100."""

    texts: list[str]
    names: list[str]
    printed: list[list[str]]
    ranks: np.ndarray  # int [flows, features]
    numbers: np.ndarray  # float64 [flows, features]


def parse(texts: Sequence[str], names: Sequence[str]) -> Flows:
    """Read `name: value` or `name: value pNN` lines; a missing or unreadable line is a ValueError."""
    printed: list[list[str]] = []
    for text in texts:
        rows = [line.split(": ", 1) for line in text.split("\n")]
        if [row[0] for row in rows] != list(names):
            raise ValueError(f"flow text whose features are not {list(names)[:3]}...: {text[:80]!r}")
        printed.append([row[1] for row in rows])
    numbers = np.array([[float(value.split(" ")[0]) for value in row] for row in printed])
    ranks = np.empty(numbers.shape, dtype=np.int64)
    for column in range(numbers.shape[1]):
        ordered = np.sort(numbers[:, column])
        left = np.searchsorted(ordered, numbers[:, column], "left")
        right = np.searchsorted(ordered, numbers[:, column], "right")
        ranks[:, column] = np.round(100 * (left + right) / 2 / len(ordered))
    return Flows(list(texts), list(names), printed, ranks, numbers)


def groups(flows: Flows, sizes: Sequence[int], seed: int) -> np.ndarray:
    """int [flows, len(sizes)]: k-means groups of the flows' ranks, one clustering a size; never a label.

    Naming a flow's group makes the base gather the whole flow at the place where an answer begins.
    """
    from sklearn.cluster import MiniBatchKMeans

    places = flows.ranks / 100.0
    columns = []
    for number, size in enumerate(sizes):
        # Each clustering sees its own random subset of the features, so that the groups differ in kind.
        picked = np.random.default_rng([seed, number])
        weights = picked.uniform(0, 1, places.shape[1]) ** 2
        size = min(size, len(places))
        model = MiniBatchKMeans(size, random_state=seed + number, n_init=1, batch_size=2048, max_iter=30)
        columns.append(model.fit_predict(places * weights))
    return np.stack(columns, axis=1)


def group_answer(codes: np.ndarray) -> str:
    """`GROUP: a12 b3 c40`, a letter a clustering."""
    return "GROUP:" + "".join(f" {chr(97 + place)}{code}" for place, code in enumerate(codes))


def masked(flows: Flows, row: int, rng: np.random.Generator, hidden: int = 4) -> tuple[str, str]:
    """A flow with `hidden` values replaced by `?`, and the answer that fills them in."""
    places = sorted(rng.choice(len(flows.names), size=hidden, replace=False).tolist())
    lines = flows.texts[row].split("\n")
    for place in places:
        lines[place] = f"{flows.names[place]}: ?"
    answer = "FILL:" + "".join(f"\n{flows.names[place]}: {flows.printed[row][place]}" for place in places)
    return "\n".join(lines), answer


def reading(flows: Flows, row: int, classes: Sequence[str], rng: np.random.Generator) -> str:
    """An answer in the shape of a teacher's, true to the flow's values; its class name is drawn at random."""
    extreme = np.abs(flows.ranks[row] - 50) + rng.uniform(0, 25, len(flows.names))
    places = np.argsort(-extreme)[: int(rng.integers(4, 7))]
    cited = []
    for place in places.tolist():
        value = flows.printed[row][place].split(" ")[0]
        cited.append((flows.names[place], value, side_of_median(int(flows.ranks[row, place]))))
    sentences = " ".join(_sentence(name, value, side, rng) for name, value, side in cited[:-1])
    listed = "; ".join(f"{name} {value} ({side} the median)" for name, value, side in cited)
    name = classes[int(rng.integers(len(classes)))]
    return f"CLASSIFICATION: {name}\nANALYSIS: {sentences}\nKEY_INDICATORS: {listed}"


def side_of_median(rank: int) -> str:
    """above, below or at: where a rank of 0..100 lies."""
    return "above" if rank > 52 else "below" if rank < 48 else "at"


def _sentence(name: str, value: str, side: str, rng: np.random.Generator) -> str:
    forms = (
        f"{name} of {value} is {side} the median.",
        f"The value {value} of {name} is {side} the median of the train pool.",
        f"This flow shows {name} {value}, {side} the typical value.",
        f"With {value}, {name} is {side} the usual range.",
    )
    return forms[int(rng.integers(len(forms)))]
