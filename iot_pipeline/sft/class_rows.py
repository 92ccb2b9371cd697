"""Class rows: each distinct flow as a question for its class alone, answered by a distribution over the classes."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.flows.categories import VALUE
from iot_pipeline.flows.serialise import NUMBER
from iot_pipeline.models.tokenizer import class_tokens, encode, prompt_text
from iot_pipeline.sft.tensors import IGNORED, Tensors

# Chosen on RT-IoT2022's validation side at 10K (450 steps, rank 64): macro-F1 0.696 without, 0.732 with masked copies.
MOST_MASKED = 0.3
NUMBER_CELL = re.compile(rf": {NUMBER}(?: p\d{{1,3}})?$", re.MULTILINE)
CELL = re.compile(rf"(: ){NUMBER}(?: p\d{{1,3}})?$|( = ){VALUE}(?: \d{{1,3}}%)?$", re.MULTILINE)


@dataclass(frozen=True)
class Questions:
    """Questions for the class of distinct flow texts.

    shares: probability of each class, float64 [texts, classes]. weights: how often a text is to be drawn before classes
    are balanced, float64 [texts].
    """

    texts: list[str]
    shares: np.ndarray
    weights: np.ndarray


def labelled(rows: Iterable[tuple[str, str, str]], classes: Sequence[str]) -> Questions:
    """Collect the distinct texts of labelled rows: (text, flow group, label).

    A flow group is drawn by the square root of its number of rows, as the baselines weigh it, whatever the number of
    its texts: varied texts share the weight of their group. Labels that contradict each other become shares.
    """
    place = {name: number for number, name in enumerate(classes)}
    of_group: Counter[str] = Counter()
    of_text: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    labels: dict[str, np.ndarray] = {}
    for text, group, label in rows:
        of_group[group] += 1
        of_text[text][group] += 1
        labels.setdefault(text, np.zeros(len(classes)))[place[label]] += 1
    if not labels:
        raise UserError("no class rows: the track has no labelled row")
    shares = np.array([counts / counts.sum() for counts in labels.values()])
    weights = [sum(count / of_group[group] ** 0.5 for group, count in of_text[text].items()) for text in labels]
    return Questions(list(labels), shares, np.array(weights))


def masked(questions: Questions, copies: int, seed: int) -> Questions:
    """Return the questions, each followed by copies in which random features have `?` in place of their values.

    A copy masks a share of the features that is itself drawn evenly from 0 to MOST_MASKED, so that no single feature
    decides a class. A flow's weight is shared out over itself and its copies. Only texts of one feature a line are
    masked; a compact one is returned as it is.
    """
    random = np.random.default_rng([seed, 11])
    texts, places = [], []
    for place, text in enumerate(questions.texts):
        drawn = [text, *(_masked(text, random) for _ in range(copies))] if NUMBER_CELL.search(text) else [text]
        texts += drawn
        places += [place] * len(drawn)
    counts = np.bincount(places, minlength=len(questions.texts))
    return Questions(texts, questions.shares[places], (questions.weights / counts)[places])


def _masked(text: str, random: np.random.Generator) -> str:
    rate = MOST_MASKED * random.random()
    return CELL.sub(lambda cell: f"{cell[1] or cell[2]}?" if random.random() < rate else cell[0], text)


def balanced(questions: Questions, power: float) -> np.ndarray:
    """Return the probability that each question is drawn [texts]: a class's mass is its own to the power `power`.

    1 leaves the masses as they are, 0 makes all classes equal. A question of several classes counts for each by its
    share.
    """
    mass = questions.weights @ questions.shares
    factor = np.where(mass > 0, np.maximum(mass, 1e-300) ** (power - 1), 0.0)
    drawn: np.ndarray = questions.weights * (questions.shares @ factor)
    return drawn / drawn.sum()


def build_class_tensors(
    parts: Sequence[tuple[Questions, float]],
    classes: Sequence[str],
    power: float,
    tokenizer: Any,
    max_length: int,
    out: Path,
) -> dict[str, Any]:
    """Write the tensors of class rows; return their statistics.

    A row is prompt, `CLASSIFICATION:` and the name of the likeliest class. The loss of each of the name's tokens is
    held against the distribution of the next token over all names that begin as the row does; where names are of one
    token, that is the distribution over the classes.

    Args:
        parts: Questions, and the share of all draws that goes to them.
        classes: Class names.
        power: Balance of the classes, see `balanced`.
        tokenizer: Tokeniser of the base.
        max_length: Most tokens of a row.
        out: Safetensors file to write.

    Raises:
        UserError: A row is longer than `max_length`.
    """
    line, names = class_tokens(tokenizer, classes)
    texts = [text for questions, _ in parts for text in questions.texts]
    shares = np.concatenate([questions.shares for questions, _ in parts])
    draw = np.concatenate([share * balanced(questions, power) for questions, share in parts])
    prompts = encode(tokenizer, [prompt_text(tokenizer, text) for text in texts])
    likeliest = shares.argmax(axis=1)
    rows = [np.array([*prompt, *line, *names[c]]) for prompt, c in zip(prompts, likeliest, strict=True)]
    if (longest := max(map(len, rows))) > max_length:
        raise UserError(
            f"a class row has {longest} tokens, more than IOT_MAX_LENGTH={max_length}; raise it: no row is ever cut"
        )
    labels = [np.full(len(row), IGNORED) for row in rows]
    for row, label, c in zip(rows, labels, likeliest, strict=True):
        label[-len(names[c]) :] = row[-len(names[c]) :]
    nodes = {c: _nodes(names, int(c)) for c in np.unique(likeliest)}
    width = max(len(node) for path in nodes.values() for node in path)
    tokens, targets = [], []
    for c, share in zip(likeliest, shares, strict=True):
        for node in nodes[c]:
            whole = np.array([share[members].sum() for members in node.values()])
            tokens.append(np.pad(np.array(list(node)), (0, width - len(node))))
            targets.append(np.pad(whole / whole.sum(), (0, width - len(node))))
    flat = Tensors.of(list(zip(rows, labels, strict=True)))
    built = Tensors(
        flat.input_ids,
        flat.labels,
        flat.offsets,
        tokens=np.array(tokens, dtype=np.int32),
        targets=np.array(targets, dtype=np.float32),
        draw=draw.astype(np.float64),
    )
    built.save(out)
    return {
        "class_rows": len(rows),
        "class_rows_labelled": len(parts[0][0].texts),
        "class_row_longest": longest,
        "class_row_tokens_mean": round(float(built.lengths @ draw / draw.sum()), 2),
        "draws_by_class": dict(zip(classes, np.round(draw @ shares, 6).tolist(), strict=True)),
    }


def _nodes(names: Sequence[Sequence[int]], chosen: int) -> list[dict[int, list[int]]]:
    """Return for each token of a name the tokens possible there, each with the classes whose names go on with it.

    A name that ends where another goes on has no token there; the answers of explained rows teach its end.
    """
    path = list(names[chosen])
    found: list[dict[int, list[int]]] = []
    for depth in range(len(path)):
        node: dict[int, list[int]] = {}
        for number, name in enumerate(names):
            if len(name) > depth and list(name[:depth]) == path[:depth]:
                node.setdefault(name[depth], []).append(number)
        found.append(node)
    return found
