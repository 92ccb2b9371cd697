"""The analyst: it reads the prompt it gets, cites what stands there, keeps to length, order, seed and token limit."""

import json
import re

import pytest

from iot_pipeline.embedded_teacher.analyst import NOTHING_TO_DO, write_answer

FLOW = {
    "orig_pkts": ("-0.068", "p40"),
    "resp_pkts": ("2.265", "p97"),
    "flow_iat.avg": ("0.500", "p50"),
    "fwd_header_size_max": ("0.169", "p33"),
    "missed_bytes": ("-0.030", "p49"),
    "down_up_ratio": ("0.125", "p70"),
}
FORM = "ANALYSIS: <about {words} words>\nKEY_INDICATORS: <feature> <value>; ..."


def prompt(label: str, words: int = 60, ranked: bool = True, label_first: bool = True) -> list[dict[str, str]]:
    """A prompt that is none of the project's own."""
    form = FORM.format(words=words)
    form = f"CLASSIFICATION: <class>\n{form}" if label_first else f"{form}\nCLASSIFICATION: <class>"
    names = "\n".join(f"- {name} (packets, standardised): meaning" for name in FLOW if name != "down_up_ratio")
    flow = "\n".join(f"{name}: {value}" + (f" {rank}" if ranked else "") for name, (value, rank) in FLOW.items())
    return [{"role": "user", "content": f"Classes: Normal, HTTP_Flood\n{names}\n{form}\n{flow}\nTrue class: {label}"}]


def parts(answer: str) -> dict[str, str]:
    return dict(re.findall(r"^(CLASSIFICATION|ANALYSIS|KEY_INDICATORS): (.*)$", answer, re.MULTILINE))


@pytest.mark.parametrize("label", ["Normal", "UDP_Flood", "DDOS_Slowloris", "NeverHeardOf"])
def test_it_explains_the_label_it_is_given_with_values_as_printed(label: str) -> None:
    found = parts(write_answer(prompt(label), 0.7, 1, 2048)[0])
    assert found["CLASSIFICATION"] == label
    cited = [item.strip() for item in found["KEY_INDICATORS"].split(";")]
    assert 3 <= len(cited) <= 12
    for item in cited:
        name, value = item.split(" ")[:2]
        assert value == FLOW[name][0]


def test_directions_follow_percentile_then_sign_then_nothing() -> None:
    ranked = parts(write_answer(prompt("Normal", 180), 0, 1, 2048)[0])["KEY_INDICATORS"]
    assert "missed_bytes -0.030 (below the median, p49)" in ranked
    assert "flow_iat.avg 0.500 (at the median, p50)" in ranked
    signed = parts(write_answer(prompt("Normal", 180, ranked=False), 0, 1, 2048)[0])["KEY_INDICATORS"]
    assert "flow_iat.avg 0.500 (above the mean)" in signed
    assert re.search(r"down_up_ratio 0\.125(;|$)", signed)


@pytest.mark.parametrize("words", [40, 60, 150])
def test_it_keeps_to_the_words_asked(words: int) -> None:
    said = [write_answer(prompt("HTTP_Flood", words), 0.7, seed, 2048)[0] for seed in range(50)]
    counts = [len(parts(answer)["ANALYSIS"].split()) for answer in said]
    assert abs(sum(counts) / len(counts) - words) <= 0.15 * words


def test_the_order_asked_for_is_kept() -> None:
    for label_first in (True, False):
        text = write_answer(prompt("Normal", label_first=label_first), 0.7, 1, 2048)[0]
        assert text.startswith("CLASSIFICATION") == label_first


def test_equal_arguments_give_an_equal_answer_and_a_seed_other_words() -> None:
    said = [write_answer(prompt("Normal"), 0.7, seed, 2048)[0] for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]
    assert write_answer(prompt("Normal"), 0, 1, 2048) == write_answer(prompt("Normal"), 0, 2, 2048)


def test_a_token_limit_cuts_and_says_so() -> None:
    text, finish, usage = write_answer(prompt("Normal", 150), 0.7, 1, 30)
    assert finish == "length"
    assert usage["completion_tokens"] <= 31
    assert "KEY_INDICATORS: " not in text
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_an_answer_without_parts_and_a_prompt_without_a_flow_are_declined() -> None:
    given = [{"role": "user", "content": "Reword.\n<answer>\nNo parts here.\n</answer>"}]
    assert write_answer(given, 0, 1, 2048)[0] == NOTHING_TO_DO
    nothing = json.loads(
        write_answer([{"role": "user", "content": "Hello"}], 0, 1, 2048, ["analysis", "classification"])[0]
    )
    assert nothing == {"analysis": NOTHING_TO_DO, "classification": ""}
