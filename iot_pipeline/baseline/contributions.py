"""Contributions of features to each class by LightGBM (TreeSHAP), and the paths of flows through a shallow tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from iot_pipeline.baseline.lightgbm import distinct_rows, places, train_model
from iot_pipeline.baseline.result import Floats, check_tables
from iot_pipeline.flows.matrix import Columns, numbered, words_of

DEPTHS = range(2, 7)
MOST_WORDS = 50  # values of a category that a tree may ask for


@dataclass(frozen=True)
class Contributions:
    """Class that LightGBM names for each flow [n], and contributions of features to every class [n, classes, features].

    A contribution is in units of the raw score; a class without training rows has none.
    """

    labels: list[str]
    values: Floats


@dataclass(frozen=True)
class TreePaths:
    """Class and path of each flow through a tree of this depth: (feature, low, high), low < value <= high, or None.

    Without both bounds: a category, whose value the tree asked for.
    """

    depth: int
    labels: list[str]
    paths: list[list[tuple[str, float | None, float | None]]]


def explain_lightgbm(
    train: pd.DataFrame, flows: pd.DataFrame, features: list[str], classes: list[str], seed: int
) -> Contributions:
    """Train the LightGBM baseline and return its classes and contributions for `flows`.

    Args:
        train: Rows with features and label.
        flows: flow_group and features.
        features: Feature columns.
        classes: All classes, in the order of the result.
        seed: Seed of LightGBM.
    """
    present = check_tables(train, flows, classes)
    values = np.zeros((len(flows), len(classes), len(features)))
    if len(present) == 1:
        return Contributions(present * len(flows), values)
    words = words_of(train, features)
    rows, codes, weights = distinct_rows(train, features, present)
    told = numbered(rows, features, words)
    model = train_model(told, codes, weights, len(present), places(features, words), seed=seed)
    table = numbered(flows, features, words)
    found = np.asarray(model.predict(table, pred_contrib=True)).reshape(len(flows), len(present), len(features) + 1)
    values[:, [classes.index(name) for name in present]] = found[:, :, :-1]
    return Contributions([present[code] for code in np.asarray(model.predict(table)).argmax(axis=1)], values)


def explain_tree(
    train: pd.DataFrame, validation: pd.DataFrame, flows: pd.DataFrame, features: list[str], seed: int
) -> TreePaths:
    """Train shallow trees, keep the depth with the highest macro-F1 on validation flows, and return the flows' paths.

    Args:
        train: Rows with features and label.
        validation: Features and label.
        flows: flow_group and features.
        features: Feature columns.
        seed: Seed of the trees.
    """
    from sklearn.metrics import f1_score
    from sklearn.tree import DecisionTreeClassifier

    present = sorted(set(train["label"]))
    rows, codes, weights = distinct_rows(train, features, present)
    columns = Columns.of(rows, features, MOST_WORDS)
    tables = [columns.matrix(part) for part in (rows, validation, flows)]
    best: tuple[float, DecisionTreeClassifier] | None = None
    for depth in DEPTHS:
        # Roots of counts: with rows as they fall a shallow tree would know the frequent classes alone.
        tree = DecisionTreeClassifier(max_depth=depth, random_state=seed).fit(tables[0], codes, np.sqrt(weights))
        told = [present[code] for code in tree.predict(tables[1])]
        score = float(f1_score(validation["label"], told, average="macro", zero_division=0))
        best = (score, tree) if best is None or score > best[0] else best
    assert best is not None
    tree = best[1]
    labels = [present[code] for code in tree.predict(tables[2])]
    return TreePaths(int(tree.max_depth), labels, [_path(tree.tree_, row, columns.names) for row in tables[2]])


def _path(
    tree: object, row: npt.NDArray[np.float32], columns: Sequence[tuple[str, str]]
) -> list[tuple[str, float | None, float | None]]:
    """Return the conditions on a flow's way through a tree, those of one feature merged, in order of first use.

    A category has no bounds: the tree asked for its value. `columns` are those of the tree (`flows.matrix.Columns`).
    """
    bounds: dict[str, tuple[float | None, float | None]] = {}
    node = 0
    while tree.children_left[node] >= 0:  # type: ignore[attr-defined]
        place, threshold = int(tree.feature[node]), float(tree.threshold[node])  # type: ignore[attr-defined]
        name, word = columns[place]
        low, high = bounds.get(name, (None, None))
        left = row[place] <= threshold
        bounds[name] = (None, None) if word else (low, threshold) if left else (threshold, high)
        node = int((tree.children_left if left else tree.children_right)[node])  # type: ignore[attr-defined]
    return [(name, low, high) for name, (low, high) in bounds.items()]
