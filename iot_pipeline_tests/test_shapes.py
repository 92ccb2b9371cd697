"""Tables in the shapes of public data sets: the draft's label, giveaways and categories, and rare classes."""

from pathlib import Path

import pytest

from iot_pipeline.commands.datasets import check, new
from iot_pipeline.flows.spec import load_spec
from iot_pipeline_tests.shapes import SHAPES


@pytest.mark.parametrize("name", SHAPES)
def test_a_draft_fits_its_table_once_rare_classes_have_a_rule(name: str, tmp_path: Path) -> None:
    shape, table, spec = SHAPES[name], tmp_path / f"{name}.csv", tmp_path / f"{name}.yaml"
    shape.write(table, 1200, 1)
    drafted = new(str(table), None, None, spec, ",".join(shape.columns) or None)
    made = load_spec(spec)
    assert drafted["label"] == shape.label and len(made.features) == shape.features
    assert {feature.name for feature in made.features if feature.is_category} == set(shape.categories)
    assert set(shape.giveaways) <= set(drafted["left_out"])
    draft = spec.read_text()
    spec.write_text(shape.completed(draft, rare=False))
    found = check(str(spec), str(table), 0.01)
    assert found["rows"] == 1200 and "too few distinct flows for every side" in found["rare_classes"]
    spec.write_text(shape.completed(draft, rare=True))
    found = check(str(spec), str(table), 0.01)
    grouped = "group" in shape.rule
    assert found["rare_classes_undecided"] == []
    assert ("were grouped into Rare" if grouped else "were left out") in found["rare_classes"]
    assert ("Rare" in found["rows_by_class"]) == grouped and min(found["rows_by_class"].values()) > 0
    assert found["rows"] == sum(found["rows_by_class"].values()) == 1200 - sum(found["left_out"].values())
