"""AutoGluon baseline on the student's training rows, validated on flows that share no group with the rest."""

from __future__ import annotations

import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from iot_pipeline.baseline.result import BaselineResult, Floats, check_tables, spread
from iot_pipeline.errors import UserError
from iot_pipeline.flows.matrix import words_of

Preset = Literal["fixed", "medium_quality", "best_quality"]
# Rounds, trees and seeds are fixed and there is no time limit, so the same rows give the same models.
FIXED_MODELS: dict[str, dict[str, Any]] = {
    "GBM": {
        "num_boost_round": 250,
        "learning_rate": 0.05,
        "min_data_in_leaf": 5,
        "min_sum_hessian_in_leaf": 0.1,  # without it, leaves diverge under heavy weights
        "deterministic": True,
        "force_row_wise": True,
    },
    "XGB": {"n_estimators": 200, "learning_rate": 0.1},
    "XT": {"n_estimators": 200},
    "RF": {"n_estimators": 200},
}
VALIDATION_SHARE = 0.15
IMPORTANCE_FLOWS = 400


@dataclass(frozen=True)
class AutoMLConfig:
    """AutoGluon configuration: `fixed` ignores `seconds` and is reproducible; the time-limited presets are not."""

    preset: Preset = "fixed"
    seconds: float = 60
    seed: int = 42
    cores: int = 2

    @property
    def name(self) -> str:
        """Name of the baseline; `automl` is always the reproducible one."""
        return "automl" if self.preset == "fixed" else f"automl_{self.preset}"


def run_automl(
    train: pd.DataFrame,
    test: pd.DataFrame,
    features: list[str],
    classes: list[str],
    config: AutoMLConfig,
    log: Callable[[str], None] | None = None,
) -> BaselineResult:
    """Train AutoGluon on `train` and predict `test`.

    15 % of the train flow groups, with equal rows counted once, select and weight the models; with `fixed`, the
    selected ones are then refitted on all rows. A class that is absent from `train` gets almost no probability; with a
    single class, that class is predicted. The report has models with validation log-loss, importances (rise of the
    log-loss when a feature is shuffled, on validation flows), the configuration, and `reproducible`.

    Args:
        train: Rows with flow_group, features and label, duplicates included.
        test: flow_group and features, one representative per distinct flow (may combine calibration and test).
        features: Feature columns.
        classes: All classes, in the order of the result.
        config: Preset, time limit, seed and cores.
        log: Receives progress messages.

    Raises:
        UserError: The time limit did not suffice for one model.
    """
    started = time.perf_counter()
    present = check_tables(train, test, classes)
    report: dict[str, Any] = {
        "train_rows": len(train),
        "train_groups": int(train["flow_group"].nunique()),
        "classes_trained": present,
        "row_weight": "square root of the number of equal rows",
        "config": asdict(config),
        "reproducible": config.preset == "fixed",
        "models": [],
        "importances": {},
    }
    # Equal rows are passed once, which is several times faster, weighted by the square root of their number: the order
    # of labels within a conflict stays, and a flow of 30,000 rows does not dominate (chosen on validation and
    # calibration sides: no worse than the number itself by rows, better by distinct flows).
    data = train.groupby(["flow_group", *features, "label"], sort=False).size().rename("weight").reset_index()
    data["weight"] = np.sqrt(data["weight"])
    words = words_of(train, features)
    data = as_categories(data, words)
    report["distinct_train_rows"] = len(data)
    held = validation_rows(data["flow_group"], data["label"], config.seed)
    if len(present) == 1 or not held.any():
        report["note"] = "too few classes or flows to train and choose models; the class shares are predicted"
        shares = train["label"].value_counts(normalize=True).reindex(present).to_numpy(np.float64)
        probabilities: Floats = np.tile(shares, (len(test), 1)).astype(np.float64)
        timings: dict[str, Any] = {}
    else:
        data = data.drop(columns="flow_group")
        with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="automl-") as folder:
            warnings.filterwarnings("ignore", module="sklearn")  # about small forests cut off by the time limit
            probabilities, details, timings = _fit_predict(
                folder, data[~held], data[held], as_categories(test[features], words), present, config, log
            )
        report |= details
    timings["total_s"] = time.perf_counter() - started
    return BaselineResult(
        name=config.name,
        group_ids=test["flow_group"].tolist(),
        log_probs=spread(probabilities, present, classes),
        report=report,
        timings=timings,
    )


def as_categories(table: pd.DataFrame, words: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return a table whose categories have the type of one, so that learners take them as they are.

    A text column might be read as prose. A value that is not among `words` is missing.
    """
    return table.astype({name: pd.CategoricalDtype(list(known)) for name, known in words.items()})


def validation_rows(groups: pd.Series, labels: pd.Series, seed: int) -> npt.NDArray[np.bool_]:
    """Return a mask [n] of the rows of about 15 % of the flow groups of each class, never all groups of a class.

    A group counts for the class of its first row; a class with fewer than 4 groups contributes none.
    """
    firsts = ~groups.duplicated()
    table = pd.DataFrame({"group": groups[firsts], "label": labels[firsts]}).sort_values(["label", "group"])
    rng = np.random.default_rng(seed)
    chosen: list[str] = []
    for _, members in table.groupby("label", sort=True)["group"]:
        if len(members) >= 4:
            take = max(1, round(VALIDATION_SHARE * len(members)))
            chosen += rng.choice(members.to_numpy(dtype=object), take, replace=False).tolist()
    held = groups.isin(chosen).to_numpy()
    # A class whose rows are all in selected groups of other classes must stay in training.
    lost = set(labels) - set(labels[~held])
    return held & ~groups.isin(set(groups[labels.isin(lost)])).to_numpy() if lost else held


def _fit_predict(
    folder: str,
    training: pd.DataFrame,
    validation: pd.DataFrame,
    target: pd.DataFrame,
    present: list[str],
    config: AutoMLConfig,
    log: Callable[[str], None] | None,
) -> tuple[Floats, dict[str, Any], dict[str, Any]]:
    """Fit, refit and predict: probabilities [n, len(present)], report details, timings."""
    import autogluon.tabular
    from autogluon.tabular import TabularPredictor

    predictor = TabularPredictor(
        "label",
        problem_type="multiclass",
        eval_metric="log_loss",
        path=folder,
        verbosity=0,
        sample_weight="weight",
        weight_evaluation=False,  # models are selected by distinct flows
        learner_kwargs={"label_count_threshold": 1},  # by default rare classes are dropped
    )
    marks = {"start": time.perf_counter()}
    _fit(predictor, training, validation, config)
    marks["fitted"] = time.perf_counter()
    board = predictor.leaderboard().sort_values("model")
    best = predictor.model_best
    if log is not None:
        log(f"{config.name}: {len(board)} models trained, best {best}")
    importances = _importances(predictor, best, validation, config.seed)
    marks["explained"] = time.perf_counter()
    used = predictor.refit_full(best).get(best, best) if config.preset == "fixed" else best
    marks["refitted"] = time.perf_counter()
    probabilities = predictor.predict_proba(target, model=used)[present].to_numpy(np.float64)
    marks["predicted"] = time.perf_counter()
    details = {
        "models": [
            {"model": str(row.model), "validation_log_loss": -float(row.score_val)} for row in board.itertuples()
        ],
        "best": best,
        "predicted_with": used,
        "validation_flows": len(validation),
        "importances": importances,
        "hyperparameters": FIXED_MODELS if config.preset == "fixed" else None,
        "version": autogluon.tabular.__version__,
    }
    timings: dict[str, Any] = {f"{b}_s": marks[b] - marks[a] for a, b in itertools.pairwise(marks)}
    timings["models_s"] = {str(row.model): float(row.fit_time_marginal) for row in board.itertuples()}
    return probabilities, details, timings


def _fit(predictor: Any, training: pd.DataFrame, validation: pd.DataFrame, config: AutoMLConfig) -> None:
    """Fit the predictor by the configuration; UserError if a time limit leaves no model."""
    common: dict[str, Any] = {"tuning_data": validation, "num_gpus": 0, "num_cpus": config.cores}
    if config.preset == "fixed":
        options = {name: dict(values) for name, values in FIXED_MODELS.items()}
        predictor.fit(training, hyperparameters=options, num_bag_folds=0, num_stack_levels=0, **common)
        return
    if config.preset == "best_quality":
        common |= {
            "use_bag_holdout": True,
            "dynamic_stacking": False,
            "ag_args_ensemble": {"fold_fitting_strategy": "sequential_local"},
        }
    try:
        predictor.fit(
            training, presets=config.preset, time_limit=config.seconds, excluded_model_types=["FASTAI"], **common
        )
    except (RuntimeError, AssertionError) as error:  # no model finished in time, or none is left
        why = str(error).partition(". ")[0]
        raise UserError(
            f"AutoGluon's {config.preset} trained no model in {config.seconds} s ({why}): raise IOT_AUTOML_SECONDS, or"
            " set IOT_AUTOML_PRESET=fixed"
        ) from error


def _importances(predictor: Any, model: str, validation: pd.DataFrame, seed: int) -> dict[str, float]:
    """Return the rise of the mean log-loss on up to 400 validation flows when one feature is shuffled."""
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(len(validation))[:IMPORTANCE_FLOWS])
    sample = validation.iloc[kept].reset_index(drop=True)
    labels, values = sample["label"], sample.drop(columns=["label", "weight"])
    copies = [values, *(values.assign(**{name: _shuffled(values[name], rng)}) for name in values.columns)]
    # One call for all copies pays the fixed cost of a prediction once.
    whole = predictor.predict_proba(pd.concat(copies, ignore_index=True), model=model)
    columns = {name: place for place, name in enumerate(whole.columns)}
    true = np.tile(labels.map(columns).to_numpy(int), len(copies))
    loss = -np.log(np.maximum(whole.to_numpy(np.float64)[np.arange(len(true)), true], 1e-6))
    means = loss.reshape(len(copies), len(sample)).mean(axis=1)
    return {str(name): float(means[1 + i] - means[0]) for i, name in enumerate(values.columns)}


def _shuffled(column: pd.Series, rng: np.random.Generator) -> pd.Series:
    """Return a column in another order, of the same type."""
    return pd.Series(rng.permutation(column.to_numpy()), column.index, dtype=column.dtype)
