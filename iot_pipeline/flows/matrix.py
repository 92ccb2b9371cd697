"""Features of flows as a matrix of numbers, for learners that take no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from iot_pipeline.flows.spec import DatasetSpec

Floats = npt.NDArray[np.float64]


def words_of(table: pd.DataFrame, features: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of each category in a table, in order of name."""
    return {name: sorted(table[name].unique()) for name in features if not pd.api.types.is_numeric_dtype(table[name])}


def numbered(table: pd.DataFrame, features: Sequence[str], words: Mapping[str, Sequence[str]] | None = None) -> Floats:
    """Return the features of a table [n, features], a category by the place of its value in `words`.

    A value that is not among `words` is NaN, which LightGBM reads as none of the known ones.

    Args:
        table: Table with the features.
        features: Columns to return.
        words: Known values by category; None: those of the table.
    """
    known = words_of(table, features) if words is None else words
    if not known:
        return table[list(features)].to_numpy(np.float64)
    columns = [
        _codes(table[name], known[name]) if name in known else table[name].to_numpy(np.float64) for name in features
    ]
    return np.column_stack(columns)


def numbered_rows(table: pa.Table, spec: DatasetSpec) -> Floats:
    """Return the features of flows [n, features], a category by the place of its value in the train pool."""
    words = {feature.name: feature.values for feature in spec.features if feature.is_category}
    if not words:
        return np.column_stack([table[name].to_numpy() for name in spec.feature_names]).astype(np.float64)
    return numbered(table.select(spec.feature_names).to_pandas(), spec.feature_names, words)


def with_words(values: Sequence[float], spec: DatasetSpec) -> list[Any]:
    """Return the values of a flow as texts write them, from those of `numbered_rows`."""
    return [
        feature.values[int(value)] if feature.is_category else value
        for feature, value in zip(spec.features, values, strict=True)
    ]


def _codes(column: pd.Series, words: Sequence[str]) -> Floats:
    codes = pd.Categorical(column, categories=list(words)).codes.astype(np.float64)
    return np.where(codes < 0, np.nan, codes)


@dataclass(frozen=True)
class Columns:
    """Columns of a matrix for trees that compare numbers: each number, then each value of a category as 0 or 1.

    A column is (feature, empty) or (feature, value of a category); a category has its `most` commonest values.
    """

    names: list[tuple[str, str]]

    @staticmethod
    def of(table: pd.DataFrame, features: Sequence[str], most: int) -> Columns:
        """Return the columns for the features of a table."""
        words = words_of(table, features)
        chosen = [
            (name, word)
            for name in words
            for word in sorted(table[name].value_counts().sort_index(kind="stable").nlargest(most).index)
        ]
        return Columns([*((name, "") for name in features if name not in words), *chosen])

    def matrix(self, table: pd.DataFrame) -> npt.NDArray[np.float32]:
        """Return the columns of a table [n, columns], numbers rounded as sklearn compares them."""
        numbers = [name for name, word in self.names if not word]
        values = np.clip(table[numbers].to_numpy(np.float64), -3e38, 3e38).astype(np.float32)
        words = [(table[name] == word).to_numpy(np.float32) for name, word in self.names if word]
        return np.column_stack([values, *words]) if words else values
