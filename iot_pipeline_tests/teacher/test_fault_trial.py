"""The fault trial at small size: see trial.py; the long form is benchmarks/teacher_faults.py."""

from pathlib import Path

import pytest

from iot_pipeline_tests.teacher.fault_trial import failures, trial


@pytest.mark.parametrize("via", ["requests", "batch"])
def test_nothing_is_lost_misplaced_or_billed_twice(tmp_path: Path, via: str) -> None:
    result = trial(800, 4, via, 5, str(tmp_path / "t.sqlite"))
    assert failures(result) == [], result
    assert result["kills"] >= 3 and result["answered"] > 750 and result["attempts"] > 900
