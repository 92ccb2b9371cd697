"""Answers: tolerant reading, strict checks; every kind of fault is found, and a good answer passes."""

import pytest

from iot_pipeline.augmentation.answers import check_answer, check_paraphrase, format_answer, parse_answer

FLOW = "orig_pkts: -0.068 p40\nresp_pkts: 2.265 p97\nflow_iat.avg: 0.500 p50"
CLASSES = ["Normal", "HTTP_Flood"]
GOOD = (
    "CLASSIFICATION: HTTP_Flood\n"
    "ANALYSIS: The target answers a lot, as resp_pkts of 2.265 lies above the median. "
    "orig_pkts is -0.068, below the median.\n"
    "KEY_INDICATORS: resp_pkts 2.265 (above the median, p97); orig_pkts -0.068 (below the median, p40); "
    "flow_iat.avg 0.500 (at the median, p50)"
)


def test_a_good_answer_passes_in_either_order() -> None:
    for order in ("label_first", "explanation_first"):
        assert check_answer(format_answer(parse_answer(GOOD), order), FLOW, "HTTP_Flood", CLASSES) == []
    assert format_answer(parse_answer(GOOD), "label_first") == GOOD


def test_markdown_and_a_list_are_read_alike() -> None:
    text = GOOD.replace("CLASSIFICATION:", "**CLASSIFICATION:**").replace("KEY_INDICATORS: ", "## KEY_INDICATORS:\n- ")
    assert parse_answer(text.replace("; ", "\n- ")) == parse_answer(GOOD)


COMPACT = "orig_pkts -.068\nflow_iat tot 2.265 avg .5"


@pytest.mark.parametrize(
    ("said", "faults"),
    [("-.068", 0), ("-0.068", 0), (".068", 1), ("-.0068", 1), ("-0.68", 1), ("+0.068", 1)],
)
def test_a_number_is_the_same_with_and_without_the_zero_before_its_point(said: str, faults: int) -> None:
    names = frozenset({"orig_pkts", "flow_iat.tot", "flow_iat.avg"})
    answer = (
        "CLASSIFICATION: Normal\nANALYSIS: Few packets go out: orig_pkts is -.068. With .5, flow_iat.avg is unusual.\n"
        f"KEY_INDICATORS: orig_pkts {said} (below the mean); flow_iat.tot +2.265; flow_iat.avg 0.5 (above the mean)"
    )
    problems = check_answer(answer, COMPACT, "Normal", CLASSES, names)
    assert [problem.split(":")[0] for problem in problems] == ["ungrounded number"] * faults
    for place in ("orig_pkts is -.068", "With .5"):
        spoilt = answer.replace(place, place.replace(".", ".1"))
        assert any(f"ungrounded number: {'-0' if '-' in place else '0'}.1" in problem for problem in
                   check_answer(spoilt, COMPACT, "Normal", CLASSES, names))


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("CLASSIFICATION: HTTP_Flood\n", "", "malformed"),
        ("KEY_INDICATORS:", "INDICATORS", "malformed"),
        ("CLASSIFICATION: HTTP_Flood", "CLASSIFICATION: Normal", "mislabelled"),
        ("a lot", "within 40 ms", "ungrounded number"),
        ("orig_pkts is -0.068", "orig_pkts is 2.265", "ungrounded number"),
        ("a lot", "as src_port shows", "unknown feature"),
        ("flow_iat.avg 0.500", "flow_iat.max 0.500", "unknown feature"),
        ("lies above", "lies below", "wrong direction"),
        ("(at the median", "(above the median", "wrong direction"),
        ("2.265 (above", "2.27 (above", "ungrounded number"),
        ("p97)", "p96)", "ungrounded number"),
    ],
)
def test_each_fault_is_named(old: str, new: str, kind: str) -> None:
    assert old in GOOD
    problems = check_answer(GOOD.replace(old, new, 1), FLOW, "HTTP_Flood", CLASSES)
    assert any(problem.startswith(kind) for problem in problems), problems


def test_a_sign_is_a_direction_only_of_standardised_features() -> None:
    flow, answer = FLOW.replace(" p40", "").replace(" p97", "").replace(" p50", ""), GOOD
    for rank in (", p97", ", p40", ", p50"):
        answer = answer.replace(rank, "")
    names = frozenset({"orig_pkts", "resp_pkts", "flow_iat.avg"})
    at = answer.replace("(at the", "(above the")
    assert check_answer(at, flow, "HTTP_Flood", CLASSES, names) == []
    assert any("wrong direction" in p for p in check_answer(at, flow, "HTTP_Flood", CLASSES))


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("resp_pkts of 2.265 lies", "resp_pkts lies", "changed numbers"),
        ("; flow_iat.avg 0.500 (at the median, p50)", "", "changed features"),
        ("orig_pkts -0.068 (below the median, p40)", "orig_pkts -0.068 (p40)", "changed direction"),
        ("", "", "copy"),
    ],
)
def test_a_paraphrase_keeps_what_must_stay_and_changes_the_words(old: str, new: str, kind: str) -> None:
    problems = check_paraphrase(GOOD.replace(old, new) if old else GOOD, GOOD, FLOW, "HTTP_Flood", CLASSES)
    assert any(problem.startswith(kind) for problem in problems), problems


def test_other_words_for_the_same_pass() -> None:
    other = GOOD.split("ANALYSIS: ")[0] + (
        "ANALYSIS: Below the median is where -0.068 puts orig_pkts. "
        "Replies abound: resp_pkts, above the median, reads 2.265.\n"
    ) + "KEY_INDICATORS" + GOOD.split("KEY_INDICATORS")[1]
    assert check_paraphrase(other, GOOD, FLOW, "HTTP_Flood", CLASSES) == []
