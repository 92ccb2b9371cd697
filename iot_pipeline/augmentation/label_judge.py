"""Judge of varied flows: models that know neither teacher nor student, nor the flow group that they judge.

`python -m iot_pipeline.augmentation.label_judge` is the process of a JudgeApart.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iot_pipeline.baseline.lightgbm import train_model
from iot_pipeline.flows.dataset import Rows
from iot_pipeline.flows.matrix import numbered_rows
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import connect, identifier, scan

FOLDS = 5
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LabelJudge:
    """One model for each fold of flow groups, trained on the other folds, and the classes that it knows.

    A fold without a model, because the others hold fewer than two classes, vouches for no label. `shares` are those of
    each label among the rows of its flow group, where the group has several: no model has seen that conflict.
    """

    models: Sequence[tuple[Any, list[str]] | None]
    shares: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def agreement(self, group: str, label: str) -> float:
        """Return the share of a flow group's rows that have this label."""
        return self.shares.get((group, label), 1.0)

    def probability(self, groups: Sequence[str], labels: Sequence[str], values: Floats) -> Floats:
        """Return the probability of each label [n] for values [n, features] that come from these flow groups."""
        found, folds = np.zeros(len(groups)), np.array([fold_of(group) for group in groups])
        for fold, trained in enumerate(self.models):
            rows = np.flatnonzero(folds == fold).tolist()
            if trained is None or not rows:
                continue
            model, classes = trained
            column = {name: place for place, name in enumerate(classes)}
            known = [row for row in rows if labels[row] in column]
            if known:
                all_classes = model.predict(values[known], num_threads=1)
                found[known] = all_classes[range(len(known)), [column[labels[row]] for row in known]]
        return found


def fold_of(group: str) -> int:
    """Return the fold of a flow group, by its SHA-256."""
    return int(group[:8], 16) % FOLDS


def fit_judge(rows: Rows, flows: Path, spec: DatasetSpec, seed: int) -> LabelJudge:
    """Train the judge of some rows on these rows alone, which are of the train side.

    Args:
        rows: Rows of a track.
        flows: flows.parquet.
        spec: Spec of the data set, with the values of its categories.
        seed: Seed of LightGBM.
    """
    names = ", ".join(f"f.{identifier(name)}" for name in spec.feature_names)
    query = f"""
        SELECT r.flow_group, r.label, {names}, count(*) AS rows
        FROM ({rows.query}) r JOIN {scan(flows)} f USING (row_id) GROUP BY ALL ORDER BY ALL"""
    with connect(rows.file, flows) as connection:
        table = connection.execute(query).to_arrow_table()
    groups, listed = table["flow_group"].to_pylist(), table["label"].to_pylist()
    folds, labels = np.array([fold_of(group) for group in groups]), np.array(listed, dtype=object)
    values, words = numbered_rows(table, spec), [spec.feature_names.index(name) for name in spec.category_names]
    weights = table["rows"].to_numpy().astype(np.float64)
    models: list[tuple[Any, list[str]] | None] = []
    for fold in range(FOLDS):
        others = folds != fold
        present = [name for name in spec.classes if name in set(labels[others])]
        if len(present) < 2:
            models.append(None)
            continue
        codes = np.array([present.index(label) for label in labels[others]])
        # With two threads on busy cores LightGBM waits more than it computes: 146 s in place of 3 s for 10,000 rows.
        model = train_model(
            values[others], codes, weights[others], len(present), categories=words, seed=seed, num_threads=1
        )
        models.append((model, present))
    return LabelJudge(models, label_shares(zip(groups, listed, table["rows"].to_pylist(), strict=True)))


def label_shares(counted: Iterable[tuple[str, str, int]]) -> dict[tuple[str, str], float]:
    """Return the share of each label among the rows of its flow group, for groups that have several labels.

    `counted` are (flow group, label, rows).
    """
    rows, total = Counter[tuple[str, str]](), Counter[str]()
    for group, label, number in counted:
        rows[group, label] += number
        total[group] += number
    return {pair: number / total[pair[0]] for pair, number in rows.items() if number < total[pair[0]]}


class JudgeApart:
    """Judge in a process of its own, with which LightGBM's 130 MiB end; it ends when its parent does.

    Takes the arguments of `fit_judge`.
    """

    def __init__(self, rows: Rows, flows: Path, spec: DatasetSpec, seed: int) -> None:
        command = [sys.executable, "-m", "iot_pipeline.augmentation.label_judge"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self._shares = self._ask(rows, flows, spec, seed)
        except BaseException:
            self.close()
            raise

    def agreement(self, group: str, label: str) -> float:
        """Return the share of a flow group's rows that have this label."""
        return float(self._shares.get((group, label), 1.0))

    def probability(self, groups: Sequence[str], labels: Sequence[str], values: Floats) -> Floats:
        """Return the probability of each label (`LabelJudge`)."""
        found: Floats = self._ask(groups, labels, values)
        return found

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, *question: Any) -> Any:
        questions, answers = self._process.stdin, self._process.stdout
        assert questions is not None and answers is not None
        pickle.dump(question, questions)
        questions.flush()
        try:
            return pickle.load(answers)
        except EOFError:
            raise RuntimeError(f"the judge of varied flows ended with code {self._process.wait()}") from None


def serve() -> None:
    """Train the judge that the first question asks for, and answer the others until there are none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, interrupted too, closes the questions
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    judge = fit_judge(*pickle.load(questions))
    answer: Any = judge.shares
    while True:
        pickle.dump(answer, answers)
        answers.flush()
        try:
            answer = judge.probability(*pickle.load(questions))
        except EOFError:
            return


if __name__ == "__main__":
    serve()
