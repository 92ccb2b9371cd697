"""The argument of an answer is read: with a right class line, a wrong argument is refused and a comparison is not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.augmentation.ask import answer_checker
from iot_pipeline.augmentation.checks import check_answer
from iot_pipeline.flows.spec import load_spec
from iot_pipeline_tests.augmentation.mutations import KINDS, honest, judged, mutants, true_answers
from iot_pipeline_tests.augmentation.phrases import phrase_set

SPEC = load_spec("farm_flow")
FLOW = "orig_pkts: -0.068 p40\nresp_pkts: 2.265 p97\nflow_iat.avg: 0.500 p50\norig_ip_bytes: 1.204 p80"
ATTACKS = [name for name in SPEC.classes if name != "Normal"]


def reasons(sentence: str, label: str = "HTTP_Flood", words: int = 0) -> list[str]:
    """Reasons against a true answer that has this sentence in its analysis."""
    text = (
        f"CLASSIFICATION: {label}\n"
        f"ANALYSIS: The target answers, as resp_pkts of 2.265 lies above the median. {sentence}\n"
        "KEY_INDICATORS: resp_pkts 2.265 (above the median, p97); orig_pkts -0.068 (below the median, p40); "
        "flow_iat.avg 0.500 (at the median, p50)"
    )
    return check_answer(text, FLOW, label, SPEC.classes, words=words)


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("This is clearly Arp_Spoofing, not HTTP_Flood.", "other verdict"),
        ("It is ARP spoofing.", "other verdict"),
        ("Unlike what the class line says, this is a port scan.", "other verdict"),
        ("It can be nothing but Arp_Spoofing.", "other verdict"),
        ("One can rule out HTTP_Flood.", "other verdict"),
        ("This is benign traffic.", "other verdict"),
        ("This is a scan.", "other verdict"),
        ("It belongs to Normal.", "other verdict"),
        ("Malicious intent can be ruled out.", "other verdict"),
        ("No feature contradicts Arp_Spoofing.", "other verdict"),
        ("There is no sign of an attack.", "other verdict"),
        ("As you told me the class is HTTP_Flood.", "label given"),
        ("The class was given.", "label given"),
        ("Since the true class is HTTP_Flood, it fits.", "label given"),
        ("orig_pkts is elevated.", "wrong direction"),
        ("orig_pkts (-0.068) spikes.", "wrong direction"),
        ("We see a surge of orig_pkts.", "wrong direction"),
        ("orig_ip_bytes is minimal.", "wrong direction"),
        ("orig_ip_bytes drops.", "wrong direction"),
        ("orig_ip_bytes is not high.", "wrong direction"),
        ("flow_iat.avg is larger than usual.", "wrong direction"),
        ("Here orig_pkts has, as the record has it, 1.204.", "ungrounded number"),
        ("With 1.204, orig_pkts is telling.", "ungrounded number"),
        ("orig_pkts and orig_ip_bytes are 1.204 and -0.068.", "ungrounded number"),
        ("orig_ip_bytes lies at p97.", "ungrounded number"),
    ],
)
def test_a_wrong_argument_is_refused_with_a_right_class_line(sentence: str, kind: str) -> None:
    assert any(reason.startswith(f"{kind}: ") for reason in reasons(sentence)), reasons(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "Unlike Arp_Spoofing, it floods a web server.",
        "In contrast to Arp_Spoofing or Port_Scanning, requests never cease.",
        "For Arp_Spoofing one would expect longer headers.",
        "Arp_Spoofing would show relayed packets.",
        "It departs from ordinary device traffic.",
        "Benign traffic does not look like this.",
        "Service is denied to legitimate clients in order to exhaust the server.",
        "Each packet is harmless by itself, but their number is not.",
        "That speaks for HTTP_Flood rather than Port_Scanning.",
        "The values differ from those of a TCP flood.",
        "An HTTP flood needs no handshake, and the known pattern fits.",
        "orig_ip_bytes is elevated, orig_pkts is low.",
        "orig_ip_bytes is not low.",
        "orig_ip_bytes is larger than orig_pkts.",
        "orig_pkts is of high importance.",
        "With 1.204, orig_ip_bytes is telling, while with -0.068, orig_pkts is not.",
        "orig_pkts and orig_ip_bytes are -0.068 and 1.204, respectively.",
        "orig_pkts, orig_ip_bytes, and resp_pkts are -0.068, 1.204, and 2.265.",
        "The class follows from what is given by the values.",
    ],
)
def test_a_comparison_and_a_true_statement_are_allowed(sentence: str) -> None:
    assert reasons(sentence) == []


def test_a_benign_flow_is_not_called_an_attack() -> None:
    for wrong in ("This is an attack.", "The flow is malicious.", "It is a denial of service."):
        assert any(reason.startswith("other verdict") for reason in reasons(wrong, "Normal"))
    for right in ("There is no sign of an attack.", "Attack tools fill packets.", "It is benign traffic."):
        assert reasons(right, "Normal") == []


def test_an_analysis_has_about_the_words_that_were_asked_for() -> None:
    assert reasons("It fits.") == [] and reasons("It fits.", words=30) == []
    assert [reason.split(":")[0] for reason in reasons("It fits.", words=60)] == ["length"]
    assert [reason.split(":")[0] for reason in reasons("It fits. " * 40, words=30)] == ["length"]
    short = reasons("").copy()
    assert short == [] and "length: ANALYSIS has 1 words, 8 at least" in check_answer(
        "CLASSIFICATION: HTTP_Flood\nANALYSIS: ok.\nKEY_INDICATORS: resp_pkts 2.265", FLOW, "HTTP_Flood", SPEC.classes
    )


def test_the_words_asked_for_are_part_of_the_checks_version() -> None:
    assert answer_checker(SPEC, 60).version != answer_checker(SPEC, 120).version
    assert answer_checker(SPEC, 60) == answer_checker(SPEC, 60)


def test_mutated_answers_are_refused_and_true_ones_are_not() -> None:
    cases = true_answers(300, seed=4)
    alarms = [(case.answer, found) for case in cases if (found := judged(case, case.answer, case.original))]
    assert len(alarms) <= 1, alarms
    passed = [
        (kind, mutant.phrase) for kind, case, mutant in mutants(cases, 300, 4)
        if not judged(case, mutant.text, mutant.original)
    ]  # fmt: skip
    assert len(passed) <= 3 and len(KINDS) == 7, passed


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(ATTACKS), st.sampled_from(ATTACKS), st.sampled_from([str, str.lower, str.upper]),
    st.sampled_from(["_", " ", "-"]), st.sampled_from(["{}.", "So {} took place.", "All of it is {}, as it seems."]),
)  # fmt: skip
def test_any_other_class_in_any_spelling_is_a_verdict_unless_compared(own, other, case, mark, told) -> None:  # type: ignore[no-untyped-def]
    name = case(other).replace("_", mark)
    for sentence, refused in ((told.format(name), own != other), (f"It happens faster than {name}.", False)):
        found = [reason for reason in reasons(sentence, own) if reason.startswith("other verdict")]
        assert bool(found) == refused


@settings(max_examples=200, deadline=None)
@given(st.lists(st.decimals(-9, 9, places=3).map(str), min_size=4, max_size=4, unique=True), st.permutations(range(4)))
def test_a_value_passes_beside_its_own_feature_alone(values: list[str], order: list[int]) -> None:
    names = ["orig_pkts", "resp_pkts", "flow_iat.avg", "orig_ip_bytes"]
    flow = "\n".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
    items = "; ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
    prose = "; ".join(f"the record has {names[n]}, here {values[place]}" for n, place in enumerate(order))
    text = f"CLASSIFICATION: Normal\nANALYSIS: Look: {prose}.\nKEY_INDICATORS: {items}"
    assert (check_answer(text, flow, "Normal", ["Normal"]) == []) == (order == sorted(order))


@pytest.mark.parametrize("author", ["analyst", "verbose"])
def test_phrases_of_other_authors_are_refused(author: str) -> None:
    cases = true_answers(200, seed=6)
    made = [found for found in mutants(cases, 700, 6, phrase_set(author)) if found[0] != "near copy"]
    passed = [(kind, mutant.phrase) for kind, case, mutant in made if not judged(case, mutant.text, mutant.original)]
    assert len(passed) <= 3, passed


def test_true_sentences_in_the_manner_of_a_language_model_pass() -> None:
    told = [(sentence, label) for label, said in phrase_set("llm_style").items() for sentence in said]
    refused = [(sentence, found) for sentence, label in told if (found := reasons(sentence, label))]
    assert len(told) == 214 and refused == []


@pytest.mark.parametrize(
    "sentence",
    [
        "It is almost certainly benign traffic.",
        "This flow is, so it seems, harmless.",
        "The flow is not malicious, so no action is needed.",
        "This does not attack anything.",
    ],
)
def test_what_stands_near_those_sentences_is_still_refused(sentence: str) -> None:
    assert {reason.split(":")[0] for reason in reasons(sentence)} == {"other verdict"}


def test_honest_sentences_that_come_near_are_no_false_alarm() -> None:
    told = honest(true_answers(400, seed=8), seed=8)
    assert len(told) >= 600
    refused = [(mutant.phrase, found) for case, mutant in told if (found := judged(case, mutant.text, ""))]
    assert len(refused) <= len(told) // 200, refused


def test_numbers_behind_their_features_are_bound_backwards_after_one_in_front() -> None:
    assert reasons("At -0.068, orig_pkts is low, just as orig_ip_bytes (1.204) and flow_iat.avg (0.500).") == []
