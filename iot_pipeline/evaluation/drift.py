"""Drift: do new flows look like those of the train pool? PSI and a two-sample test for each feature, and for classes.

Tests take rows as independent, which repeats of a flow are not, and many rows make any difference significant. So the
population stability index says how far a feature has moved, and the test only whether chance explains it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.study import holm
from iot_pipeline.evaluation.views import Floats
from iot_pipeline.flows.serialise import printer
from iot_pipeline.flows.texts import FlowTextWriter, RankTable

BINS = 10  # of equal mass in the train pool, for PSI; beside them one on each side of its range
EDGES = 1024  # values of the train pool at which the two distributions are compared
MOVED, FAR = 0.1, 0.25  # PSI: below the first none to speak of, from the second on a large shift (Siddiqi 2006)
LEVEL = 0.01  # of the corrected tests
FLOOR = 1e-4  # share of an empty bin
MOST_NAMED = 5  # features in a sentence
NEW = ""  # stands for all values of a category that the train pool lacks: a stream may have any number of them


@dataclass
class Drift:
    """Counts of new flows beside the train pool that a writer of flow texts was fitted on; memory is bounded.

    The Kolmogorov-Smirnov statistic is exact where a feature has at most EDGES distinct values in the train pool, else
    at most 1 / EDGES too small.
    """

    writer: FlowTextWriter
    rows: float = 0.0
    classes: Counter[str] = field(default_factory=Counter)
    unknown: float = 0.0
    judged: float = 0.0
    _counts: dict[str, Floats] = field(default_factory=dict)
    _words: dict[str, Counter[str]] = field(default_factory=dict)
    _found_edges: dict[str, Floats] = field(default_factory=dict)

    def add(
        self,
        flows: Any,
        classes: Sequence[str] | None = None,
        unknown: Sequence[bool] | None = None,
        rows: Sequence[float] | None = None,
    ) -> None:
        """Count new flows.

        Args:
            flows: Table with the features [n].
            classes: Class of each flow, as the student names it; None: not counted.
            unknown: True for a flow of no known class; None: not judged.
            rows: Rows that each flow stands for; None: one each.
        """
        weights = np.ones(len(flows)) if rows is None else np.asarray(rows, dtype=np.float64)
        self.rows += float(weights.sum())
        show = printer(self.writer.spec)
        for feature in self.writer.spec.features:
            given = np.asarray(flows[feature.name], dtype=object if feature.is_category else np.float64)
            distinct, inverse = np.unique(given, return_inverse=True)
            mass, shown = np.bincount(inverse, weights=weights), [show(feature.name, value) for value in distinct]
            if feature.is_category:
                words, known = self._words.setdefault(feature.name, Counter()), self._ranks.counts[feature.name]
                for word, count in zip(shown, mass, strict=True):
                    words[word if word in known else NEW] += count
                continue
            edges, printed = self._edges(feature.name), np.array([float(text) for text in shown])
            counts = self._counts.setdefault(feature.name, np.zeros(2 * len(edges) + 1))
            places = np.searchsorted(edges, printed, side="left") + np.searchsorted(edges, printed, side="right")
            np.add.at(counts, places, mass)  # 2 i: below edge i, 2 i + 1: at it
        for name, weight in zip(classes or (), weights, strict=False):
            self.classes[name] += weight
        if unknown is not None:
            self.unknown += float(weights[np.asarray(unknown, dtype=bool)].sum())
            self.judged += float(weights.sum())

    def report(self, class_rows: Mapping[str, float] | None = None, alarm: float | None = None) -> dict[str, Any]:
        """Report the drift of the flows counted so far as JSON values.

        Args:
            class_rows: Rows of each class that the student names on flows like those that it learnt from; None: class
                shares are not compared.
            alarm: Share of flows of known classes that is called unknown.

        Returns:
            rows; features: [{feature, kind, psi, test, statistic, p, p_corrected, shift}], the farthest first; moved:
            names of those that moved; classes, unknown: the same for class shares, and the share of unknown flows
            beside `alarm` with a binomial test, or None.

        Raises:
            UserError: No flow was counted.
        """
        if not self.rows:
            raise UserError("drift: no flow was given")
        found = [self._category(name) for name in self._words] + [self._number(name) for name in self._counts]
        for row, p in zip(found, holm([row["p"] for row in found]), strict=True):
            row |= {"p_corrected": p, "shift": shift(row["psi"], p)}
        found.sort(key=lambda row: (-row["psi"], row["feature"]))
        return {
            "rows": self.rows,
            "train_rows": self._ranks.rows,
            "features": found,
            "moved": [row["feature"] for row in found if row["shift"] != "none"],
            "classes": self._classes(class_rows) if class_rows and self.classes else None,
            "unknown": self._unknown(alarm) if alarm and self.judged else None,
        }

    @property
    def _ranks(self) -> RankTable:
        assert self.writer.ranks is not None  # every writer that was saved has them
        return self.writer.ranks

    def _edges(self, name: str) -> Floats:
        """Values of the train pool, all, or EDGES of equal mass and the least; found once for all batches of flows."""
        if name not in self._found_edges:
            values, upto = np.array(self._ranks.values[name]), np.array(self._ranks.cumulative[name])
            if len(values) > EDGES:
                places = np.searchsorted(upto, np.linspace(0, upto[-1], EDGES + 1)[1:])
                values = values[np.unique(np.minimum([0, *places], len(values) - 1))]
            self._found_edges[name] = values
        return self._found_edges[name]

    def _number(self, name: str) -> dict[str, Any]:
        """Compare a number by the Kolmogorov-Smirnov test."""
        from scipy.stats import kstwobign

        values, upto, edges = self._ranks.values[name], np.array(self._ranks.cumulative[name]), self._edges(name)
        place, below = np.searchsorted(values, edges), np.array([0, *upto])
        known, known_below = below[place + 1] / upto[-1], below[place] / upto[-1]
        counted = np.cumsum(self._counts[name]) / self.rows
        new, new_below = counted[1::2], counted[:-1:2]
        statistic = float(max(np.abs(known - new).max(), np.abs(known_below - new_below).max()))
        size = self.rows * upto[-1] / (self.rows + upto[-1])
        cuts = np.unique([*np.searchsorted(known, np.arange(1, BINS) / BINS - 1e-12), len(edges) - 1])
        # What is below the least value and above the greatest has bins of its own: a feature that is constant in the
        # train pool has no others.
        shares = [np.diff([0.0, under[0], *of[cuts], 1.0]) for of, under in ((known, known_below), (new, new_below))]
        p = float(kstwobign.sf(statistic * size**0.5))
        return _row(name, "number", psi(*shares), "Kolmogorov-Smirnov", statistic, p)

    def _category(self, name: str) -> dict[str, Any]:
        """Compare a category by the chi-square test; all values that the train pool lacks are one more."""
        known, new = self._ranks.counts[name], self._words[name]
        words = sorted({*known, *new})
        counts = np.array([[known.get(word, 0) for word in words], [new.get(word, 0) for word in words]], np.float64)
        return _row(name, "category", psi(*(of / of.sum() for of in counts)), "chi-square", *chi_square(counts))

    def _classes(self, class_rows: Mapping[str, float]) -> dict[str, Any]:
        """Compare the shares of the classes."""
        names = list(dict.fromkeys([*class_rows, *self.classes]))
        counts = np.array([[of.get(name, 0) for name in names] for of in (class_rows, self.classes)], np.float64)
        shares = counts / counts.sum(axis=1, keepdims=True)
        (statistic, p), index = chi_square(counts), psi(*shares)
        told = {name: {"before": float(shares[0, i]), "now": float(shares[1, i])} for i, name in enumerate(names)}
        return {"psi": index, "statistic": statistic, "p": p, "shift": shift(index, p), "shares": told}

    def _unknown(self, alarm: float) -> dict[str, Any]:
        """Compare the share of unknown flows with the rate of false alarms, by a one-sided binomial test."""
        from scipy.stats import binom

        count, judged = round(self.unknown), round(self.judged)
        p = float(binom.sf(count - 1, judged, alarm))
        return {"share": self.unknown / self.judged, "expected": alarm, "p": p, "more": p < LEVEL}


def _row(feature: str, kind: str, index: float, test: str, statistic: float, p: float) -> dict[str, Any]:
    return {"feature": feature, "kind": kind, "psi": index, "test": test, "statistic": statistic, "p": p}


def psi(known: Floats, new: Floats) -> float:
    """Return the population stability index of two distributions over the same bins; an empty bin counts FLOOR."""
    first, second = np.maximum(known, FLOOR), np.maximum(new, FLOOR)
    return float(((second - first) * np.log(second / first)).sum())


def chi_square(counts: Floats) -> tuple[float, float]:
    """Return statistic and p of the test that two rows of counts have one distribution; (0, 1) with one column."""
    from scipy.stats import chi2_contingency

    counts = counts[:, counts.sum(axis=0) > 0]
    if counts.shape[1] < 2:
        return 0.0, 1.0
    found = chi2_contingency(counts, correction=False)
    return float(found.statistic), float(found.pvalue)


def shift(index: float, p: float) -> str:
    """Name a shift: `none` if it is small or chance explains it, else `moderate` or `large`."""
    if index < MOVED or p >= LEVEL:
        return "none"
    return "large" if index >= FAR else "moderate"


def sentences(report: Mapping[str, Any]) -> list[str]:
    """Say in plain sentences what a report finds, of at most MOST_NAMED features by name."""
    moved = [row for row in report["features"] if row["shift"] != "none"]
    named = ", ".join(f"{row['feature']} (PSI {row['psi']:.2f})" for row in moved[:MOST_NAMED])
    more = f" and {len(moved) - MOST_NAMED} more" if len(moved) > MOST_NAMED else ""
    told = [
        f"{len(moved)} of {len(report['features'])} features moved against the train pool: {named}{more}."
        if moved
        else f"No feature of {report['rows']:,.0f} rows moved against the train pool."
    ]
    if report["classes"] and report["classes"]["shift"] != "none":
        told.append(f"The shares of the classes moved (PSI {report['classes']['psi']:.2f}).")
    if report["unknown"] and report["unknown"]["more"]:
        share, expected = report["unknown"]["share"], report["unknown"]["expected"]
        told.append(f"{share:.1%} of the rows are of no known class, where {expected:.1%} are false alarms.")
    return told
