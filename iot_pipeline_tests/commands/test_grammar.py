"""`grammar` prints what any engine needs to hold an answer to one flow of a file."""

from pathlib import Path

import pytest

from iot_pipeline.commands.grammar import grammar_of
from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.texts import FlowTextWriter, RankTable
from iot_pipeline.lake.store import Lake
from iot_pipeline.settings import Settings, load_settings

SPEC = load_spec("farm_flow")


@pytest.fixture
def flows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of two flows, and a lake whose flow texts rank -0.5, 0 and 2 of each feature."""
    columns = dict.fromkeys(SPEC.feature_names)
    ranks = RankTable(10, {name: [-0.5, 0.0, 2.0] for name in columns}, {name: [3, 9, 10] for name in columns})
    FlowTextWriter(SPEC, "ranked", ranks).save(tmp_path)
    monkeypatch.setattr(Lake, "verified", lambda _lake, _artefact: tmp_path)
    file = tmp_path / "flows.csv"
    lines = [",".join(SPEC.source_columns), *(",".join([value] * len(SPEC.source_columns)) for value in ("-0.5", "2"))]
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def settings_of(flows: str) -> Settings:
    return load_settings({"IOT_LAKE": str(Path(flows).parent)})


def test_the_grammar_of_a_row_has_that_rows_facts(flows: str) -> None:
    told = [grammar_of(settings_of(flows), flows, row, form) for row, form in ((1, "gbnf"), (2, "gbnf"), (2, "lark"))]
    assert told[0].startswith("root ::= ") and '"`orig_pkts` = -0.500" " (below, p15)"?' in told[0]
    assert '"`orig_pkts` = 2.000" " (above, p95)"?' in told[1] and told[1] != told[0]
    assert told[2].startswith("%llguidance {}\nstart: ") and '"`orig_pkts` = 2.000" " (above, p95)"?' in told[2]


def test_a_row_or_form_that_is_none_is_a_clear_error(flows: str) -> None:
    with pytest.raises(UserError, match="rows 1 to 2"):
        grammar_of(settings_of(flows), flows, 3, "gbnf")
    with pytest.raises(UserError, match="--form json: lark or gbnf"):
        grammar_of(settings_of(flows), flows, 1, "json")
