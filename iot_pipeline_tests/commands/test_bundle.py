"""What a run from a bundle prints of its comparison."""

import pytest

from iot_pipeline.bundle.rerun import Comparison
from iot_pipeline.commands.bundle import show_comparison


def test_a_report_is_called_equal_only_if_it_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(Comparison(equal=["flows", "paper_report"]))
    assert "Report: every table and number is equal" in capsys.readouterr().out
    show_comparison(Comparison(equal=["flows"], missing=["paper_report"]))
    told = capsys.readouterr().out
    assert "was not made: paper_report" in told and "Report: not made" in told and "number is equal" not in told
    show_comparison(Comparison(cells=["Table 1, row x: 1, was 2"]))
    assert "report: Table 1, row x: 1, was 2" in capsys.readouterr().out
