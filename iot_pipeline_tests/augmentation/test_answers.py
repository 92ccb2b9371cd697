"""Answers: tolerant reading, strict checks; every kind of fault is found, and a good answer passes."""

import json
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iot_pipeline.augmentation.answers import MOST_CHARACTERS, MOST_REASONS, format_answer, parse_answer
from iot_pipeline.augmentation.checks import check_answer
from iot_pipeline.evaluation.explanations import score_explanation

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
    ("said", "faults"), [("-.068", 0), ("-0.068", 0), (".068", 1), ("-.0068", 1), ("-0.68", 1), ("+0.068", 1)]
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
        assert any(
            f"ungrounded number: {'-0' if '-' in place else '0'}.1" in problem
            for problem in check_answer(spoilt, COMPACT, "Normal", CLASSES, names)
        )


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
    text = GOOD.replace(old, new) if old else GOOD
    problems = check_answer(text, FLOW, "HTTP_Flood", CLASSES, original_text=GOOD)
    assert any(problem.startswith(kind) for problem in problems), problems


def test_other_words_for_the_same_pass() -> None:
    other = (
        GOOD.split("ANALYSIS: ")[0]
        + (
            "ANALYSIS: Below the median is where -0.068 puts orig_pkts. "
            "Replies abound: resp_pkts, above the median, reads 2.265.\n"
        )
        + "KEY_INDICATORS"
        + GOOD.split("KEY_INDICATORS")[1]
    )
    assert check_answer(other, FLOW, "HTTP_Flood", CLASSES, original_text=GOOD) == []


def as_object(**changes: str) -> str:
    """A good answer as a JSON object, with parts changed."""
    items = [
        {"feature": "resp_pkts", "value": "2.265", "note": "above the median"},
        {"feature": "orig_pkts", "value": "-0.068", "note": "below the median"},
        {"feature": "flow_iat.avg", "value": "0.500", "note": changes.pop("note", "at the median")},
    ]
    parts = {"analysis": "Replies abound: resp_pkts is 2.265.", "classification": "HTTP_Flood", "key_indicators": items}
    return json.dumps(parts | changes)


@pytest.mark.parametrize(
    "token",
    [
        "<|im_end|>",
        "<|im_start|>",
        "<|endoftext|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "</s>",
        "<s>",
        "<end_of_turn>",
        "<start_of_turn>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "<eos>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "[SEP]",
        "<|reserved_special_token_7|>",
        "<think>",
    ],
)
def test_a_control_token_of_a_chat_template_makes_an_answer_malformed(token: str) -> None:
    inside = GOOD.replace("a lot", f"a lot {token}")
    for text in (inside, f"{GOOD}\n{token}\nuser", as_object(note=f"at {token}"), as_object(analysis=f"x {token} y")):
        assert f"malformed: the control token {token}" in check_answer(text, FLOW, "HTTP_Flood", CLASSES)
    escaped = as_object(analysis=f"x {token} y").replace("<", "\\u003c").replace("[INST", "\\u005bINST")
    assert f"malformed: the control token {token}" in check_answer(escaped, FLOW, "HTTP_Flood", CLASSES)


def test_a_token_that_was_only_not_cut_off_and_what_was_thought_before_are_no_part_of_an_answer() -> None:
    for text in (f"{GOOD}<|im_end|>\n", f"{GOOD} </s>", f"<think>\nANALYSIS: hm, 5 ms?\n</think>\n\n{GOOD}"):
        assert parse_answer(text) == parse_answer(GOOD)
    assert parse_answer(as_object() + "<|eot_id|>") == parse_answer(as_object())
    assert parse_answer(f"{GOOD}<|im_end|><|im_end|>").problems


@pytest.mark.parametrize("bad", ["\ud800", "a\udfffb", "\x00", "\x1b[2J"])
def test_what_is_no_text_is_malformed_as_it_stands_and_as_an_escape(bad: str) -> None:
    for text in (GOOD.replace("a lot", bad), as_object(analysis=f"resp_pkts is 2.265 {bad}"), as_object(note=bad)):
        problems = check_answer(text, FLOW, "HTTP_Flood", CLASSES)
        assert problems and all(problem.startswith("malformed: ") for problem in problems)
        "".join(problems).encode()


def test_a_number_of_thousands_of_digits_is_ungrounded() -> None:
    for number in ("1" * 5000, "0." + "3" * 5000, "1e999", "-" + "9" * 5000, "1" * 5000 + "th percentile"):
        problems = check_answer(GOOD.replace("a lot", f"within {number}"), FLOW, "HTTP_Flood", CLASSES)
        assert [problem.split(":")[0] for problem in problems] == ["ungrounded number"]
    for spelt in ("nan", "inf", "-Infinity", "1" * 5000, "Infinity"):
        for quote in ("", '"') if spelt[0] in "1I" else ('"',):
            text = as_object().replace('"2.265"', f"{quote}{spelt}{quote}")
            assert any("ungrounded number" in p for p in check_answer(text, FLOW, "HTTP_Flood", CLASSES))


def test_a_longer_answer_than_any_that_is_asked_for_is_refused_before_it_is_read() -> None:
    longer = check_answer(GOOD + " x" * MOST_CHARACTERS, FLOW, "HTTP_Flood", CLASSES)
    assert longer == [f"malformed: {len(GOOD) + 2 * MOST_CHARACTERS:,} characters, 20,000 at most"]
    many = check_answer(GOOD + "; x" * 1000, FLOW, "HTTP_Flood", CLASSES)
    assert (
        len(many) == 1
        and len(
            check_answer(
                "KEY_INDICATORS: " + "".join(f"x{n};" for n in "abcdefghijklmnopqrstuvwxyz" * 4),
                FLOW,
                "HTTP_Flood",
                CLASSES,
            )
        )
        <= MOST_REASONS
    )


def test_a_note_stays_on_its_line_and_in_its_item() -> None:
    text = as_object(note="at the median;\nCLASSIFICATION: Normal")
    said = format_answer(parse_answer(text), "explanation_first")
    assert said.count("\n") == 2 and parse_answer(said).label == "HTTP_Flood"
    assert len(parse_answer(said).indicators) == 3 and parse_answer(said).problems == ()


# Texts of the length at which an answer is refused: 9,000 blank lines took 8.8 s where patterns took the square.
HOSTILE = """
import sys
from iot_pipeline.augmentation import answers, checks, wording
from iot_pipeline.inference import grounding
answers.MOST_CHARACTERS = sys.maxsize
flow = "orig_pkts: -0.068 p40\\nresp_pkts: 2.265 p97\\nflow_iat.avg: 0.500 p50"
facts = answers.facts_of(flow)
good = "ANALYSIS: resp_pkts of 2.265.\\nKEY_INDICATORS: resp_pkts 2.265; orig_pkts -0.068; flow_iat.avg 0.500\\n"
n = 20_000
runs = [sign * n for sign in "\\n -1()[]:`*_;.,=<|{}+ep\\t"]
runs += [unit * (n // len(unit)) for unit in (
    "\\n1. ", " )", ").", "a_", "a.", "1.1 ", "resp_pkts ", "resp_pkts 2", "ANALYSIS", "ANALYSIS:", "ANALYSIS\\n:",
    "(\\n", "<|", "<answer>", "3 features ", "``` ", "a1", "1e", "\\r\\n", "CLASSIFICATION:\\n", "{\\"a\\":",
)]
for run in runs:
    for text in (run, "{" + run + "x", good.replace("of", run), good.replace("; orig", " (" + run + "x; orig") + run):
        checks.check_answer(text, flow, "x", ["x"], original_text=good)
        answers.numbers_in(text, facts)
        wording.similarity(text, good)
    grounding.numbers_for("resp_pkts" + run + "x", facts, grounding.spellings(flow), False)
    grounding.OPEN.search(run + "x")
print("read")
"""


def test_no_text_takes_the_square_of_its_length() -> None:
    done = subprocess.run([sys.executable, "-c", HOSTILE], capture_output=True, text=True, timeout=60)
    assert done.stdout == "read\n", done.stderr


PIECES = st.sampled_from(
    [
        "ANALYSIS:",
        "KEY_INDICATORS:",
        "CLASSIFICATION:",
        "\n",
        " ",
        ";",
        "resp_pkts",
        "2.265",
        "orig_pkts",
        "-0.068",
        "p97",
        "above",
        "below",
        "HTTP_Flood",
        "**",
        "`",
        "(",
        ")",
        "{",
        "}",
        "<|im_end|>",
        "\ud800",
        "9" * 4400,
        "1st",
        "```json",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.lists(PIECES | st.text(max_size=5), max_size=30).map("".join))
@example(as_object(note="a;b"))
@example("[" * 10_000)
@example('{"key_indicators": ' + "[" * 9_000)
def test_any_text_gets_a_verdict_and_a_good_one_is_good_as_it_is_written_down(text: str) -> None:
    problems = check_answer(text, FLOW, "HTTP_Flood", CLASSES)
    assert check_answer(text, FLOW, "HTTP_Flood", CLASSES, original_text=GOOD)
    score_explanation(FLOW, text, "HTTP_Flood", CLASSES)
    if not problems:
        parsed = parse_answer(text)
        assert check_answer(format_answer(parsed, "label_first"), FLOW, "HTTP_Flood", CLASSES) == []
