"""Label scoring: log-probabilities of class names behind a prompt, from the head rows of their tokens alone.

A softmax over the vocabulary divides by one number for each prefix of the names. At the root all names share it, and
it cancels when scores are normalised over the classes: there the rows of the label tokens are the whole head. Behind
the first token of a longer name the number differs from prefix to prefix, so it is computed from the full head.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.models.last_layer import fits, hidden_at
from iot_pipeline.models.tokenizer import class_tokens

Prefix = tuple[int, ...]
Node = dict[int, list[int]]  # of the label tree: next token -> numbers of the names that continue so
Tree = dict[Prefix, Node]
STOP = -1  # token of a node: this name ends here though another continues
# Shorter common prefixes are read again: copying their keys and values to every row costs as much.
LEAST_SHARED = 16


def label_tree(names: Sequence[Sequence[int]]) -> Tree:
    """Build the label tree: token prefix -> {next token, or STOP: names that have it there}.

    names        tree
    0: 5         ()   -> {5: [0, 1], 7: [2]}
    1: 5 9       (5,) -> {9: [1], STOP: [0]}
    2: 7
    """
    tree: Tree = {}
    for number, name in enumerate(names):
        for depth, token in enumerate(name):
            tree.setdefault(tuple(name[:depth]), {}).setdefault(token, []).append(number)
    for number, name in enumerate(names):
        if tuple(name) in tree:
            tree[tuple(name)][STOP] = [number]
    return tree


def onward(node: Node) -> list[int]:
    """Return the tokens by which names continue from a node."""
    return [token for token in node if token != STOP]


def name_scores(tree: Tree, logs: Mapping[Prefix, np.ndarray], classes: int) -> np.ndarray:
    """Sum the log-probabilities of the names' tokens, float64 [rows, classes].

    `logs`: for each prefix of the tree, those of `onward` of its node, float64 [rows, tokens]. A name that another
    continues gets the probability that the other does not.
    """
    out = np.zeros((len(logs[()]), classes))
    for prefix, node in tree.items():
        tokens = onward(node)
        for place, token in enumerate(tokens):
            out[:, node[token]] += logs[prefix][:, [place]]
        if STOP in node and tokens:
            goes_on = np.exp(logs[prefix]).sum(axis=1, keepdims=True).clip(max=1 - 1e-12)
            out[:, node[STOP]] += np.log1p(-goes_on)
    return out


def shared_prefix(rows: Sequence[list[int]]) -> list[int]:
    """Return the tokens that all rows begin with, but never a whole row."""
    if not rows:
        return []
    low, high, most = min(rows), max(rows), min(map(len, rows)) - 1  # what these two share, all between them do
    same = 0
    while same < most and low[same] == high[same]:
        same += 1
    return list(low[:same])


def buckets(lengths: Sequence[int], batch_tokens: int, equal: bool = False) -> list[list[int]]:
    """Group rows of similar, or equal, length into batches of at most `batch_tokens` padded tokens."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        fitting = batches and lengths[row] * (len(batches[-1]) + 1) <= batch_tokens
        if fitting and not (equal and lengths[row] != lengths[batches[-1][0]]):
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


class Labels(NamedTuple):
    """Classes to score: the tokens that every class line begins with, the label tree of the rest, their number."""

    begun: list[int]
    tree: Tree
    classes: int

    @classmethod
    def of(cls, tokenizer: Any, classes: Sequence[str]) -> "Labels":
        """Encode class names; UserError if there are none, or one is given twice."""
        if not classes or len(set(classes)) != len(classes):
            raise UserError("classes to score: give at least one, and each once")
        begun, names = class_tokens(tokenizer, classes)
        return cls(begun, label_tree(names), len(classes))


class Scorer(Protocol):
    """Computes log-probabilities of a tree's tokens for batches of token rows."""

    hidden: int  # size of the states

    def logs(self, ids: list[list[int]], tree: Tree) -> tuple[dict[Prefix, np.ndarray], np.ndarray]:
        """Return the log-probabilities of `onward` of each node, float64 [rows, tokens], and the states of the rows.

        Those of the root may lack a constant a row, unless a name ends there. States are what the head reads at the
        label, float32 [rows, hidden].
        """


@dataclass(frozen=True)
class Options:
    """Ways of scoring that change time alone; each can be switched off to measure what it brings."""

    head_rows: bool = True  # False: the whole head and a softmax over the vocabulary at the root too
    reuse_prefix: bool = True  # False: the prompts' common beginning is read with every row
    sort_lengths: bool = True  # False: rows are batched as they come, if no sliding window forbids it
    last_layer: bool = True  # False: the last layer computes all positions
    read_once: bool = True  # False: equal texts are read as often as they are given


def score_rows(
    scorer: Scorer,
    ids: Sequence[list[int]],
    labels: Labels,
    batches: Sequence[list[int]],
    tell: Callable[[int], None] | None = None,
    states: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Score token rows: log-probability of each class, normalised over the classes, float64 [rows, classes].

    The second array has the states of the rows, float32 [rows, hidden size]; without `states` it is empty.

    Args:
        scorer: What computes.
        ids: Token rows, each ending with `labels.begun`.
        labels: Classes.
        batches: Places of the rows of each batch.
        tell: Called with the number of finished rows after each batch.
        states: True to keep the states.
    """
    scores, done = np.empty((len(ids), labels.classes)), 0
    kept = np.empty((len(ids), scorer.hidden if states else 0), dtype=np.float32)
    for rows in batches:
        logs, hidden = scorer.logs([ids[row] for row in rows], labels.tree)
        if states:
            kept[rows] = hidden
        scores[rows] = name_scores(labels.tree, logs, labels.classes)
        done += len(rows)
        if tell:
            tell(done)
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True), kept


@dataclass
class TorchScorer:
    """Scorer by a transformers model. `prefix`: tokens that all rows begin with, read once."""

    model: Any
    pad: int
    device: Any
    options: Options = field(default_factory=Options)
    prefix: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read the prefix, if it is long enough and its cache can be copied."""
        inner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        self.body = getattr(inner, inner.base_model_prefix)
        self.head = self.model.get_output_embeddings()
        self.hidden = self.model.config.get_text_config().hidden_size
        self.cache: Any = None
        if self.options.reuse_prefix and len(self.prefix) >= LEAST_SHARED:
            cache = self.body(input_ids=self._tensor([self.prefix]), use_cache=True).past_key_values
            self.cache = cache if _grows(cache) else None

    def logs(self, ids: list[list[int]], tree: Tree) -> tuple[dict[Prefix, np.ndarray], np.ndarray]:
        """Return the log-probabilities of `onward` of each node, and the rows' states; see `Scorer`."""
        deeper = [prefix for prefix in tree if prefix]
        skipped = len(self.prefix) if self.cache is not None else 0
        rows = [row[skipped:] for row in ids]
        widest = max(map(len, rows))
        tokens = self._tensor([row + [self.pad] * (widest - len(row)) for row in rows])
        lengths = self._tensor([len(row) for row in rows])
        ends = lengths[:, None] - 1 == self._tensor(range(widest))
        made = None
        if deeper or self.cache is not None or not (self.options.last_layer and fits(self.body)):
            cache = _copied(self.cache, len(rows)) if self.cache is not None else None
            made = self.body(input_ids=tokens, past_key_values=cache, use_cache=cache is not None or bool(deeper))
            hidden = made.last_hidden_state[ends]
        else:
            hidden = hidden_at(self.body, tokens, ends)
        found: dict[Prefix, np.ndarray] = {
            (): self._at(hidden, tree[()], not self.options.head_rows or STOP in tree[()])
        }
        if made is not None and deeper:
            found |= self._behind(made.past_key_values, lengths + skipped, deeper, tree)
        return found, hidden.float().cpu().numpy()

    def _at(self, hidden: Any, node: Node, normalised: bool) -> np.ndarray:
        """Return the logits of a node's tokens, or their log-probabilities over the vocabulary if `normalised`."""
        import torch

        tokens = self._tensor(onward(node))
        if not normalised and type(self.head) is torch.nn.Linear:
            bias = None if self.head.bias is None else self.head.bias[tokens].float()
            logits = torch.nn.functional.linear(hidden.float(), self.head.weight[tokens].float(), bias)
        else:
            whole = self.head(hidden).float()
            logits = whole[:, tokens] - (whole.logsumexp(-1, keepdim=True) if normalised else 0.0)
        return np.asarray(logits.double().cpu().numpy())

    def _behind(self, cache: Any, lengths: Any, prefixes: list[Prefix], tree: Tree) -> dict[Prefix, np.ndarray]:
        """Run each prefix of a name after every prompt, on a copy of the prompts' cached keys and values.

        Padding separates a prompt from its continuation: it is masked, and positions continue from the prompt.

            tokens     p p p - x y        p: prompt, -: padding, x y: prefix of a name
            mask       1 1 1 0 1 1
            positions  0 1 2   3 4
        """
        import torch

        rows, width = len(lengths), int(lengths.max())
        seen = torch.arange(width, device=self.device)[None, :] < lengths[:, None]
        groups: dict[Prefix, list[Prefix]] = {}
        for prefix in prefixes:  # one pass serves every prefix of its leaf
            leaf = max((other for other in prefixes if other[: len(prefix)] == prefix), key=len)
            groups.setdefault(leaf, []).append(prefix)
        found = {}
        for leaf, on_the_way in groups.items():
            new = torch.ones((rows, len(leaf)), dtype=torch.bool, device=self.device)
            hidden = self.body(
                input_ids=self._tensor(leaf).expand(rows, -1),
                attention_mask=torch.cat([seen, new], dim=1).long(),
                position_ids=lengths[:, None] + torch.arange(len(leaf), device=self.device),
                past_key_values=_copied(cache),
                use_cache=True,
            ).last_hidden_state
            for prefix in on_the_way:
                found[prefix] = self._at(hidden[:, len(prefix) - 1], tree[prefix], True)
        return found

    def _tensor(self, values: Any) -> Any:
        import torch

        return torch.tensor(list(values), dtype=torch.long, device=self.device)


def _grows(cache: Any) -> bool:
    """True if all layers of a cache grow by concatenation: an update makes new tensors and leaves the old ones."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)


def _copied(cache: Any, rows: int = 1) -> Any:
    """Copy a cache, with each row repeated `rows` times; growing layers share their tensors with the copy."""
    if _grows(cache):
        own = copy.copy(cache)
        own.layers = [copy.copy(layer) for layer in cache.layers]
    else:
        own = copy.deepcopy(cache)
    if rows > 1:
        own.batch_repeat_interleave(rows)
    return own
