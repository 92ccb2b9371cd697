"""Distances between flows are those between the values that their texts print."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.flows.distance import differing_features, printed_codes
from iot_pipeline.flows.spec import DatasetSpec, Scale
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline_tests.quality.factories import made_spec

PLAIN = made_spec()
# A wide scale: 0.0 and 4.0 print alike.
SCALED = PLAIN.with_scales(
    {name: Scale(kind="zscore", mean=0.0, std=9000.0, basis="fitted") for name in PLAIN.feature_names}
)
VALUES = st.sampled_from([0.0, -0.0, 0.0001, 0.001, 4.0, 8000.0])
TABLES = st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=8)


@pytest.mark.parametrize("spec", [PLAIN, SCALED])
@settings(max_examples=40, deadline=None)
@given(TABLES, TABLES)
def test_features_differ_where_their_texts_do(spec: DatasetSpec, first: list, second: list) -> None:
    tables = [pd.DataFrame(rows, columns=spec.feature_names) for rows in (first, second)]
    lines, others = ([text.split("\n") for text in FlowTextWriter(spec, "values").texts(table)] for table in tables)
    wanted = [[sum(a != b for a, b in zip(one, other, strict=True)) for other in others] for one in lines]
    assert [far.tolist() for far in differing_features(*printed_codes(spec, *tables))] == wanted


def test_more_features_than_a_byte_counts() -> None:
    (far,) = differing_features(np.zeros((1, 300), np.int32), np.ones((2, 300), np.int32))
    assert far.tolist() == [300, 300]
