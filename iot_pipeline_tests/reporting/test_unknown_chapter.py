"""The chapter on unknown flows: each student's detector, and the classes that were kept from models."""

from __future__ import annotations

from typing import Any

from iot_pipeline.reporting import figures_unknown
from iot_pipeline.reporting.gather import Facts
from iot_pipeline.reporting.report import render
from iot_pipeline_tests.reporting.example import HOSTILE
from iot_pipeline_tests.reporting.example_facts import make_facts


def left_out(classes: list[str]) -> dict[str, Any]:
    """A leave-one-class-out result."""

    def told(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.02, "high": value + 0.02}

    def model(value: float) -> dict[str, Any]:
        names = ("auroc", "coverage", "found_0.01", "found_0.05", "false_alarms_0.01", "false_alarms_0.05")
        return {name: told(value) for name in names} | {"curve": [0.01, 0.1]}

    models = {"automl": model(0.882), "student": model(0.951)}  # by name, as in a JSON file
    facts = {"flows": 91, "known_flows": 2000, "ambiguous_flows": 3, "score": "features", "models": models}
    return {
        "classes": dict.fromkeys(classes, facts),
        "left_out": ["NMAP_FIN_SCAN"],
        "mean": models,
        "baseline": "automl",
        "risk": 0.01,
        "coverages": [0.5, 1.0],
        "training": "class rows only, 100 steps",
    }


def test_classes_that_were_kept_from_models_stand_beside_the_baseline() -> None:
    facts = make_facts()
    facts.unknown = {"10K": left_out(["TCP_Flood", HOSTILE])}
    text = render("unknown.md.j2", facts, images=[])
    assert "### A class that the model never saw, 10K" in text and HOSTILE not in text
    assert "| TCP_Flood | 91 | student | features | 0.9510 [0.93, 0.97] |" in text
    assert text.index("| TCP_Flood | 91 | student") < text.index("| TCP_Flood | 91 | automl")
    assert "| mean | – | automl | – | 0.8820 [0.86, 0.90] |" in text and "NMAP_FIN_SCAN" in text
    assert "| original 10K | features+whitened | 1.10 % | 5.50 % |" in text


def test_without_such_a_measurement_it_says_how_to_make_it() -> None:
    text = render("unknown.md.j2", make_facts())
    assert "`IOT_UNKNOWN=true`" in text
    assert "`IOT_UNKNOWN=true`" in render("unknown.md.j2", Facts())


def test_figures_take_many_classes_and_none() -> None:
    for result in (left_out([f"class_{number}" for number in range(30)]), left_out([])):
        for draw in (figures_unknown.aurocs, figures_unknown.risk_coverage):
            assert draw(result).startswith(b"\x89PNG")
