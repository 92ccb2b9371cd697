"""The zero-shot teacher's requests, which hold no label, and the class that its answers name."""

import dataclasses
from pathlib import Path

import pytest

from iot_pipeline.augmentation.ask import check_imported
from iot_pipeline.augmentation.plan import TrackConfig
from iot_pipeline.augmentation.prompts import load_prompt, parse_prompt
from iot_pipeline.augmentation.zero_shot import accept, named_class, sample_groups, zero_shot_request
from iot_pipeline.embedded_teacher.analyst import NOTHING_TO_DO, write_answer
from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.settings import PROJECT_ROOT

SPEC = load_spec("farm_flow")
CLASSES = list(SPEC.classes)
PROMPTS = PROJECT_ROOT / "iot_pipeline" / "prompts"
CONFIG = TrackConfig(SPEC, 60, "label_first", "ranked", 1)
FLOW = "flow_iat.avg: 0.012 p97\norig_pkts: 3.000 p12\nresp_pkts: 0.000 p2"


@pytest.mark.parametrize("serialisation", ["values", "ranked", "compact"])
def test_a_request_lists_classes_and_features_and_holds_the_flow_as_the_student_reads_it(serialisation: str) -> None:
    config = dataclasses.replace(CONFIG, serialisation=serialisation)
    request = zero_shot_request(FLOW, load_prompt(PROMPTS / "zero_shot.md"), config)
    system, user = (message["content"] for message in request.messages)
    assert ", ".join(CLASSES) in system and all(f"- {name} (" in system for name in SPEC.feature_names)
    assert user == f"Record:\n<flow>\n{FLOW}\n</flow>\n\nName the class of this flow."
    assert ("percentile" in system) == (serialisation == "ranked") and request.label == request.original == ""


def test_a_prompt_that_uses_the_label_is_refused() -> None:
    prompt = parse_prompt("---\nmodel: m\ntemperature: 0\nmax_tokens: 16\n---\n{{ flow }} is {{ label }}", "mine.md")
    with pytest.raises(UserError, match=r"mine\.md: the template cannot be filled in: 'label' is undefined"):
        zero_shot_request(FLOW, prompt, CONFIG)


def test_its_key_is_no_track_s_though_prompt_and_flow_were_the_same() -> None:
    request = zero_shot_request(FLOW, load_prompt(PROMPTS / "zero_shot.md"), CONFIG)
    keys = {dataclasses.replace(request, schema_version=version).key for version in ("1", "1-json")}
    assert request.key not in keys


def test_a_sample_is_seeded_and_a_larger_one_holds_the_smaller() -> None:
    groups = [f"{index:04d}" for index in range(300)]
    small, large = sample_groups(groups, 20, 1), sample_groups(groups[::-1], 90, 1)
    assert len(small) == 20 and set(small) < set(large) and small == sorted(small)
    assert sample_groups(groups, 20, 2) != small and sample_groups(groups, 1000, 1) == groups


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("CLASSIFICATION: HTTP_Flood", "HTTP_Flood"),
        ("ANALYSIS: It is fast.\nCLASSIFICATION: http flood.", "HTTP_Flood"),
        ("**CLASSIFICATION:** `Normal`", "Normal"),
        ("<think>CLASSIFICATION: Normal</think>\nCLASSIFICATION: TCP_Flood", "TCP_Flood"),
        ("CLASSIFICATION: HTTP_Flood or TCP_Flood", None),
        ("CLASSIFICATION: Normal\nCLASSIFICATION: TCP_Flood", None),
        ("CLASSIFICATION: Worm", None),
        ("It is HTTP_Flood.", None),
        ("I cannot tell.", None),
        ("", None),
        ("CLASSIFICATION: Normal\n" + "x" * 20_001, None),
    ],
)
def test_an_answer_names_one_class_of_the_data_set_or_none(text: str, named: str | None) -> None:
    assert named_class(text, CLASSES) == named
    assert accept(zero_shot_request(FLOW, load_prompt(PROMPTS / "zero_shot.md"), CONFIG), text) == []


def test_an_imported_answer_counts_as_it_does_when_it_is_asked() -> None:
    request = zero_shot_request(FLOW, load_prompt(PROMPTS / "zero_shot.md"), CONFIG)
    assert check_imported(request, request.context(), "I cannot tell.") == []
    track = dataclasses.replace(request, schema_version="1")
    assert check_imported(track, {**request.context(), "data_set": "{}"}, "I cannot tell.") != []


def answered(prompt: Path, flow: str = FLOW, classes: list[str] | None = None) -> str:
    config = (
        CONFIG if classes is None else dataclasses.replace(CONFIG, spec=SPEC.model_copy(update={"classes": classes}))
    )
    return write_answer(zero_shot_request(flow, load_prompt(prompt), config).messages, 0.0, 1, 1024)[0]


def test_the_embedded_teacher_guesses_by_its_weights_and_knows_no_class_of_a_data_set_it_has_no_entry_for() -> None:
    prompt = PROMPTS / "zero_shot.md"
    guesses = {named_class(answered(prompt, flow), CLASSES) for flow in flows_of_one_group()}
    assert len(guesses) > 1 and guesses <= set(CLASSES)
    assert answered(prompt, classes=["Normal", "Worm"]).endswith("CLASSIFICATION: Normal")
    assert answered(prompt, classes=["Worm", "Virus"]) == NOTHING_TO_DO
    assert named_class(answered(prompt, flow="no features here"), CLASSES) is None


def flows_of_one_group() -> list[str]:
    """Flows of which one feature lies far from the median."""
    names = ["flow_iat.avg", "fwd_header_size_max", "orig_pkts", "resp_pkts", "flow_pkts_per_sec"]
    return ["\n".join(f"{name}: 1.000 p{100 if name == far else 50}" for name in names) for far in names]


def test_the_embedded_teacher_guesses_only_where_it_is_asked_to(tmp_path: Path) -> None:
    """A track's prompt that lost its label is still refused, so that its answers are quarantined for that reason."""
    source = (PROMPTS / "zero_shot.md").read_text().replace("Name the class of this flow.", "Explain this flow.")
    (tmp_path / "mine.md").write_text(source)
    assert answered(tmp_path / "mine.md") == NOTHING_TO_DO
