"""Class probabilities of the baseline for the student to learn from: out of fold where it was trained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from iot_pipeline.baseline.automl import AutoMLConfig, run_automl
from iot_pipeline.baseline.result import Floats
from iot_pipeline.errors import UserError

FOLDS = 5


def cross_fitted(
    train: pd.DataFrame,
    pool: pd.DataFrame,
    features: list[str],
    classes: list[str],
    config: AutoMLConfig,
    log: Callable[[str], None] | None = None,
) -> tuple[list[str], Floats]:
    """Predict every flow of the train pool by AutoML models that never saw that flow's label.

    A labelled flow is predicted by the model of the other FOLDS - 1 folds, which are drawn by flow group; the others
    are predicted by the model of all labelled rows.

    Args:
        train: Labelled rows with flow_group, features and label, duplicates included.
        pool: One row for each distinct flow of the train pool: flow_group and features.
        features: Feature columns.
        classes: All classes, in the order of the result.
        config: AutoML's configuration.
        log: Receives progress messages.

    Returns:
        Flow groups, and their normalised log-probabilities [flows, classes].

    Raises:
        UserError: There are fewer labelled flows than folds.
    """
    known = np.array(sorted(set(train["flow_group"])), dtype=object)
    if len(known) < FOLDS:
        raise UserError(f"IOT_DISTIL needs at least {FOLDS} distinct labelled flows; the stage has {len(known)}")
    folds = dict(zip(known, np.random.default_rng(config.seed).permutation(len(known)) % FOLDS, strict=True))
    fold_of_row = train["flow_group"].map(folds).to_numpy()
    fold_of_flow = pool["flow_group"].map(folds)
    parts = [(train, pool[fold_of_flow.isna()])]
    parts += [(train[fold_of_row != fold], pool[fold_of_flow == fold]) for fold in range(FOLDS)]
    groups: list[str] = []
    found: list[Floats] = []
    for number, (rows, flows) in enumerate(parts):
        if flows.empty:
            continue
        if log is not None:
            which = f"without fold {number} of {FOLDS}" if number else "of all labelled rows"
            log(f"{config.name} {which} predicts {len(flows):,} flows")
        result = run_automl(rows, flows, features, classes, config)
        groups += result.group_ids
        found.append(result.log_probs)
    return groups, np.concatenate(found)


def pseudo_labelled(
    train: pd.DataFrame, pool: pd.DataFrame, found: tuple[list[str], Floats], classes: list[str]
) -> pd.DataFrame:
    """Return the labelled rows, followed by one row for each unlabelled flow under its likeliest class.

    Args:
        train: Labelled rows.
        pool: Distinct flows of the train pool, with the columns of `train` but the label.
        found: Flow groups and log-probabilities of the pool's flows.
        classes: Classes in their order.
    """
    groups, log_probs = found
    likeliest = dict(zip(groups, np.array(classes, dtype=object)[log_probs.argmax(axis=1)], strict=True))
    new = pool[~pool["flow_group"].isin(set(train["flow_group"]))]
    columns = [name for name in train.columns if name in new.columns]
    guessed = new[columns].assign(label=new["flow_group"].map(likeliest))
    return pd.concat([train[[*columns, "label"]], guessed], ignore_index=True)
