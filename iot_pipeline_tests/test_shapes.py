"""Tables in the shapes of public data sets: the draft's label, giveaways and categories, and rare classes."""

from pathlib import Path

import pytest

from iot_pipeline.commands.datasets import check, new
from iot_pipeline.flows.spec import load_spec
from iot_pipeline_tests.shapes import SHAPES

RULE = "rare_classes: {minimum: 1, then: group, into: Rare}\n"


@pytest.mark.parametrize("name", SHAPES)
def test_a_draft_fits_its_table_once_rare_classes_have_a_rule(name: str, tmp_path: Path) -> None:
    shape, table, spec = SHAPES[name], tmp_path / f"{name}.csv", tmp_path / f"{name}.yaml"
    shape.write(table, 1200, 1)
    drafted = new(str(table), None, None, spec, ",".join(shape.columns) or None)
    made = load_spec(spec)
    assert drafted["label"] == shape.label and len(made.features) == shape.features
    assert {feature.name for feature in made.features if feature.is_category} == set(shape.categories)
    assert set(shape.giveaways) <= set(drafted["left_out"])
    found = check(str(spec), str(table), 0.01)
    assert found["rows"] == 1200 and "fewer than 4 distinct flows" in found["rare_classes"]
    spec.write_text(spec.read_text() + RULE)
    found = check(str(spec), str(table), 0.01)
    assert found["rare_classes_undecided"] == [] and "were grouped into Rare" in found["rare_classes"]
    assert found["rows"] == 1200 == sum(found["rows_by_class"].values()) and "Rare" in found["rows_by_class"]
