"""Categories in answers: cited as the flow has them, judged in every form, kept by variation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.augmentation.answers import facts_of, format_answer, parse_answer
from iot_pipeline.augmentation.checks import check_answer
from iot_pipeline.augmentation.marks import mark_faults
from iot_pipeline.augmentation.moves import PaperMoves
from iot_pipeline.augmentation.plan import glossary
from iot_pipeline.augmentation.variation import with_words
from iot_pipeline.embedded_teacher.analyst import write_answer
from iot_pipeline.evaluation.explanations import score_explanation
from iot_pipeline.flows.texts import FlowTextWriter, RankTable
from iot_pipeline_tests.flows.category_table import CLASSES, NUMBERS, connections

COUNTS = {"proto": {"tcp": 8, "udp": 2}, "service": {"http": 1, "-": 6, "3pc": 3}, "flag": {"SF": 9, "S0": 1}}
RANKS = RankTable(10, {name: [0.0, 1.0, 2.0] for name in NUMBERS}, {name: [4, 6, 10] for name in NUMBERS}, COUNTS)
SPEC = connections().with_values(COUNTS)
KNOWN = SPEC.known_values
KINDS = st.sampled_from(["values", "ranked", "compact"])


def flow(kind: str = "ranked", proto: str = "tcp", service: str = "http", flag: str = "S0", number: float = 2.0) -> str:
    return FlowTextWriter(SPEC, kind, RANKS).text([proto, service, flag, *[number] * len(NUMBERS)])


def answer(analysis: str, items: str = "proto tcp (80%); flag S0 (10%); dst_bytes 2 (above the median, p80)") -> str:
    return f"CLASSIFICATION: neptune\nANALYSIS: {analysis}\nKEY_INDICATORS: {items}"


GOOD = "The connection was opened and never answered, since proto is tcp and flag is S0, with dst_bytes at 2."


def faults(text: str, kind: str = "ranked", **flow_values: str) -> list[str]:
    return check_answer(text, flow(kind, **flow_values), "neptune", list(CLASSES), known=KNOWN)


def test_true_categories_pass() -> None:
    assert faults(answer(GOOD)) == []
    assert faults(answer(GOOD, "proto tcp; flag S0; service http"), "values") == []


@pytest.mark.parametrize(
    ("analysis", "items", "reason"),
    [
        (GOOD, "proto udp; flag S0; dst_bytes 2", "ungrounded value: proto udp, not tcp"),
        (GOOD, "proto tcp (12%); flag S0; dst_bytes 2", "ungrounded number: 12% in the note of proto"),
        (
            GOOD,
            "proto tcp (above the median, p80); flag S0; dst_bytes 2",
            "wrong direction: proto above, but a category",
        ),
        (GOOD.replace("is tcp", "is udp"), "", "ungrounded value: proto udp, not tcp"),
        (GOOD.replace("is tcp", "= icmp"), "", "ungrounded value: proto icmp, not tcp"),
        (GOOD.replace("flag is S0", "flag is sf"), "", "ungrounded value: flag sf, not S0"),
        (GOOD.replace("proto is tcp", "proto is tcp, above the median"), "", "wrong direction: proto above"),
        (GOOD.replace("S0, with", "S0 (44%), with"), "", "ungrounded number: 44%"),
        (GOOD.replace("S0, with", "S0 (80%), with"), "", "ungrounded number: 80% is not of flag"),
    ],
)
def test_false_categories_are_refused(analysis: str, items: str, reason: str) -> None:
    found = faults(answer(analysis, items) if items else answer(analysis))
    assert any(one.startswith(reason) for one in found), found


@pytest.mark.parametrize(
    "analysis",
    [
        "The service asked for is unusual and no flag of success stands in it; proto is TCP, and dst_bytes is 2.",
        "A service that answers would differ. Values above the median speak for a flood: proto (tcp), flag (S0).",
        "The service's answers are missing here, and what one expects of a flag is a handshake that was completed.",
        "With flag S0 (10%) and proto tcp (80%) the connection stays half open, and dst_bytes is 2 all the same.",
    ],
)
def test_ordinary_words_and_shares_are_no_faults(analysis: str) -> None:
    assert faults(answer(analysis)) == []


def test_digits_within_a_value_are_no_numbers() -> None:
    items = "service 3pc (30%); proto tcp; flag S0"
    said = "The connection asked for an unusual service, 3pc, and its service is 3pc while flag is S0 all along."
    assert faults(answer(said, items), service="3pc") == []
    assert faults(answer(said, items)) != []
    assert parse_answer(answer(said, items)).indicators[0].value == "3pc"
    nothing = answer(
        "The connection has no service at all, as service is - and flag is S0 with proto tcp.",
        "service -; proto tcp; flag S0",
    )
    assert faults(nothing, service="-") == []


def test_marked_facts_are_the_flows() -> None:
    facts = facts_of(flow())
    assert mark_faults("Here `proto` = tcp (80%) and `flag` = S0, as a service would not.", facts) == []
    assert mark_faults("Here `proto` = udp.", facts) == ["false fact: `proto` = udp"]
    assert mark_faults("Here `proto` = tcp (81%).", facts) == ["false fact: `proto` = tcp (81%)"]
    assert mark_faults("The flow has proto tcp.", facts) == ["unmarked fact: proto"]
    parsed = parse_answer(answer(GOOD, "`proto` = tcp (80%); `flag` = S0 (10%); `dst_bytes` = 2 (above, p80)"))
    assert [(item.feature, item.value, item.note) for item in parsed.indicators[:2]] == [
        ("proto", "tcp", "80%"),
        ("flag", "S0", "10%"),
    ]
    assert "`proto` = tcp (80%); `flag` = S0 (10%)" in format_answer(parsed, "label_first", marked=True)


def test_an_explanation_is_scored_by_its_categories() -> None:
    item = score_explanation(flow(), answer(GOOD), "neptune", list(CLASSES), RANKS, frozenset(), known=KNOWN)
    assert item["values_true"] == item["values_cited"] == 3 and item["faults"] == []
    assert {"proto", "flag"} <= set(item["named_features"])
    other = score_explanation(flow(proto="udp"), answer(GOOD), "neptune", list(CLASSES), RANKS, frozenset())
    assert other["values_true"] == 2 and other["faults"]
    directed = answer(GOOD, "proto tcp (above the median); flag S0; dst_bytes 2")
    assert score_explanation(flow(), directed, "neptune", list(CLASSES), RANKS, frozenset())["false_directions"] == [
        "proto"
    ]


def prompt(text: str, label: str, words: int, marked: bool) -> list[dict[str, str]]:
    listed = "\n".join(f"- {term.name} ({term.unit}): {term.meaning}" for term in glossary(SPEC, "ranked"))
    form = "`<feature>` = <value>" if marked else "items"
    return [
        {
            "role": "system",
            "content": f"Known classes: {', '.join(CLASSES)}\n{listed}\n"
            f"CLASSIFICATION: <class>\nANALYSIS: text\nKEY_INDICATORS: {form}",
        },
        {
            "role": "user",
            "content": f"Record:\n<flow>\n{text}\n</flow>\n\nTrue class: {label}\nExplain in about {words} words.",
        },
    ]


@settings(max_examples=60, deadline=None)
@given(
    kind=KINDS,
    values=st.tuples(*(st.sampled_from(sorted(words)) for words in COUNTS.values())),
    label=st.sampled_from(list(CLASSES)),
    words=st.sampled_from([60, 120, 400]),
    marked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_embedded_teacher_cites_and_rewords_categories_truthfully(
    kind: str, values: tuple[str, str, str], label: str, words: int, marked: bool, seed: int
) -> None:
    text = flow(kind, *values)
    written, _, _ = write_answer(prompt(text, label, words, marked), 0.7, seed, 4096)
    assert check_answer(written, text, label, list(CLASSES), words=words, marked=marked, known=KNOWN) == [], written
    assert {"proto", "service", "flag"} & {item.feature for item in parse_answer(written).indicators}
    given = format_answer(parse_answer(written), "label_first", marked)
    messages = [
        {"role": "user", "content": f"Known classes: {', '.join(CLASSES)}\nRewrite:\n<answer>\n{given}\n</answer>"}
    ]
    reworded, _, _ = write_answer(messages, 0.8, seed, 4096)
    found = check_answer(reworded, text, label, list(CLASSES), original_text=given, marked=marked, known=KNOWN)
    assert [one for one in found if not one.startswith("copy")] == [], f"{given}\n\n{reworded}"


def test_variation_moves_numbers_and_keeps_categories() -> None:
    places = [SPEC.feature_names.index(name) for name in SPEC.category_names]
    values = np.array([[1.0, 0.0, 1.0, *[5.0] * len(NUMBERS)]])
    moved, _ = PaperMoves(len(SPEC.features), places).move(values, np.full((1, len(SPEC.features)), 0.9))
    assert moved[0, places].tolist() == [1.0, 0.0, 1.0] and (moved[0, 3:] != 5.0).all()
    assert with_words(moved[0].tolist(), SPEC)[:3] == ["udp", "http", "S0"]


def test_prompts_say_what_a_category_is() -> None:
    terms = {term.name: term for term in glossary(SPEC, "ranked")}
    assert terms["proto"].unit == "category" and "share of the training flows" in terms["proto"].meaning
    assert terms["count"] == SPEC.features[SPEC.feature_names.index("count")]
    assert "share" not in glossary(SPEC, "values")[0].meaning
