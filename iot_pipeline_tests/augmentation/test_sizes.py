"""Teacher and checks at the ends of what a data set may be: one feature or 200, names of any kind, 100 classes."""

import random
from pathlib import Path

import pytest

from iot_pipeline.augmentation.checks import check_answer
from iot_pipeline.augmentation.plan import TrackConfig, asked_indicators
from iot_pipeline.augmentation.prompts import load_prompt
from iot_pipeline.embedded_teacher.analyst import write_answer
from iot_pipeline.flows.spec import DatasetSpec, Feature, load_spec
from iot_pipeline_tests.shapes import CIC_CLASSES, CIC_FEATURES, KDD_CLASSES, KDD_FEATURES

PROMPTS = Path(__file__).parents[2] / "iot_pipeline" / "prompts"
SIZES = {
    "one feature, classes like articles": (["Rate"], ["A", "AB"]),
    "single letters, names of several words": (
        ["x", "y", "z"],
        ["Web Attack - XSS", "Web Attack - Brute Force", "DoS, Hulk"],
    ),
    "numbers in names": (["x1", "x2"], ["Type 1", "Type 2", "Type 10", "normal."]),
    "names without an underscore": (KDD_FEATURES, list(KDD_CLASSES)),
    "34 classes with hyphens": ([name.replace(" ", "_") for name in CIC_FEATURES], CIC_CLASSES),
    "200 features, 100 classes": ([f"f{n}" for n in range(200)], [f"class {n}" for n in range(100)]),
}


def made(features: list[str], classes: list[str]) -> DatasetSpec:
    """A data set of these features and classes."""
    listed = [Feature(name=name, unit="", meaning="made") for name in features]
    return load_spec("rt_iot2022").model_copy(update={"features": listed, "classes": classes, "labels": {}})


def flow_of(features: list[str], serialisation: str, rng: random.Random) -> str:
    """A flow text with values that repeat across features."""
    ranked = serialisation == "ranked"
    return "\n".join(
        f"{name}: {rng.choice(['0', '1', f'{rng.random() * 100:.4g}'])}" + (f" p{rng.randrange(101)}" if ranked else "")
        for name in features
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("serialisation", ["ranked", "values"])
def test_the_embedded_teacher_passes_every_check(size: str, serialisation: str) -> None:
    features, classes = SIZES[size]
    spec, rng = made(features, classes), random.Random(1)
    variables = TrackConfig(spec, 60, "label_first", serialisation, 1).variables()
    original, paraphrase = load_prompt(PROMPTS / "original.md"), load_prompt(PROMPTS / "paraphrased.md")
    for number in range(12):
        flow, label = flow_of(features, serialisation, rng), classes[number % len(classes)]
        first, _, _ = write_answer(original.render(**variables, flow=flow, label=label), 0.7, number, 2048)
        assert check_answer(first, flow, label, classes, spec.standardised, words=60) == []
        asked = paraphrase.render(**variables, flow=flow, label=label, answer=first)
        second, _, _ = write_answer(asked, 0.8, number, 2048)
        assert check_answer(second, flow, label, classes, spec.standardised, first, 60) == [], second


def test_prompts_ask_for_no_more_indicators_than_there_are_features() -> None:
    assert [asked_indicators(n) for n in (1, 2, 3, 4, 29)] == [
        "exactly 1", "exactly 2", "exactly 3", "between 3 and 4", "between 3 and 12",
    ]  # fmt: skip
    variables = TrackConfig(made(["Rate"], ["A", "B"]), 60, "label_first", "ranked", 1, objects=True).variables()
    for name in ("original.md", "feature_varied.md"):
        system = load_prompt(PROMPTS / name).render(**variables, flow="Rate: 1 p3", label="A")[0]["content"]
        assert "Exactly 1 key indicators, the strongest first." in system and "between 3" not in system


def test_a_class_that_is_an_ordinary_word_may_be_an_ordinary_word() -> None:
    flow = "sload: 0 p40\nsttl: 31 p60\nrate: 2 p55"
    said = (
        "CLASSIFICATION: Exploits\nANALYSIS: Our analysis of a generic kind sends the reader back to sload, which is 0 "
        "and below the median, while rate is 2 and above the median.\nKEY_INDICATORS: sload 0 (below the median, p40); "
        "sttl 31 (above the median, p60); rate 2 (above the median, p55)"
    )
    assert check_answer(said, flow, "Exploits", ["Exploits", "Analysis", "Generic", "back", "A"]) == []
    other = said.replace("Our analysis of a generic kind", "This flow is a Fuzzers attack, which")
    assert any("other verdict" in fault for fault in check_answer(other, flow, "Exploits", ["Exploits", "Fuzzers"]))
