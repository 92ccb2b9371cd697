"""Facts of a data set file: a malformed value is one clear sentence, never a traceback, at loading or comparing."""

import copy
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import DATASETS, load_spec, validate_spec
from iot_pipeline.lake.yaml_reader import read_own_yaml
from iot_pipeline.quality.mismatch import dataset_mismatch
from iot_pipeline.quality.patterns import attack_patterns
from iot_pipeline_tests.quality.factories import record_table, save

CONTENT: dict[str, Any] = read_own_yaml(DATASETS / "farm_flow.yaml")
CONTENT["facts"]["zscored_3_decimals"] = {"distinct": 1, "conflicting": 0, "duplicate_share": 0.5, "row_ceiling": 1.0}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 10**400, 1e308, float("nan"), float("inf"), "", "x"]),
)
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.sampled_from(["rows", "Normal", 3]), SCALARS)
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every part of a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inside for place in places(part, (*path, key)))]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """flows.parquet and records.parquet: four flows of each class."""
    spec, folder = load_spec("farm_flow"), tmp_path_factory.mktemp("facts")
    labels = [name for name in spec.classes for _ in range(4)]
    frame = pd.DataFrame({name: [float(row) for row in range(len(labels))] for name in spec.feature_names})
    groups = [f"group{row:02d}" for row in range(len(labels))]
    frame = frame.assign(row_id=range(len(labels)), label=labels, flow_group=groups, occurrence=0)
    return save(frame, folder / "flows.parquet"), save(record_table(frame), folder / "records.parquet")


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(places(CONTENT["facts"])), VALUES)
def test_any_value_anywhere_in_the_facts_is_compared_or_refused_in_one_sentence(
    files: tuple[Path, Path], place: tuple[Any, ...], value: Any
) -> None:
    content = copy.deepcopy(CONTENT)
    part: Any = content
    for key in ("facts", *place)[:-1]:
        part = part[key]
    part[("facts", *place)[-1]] = value
    try:
        spec = validate_spec(Path("mine.yaml"), content)
        ruled = place[:1] == ("prior_rules",)
        reports = attack_patterns(*files, spec, 1) if ruled else dataset_mismatch(files[0], spec)
    except UserError as error:
        assert str(error).count("\n") == 0 and len(str(error)) < 500
    else:
        json.dumps(reports, allow_nan=False)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            "{quartiles: {Normal: {orig_pkts: [1, 2]}}}",
            "facts: quartiles.Normal.orig_pkts: List should have at least 3",
        ),
        ("{rows: many}", "facts: rows: Input should be a valid integer"),
        ("{class_rows_paper: {Normal: .nan}}", "facts: class_rows_paper.Normal: Input should be a valid integer"),
        ("{prior_rules: [{source: x, classes: [Normal]}]}", "a rule needs a stump, or conditions"),
        ("{shares_above: [{class: Normal, feature: orig_pkts, share: 1}]}", "shares_above.0.above: Field required"),
    ],
)
def test_the_sentence_names_the_fact(tmp_path: Path, facts: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: farm_flow\nfacts: {facts}\n")
    with pytest.raises(UserError, match=message):
        load_spec(tmp_path / "mine.yaml")
