"""Tables on a narrow terminal."""

import pytest
from rich.table import Table

from iot_pipeline.commands.console import Output


def test_a_narrow_terminal_cuts_off_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    name = "explanation_quality_10K[2027|feature_varied]"
    table = Table("artefact")
    table.add_column("accuracy", no_wrap=True)
    table.add_row(name.replace("[", r"\["), "0.9584 [0.95, 0.97]")
    Output(width=30).print(table)
    told = capsys.readouterr().out
    cells = ["".join(line.split("│")[place].strip() for line in told.splitlines() if "│" in line) for place in (1, 2)]
    assert cells == [name, "0.9584[0.95, 0.97]"]
