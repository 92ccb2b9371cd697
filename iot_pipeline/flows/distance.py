"""Distance between flows as the student reads them: the number of features whose printed values differ."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from iot_pipeline.flows.serialise import printer
from iot_pipeline.flows.spec import DatasetSpec

Codes = npt.NDArray[np.int32]


def printed_codes(spec: DatasetSpec, *tables: pd.DataFrame) -> list[Codes]:
    """Number the printed values of each feature, alike in all tables; return an array [rows, features] for each."""
    show, columns = printer(spec), []
    for feature in spec.features:
        if feature.is_category:
            columns.append(pd.factorize(np.concatenate([table[feature.name].to_numpy(object) for table in tables]))[0])
            continue
        name = feature.name
        column = np.concatenate([table[name].to_numpy(np.float64) for table in tables])
        values, place = np.unique(column, return_inverse=True)
        texts = np.array([show(name, value) for value in values.tolist()], dtype=object)
        columns.append(pd.factorize(texts)[0][place])
    whole = np.stack(columns, axis=1).astype(np.int32)
    return np.split(whole, np.cumsum([len(table) for table in tables])[:-1])


def differing_features(codes: Codes, others: Codes) -> Iterator[npt.NDArray[np.unsignedinteger]]:
    """Yield for each flow of `codes` [n, features] the number of features that differ from each of `others` [m].

    One flow at a time: the comparison takes features x m bytes (0.9 MB for 30,000 flows), which stays in the cache.
    """
    columns = np.ascontiguousarray(others.T)
    counter = np.min_scalar_type(len(columns))
    for flow in codes:
        yield (columns != flow[:, None]).view(np.uint8).sum(axis=0, dtype=counter)
