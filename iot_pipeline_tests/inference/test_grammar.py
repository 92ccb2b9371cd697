"""One grammar a flow: it takes every right answer and refuses each wrong number, category and direction."""

from __future__ import annotations

import random
import sys
from functools import cache
from typing import Any

import pytest

from iot_pipeline.augmentation.answers import facts_of, parse_answer
from iot_pipeline.augmentation.marks import mark_faults
from iot_pipeline.embedded_teacher.phrasing import Cite
from iot_pipeline.errors import UserError
from iot_pipeline.inference.grammar import facts_to_cite, gbnf, lark
from iot_pipeline.inference.grounding import NotGroundable
from iot_pipeline.inference.guided import GuidedAnswers, guide_tokens
from iot_pipeline.inference.student import Student
from iot_pipeline.models.tokenizer import END_OF_TURN, load_tokenizer
from iot_pipeline_tests.inference.planted import KINDS, Right, planted, right_answers, tiny_tokenizer
from iot_pipeline_tests.tiny_model import CLASSES, NO_REAL, REAL, flow_texts, make_base

FLOW = "orig_pkts: -0.068 p40\nresp_pkts: 12 p97\nflow_iat.avg: .5 p50"
ORIG, RESP, IAT = "`orig_pkts` = -0.068 (below, p40)", "`resp_pkts` = 12 (above, p97)", "`flow_iat.avg` = .5 (at, p50)"
ITEMS = f"{ORIG}; {RESP}; {IAT}"


@cache
def tokens(real: bool) -> tuple[Any, Any]:
    tokenizer = load_tokenizer(REAL) if real else tiny_tokenizer(16)
    return tokenizer, guide_tokens(tokenizer, len(tokenizer) + 7, tokenizer.convert_tokens_to_ids(END_OF_TURN))


@cache
def answers() -> list[Right]:
    return list(right_answers(48, 3, (30, 60, 120)))


def taken(grammar: str, text: str, real: bool = False) -> str | None:
    """The part of a text that its grammar takes; None if it takes all of it as a whole answer."""
    from llguidance import LLMatcher

    tokenizer, known = tokens(real)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    matcher = LLMatcher(known, grammar)
    assert not matcher.is_error(), matcher.get_error()
    read = matcher.try_consume_tokens(ids)
    return None if read == len(ids) and matcher.is_accepting() else str(tokenizer.decode(ids[:read]))


def answer(analysis: str = f"we see {ORIG}, so", items: str = ITEMS, label: str = "Normal") -> str:
    return f"CLASSIFICATION: {label}\nANALYSIS: {analysis}\nKEY_INDICATORS: {items}"


@pytest.mark.parametrize(
    "real", [False, pytest.param(True, marks=pytest.mark.skipif(not REAL.is_dir(), reason=NO_REAL))]
)
def test_right_answers_are_taken_and_planted_faults_are_not(real: bool) -> None:
    draw, kinds = random.Random(7), set()
    for place, right in enumerate(answers()):
        grammar = right.lark()
        assert taken(grammar, right.text, real) is None, right.text
        for fault in range(place * 6, place * 6 + 6):
            kind, text, end = planted(right, fault, draw)
            kinds.add(kind)
            read = taken(grammar, text, real)
            assert read is not None and len(read) <= end, (kind, text)
    assert kinds == set(KINDS)


def test_the_gbnf_says_the_same_by_llguidances_own_reader() -> None:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    draw = random.Random(8)
    for place, right in enumerate(answers()[:12]):
        grammar = gbnf_to_lark(right.gbnf())
        assert taken(grammar, right.text) is None
        assert taken(grammar, planted(right, place, draw)[1]) is not None


@pytest.mark.parametrize(
    "analysis",
    [
        f"we see {ORIG}, so",
        f'it\'s (nearly) "quiet" \u2013 naïve, e.g. {ORIG}: {RESP}; {IAT}. Not so Port_Scanning!',
        "`orig_pkts` and `flow_iat.avg` speak for aboard, abbot and belonging.",
        "`resp_pkts` = 12, though.",
        ORIG,
    ],
)
def test_prose_is_free(analysis: str) -> None:
    assert taken(lark(gbnf(facts_to_cite(FLOW), CLASSES, "label_first")), answer(analysis)) is None


@pytest.mark.parametrize(
    "analysis",
    [
        "`resp_pkts` = 12 (at) is",  # in prose, it would read as the fact's own note
        "`resp_pkts` = 12th is",
        "`resp_pkts` = 12 (above) is",
        "`resp_pkts` = 12.5 is",
        "`dst_port` = 12 is",
        "orig_pkts is small",
        "it is Above all",
        "\u0661\u0662 and \u00bd",
        "a\nb",
        "a <|im_end|>",
    ],
)
def test_what_reads_as_a_fact_is_one(analysis: str) -> None:
    read = taken(lark(gbnf(facts_to_cite(FLOW), CLASSES, "label_first")), answer(analysis))
    assert read is not None and analysis not in read


def test_the_class_line_has_the_scored_class_and_the_parts_their_order() -> None:
    facts = facts_to_cite(FLOW)
    scored = lark(gbnf(facts, CLASSES, "label_first", "Normal"))
    assert taken(scored, answer()) is None and taken(scored, answer(label="TCP_Flood")) is not None
    last = lark(gbnf(facts, CLASSES, "explanation_first"))
    first, rest = answer().split("\n", 1)
    assert taken(last, f"{rest}\n{first}") is None and taken(last, answer()) == ""
    assert taken(scored, answer(items=f"{ORIG}; {RESP}")) is not None, "fewer than three indicators"


def test_facts_are_those_of_the_flow_text_in_any_serialisation() -> None:
    signed = frozenset({"flow_iat.avg", "flow_iat.tot"})
    assert [str(fact) for fact in facts_to_cite("orig_pkts 3 ip_bytes 0\nflow_iat avg -.5 tot 2.5e-5", signed)] == [
        "`orig_pkts` = 3", "`orig_ip_bytes` = 0", "`flow_iat.avg` = -.5 (below)", "`flow_iat.tot` = 2.5e-5 (above)",
    ]  # fmt: skip
    odd = gbnf([Cite("a", 'x"\\', "", "", True)], ['say "no"'], "label_first")
    said = 'CLASSIFICATION: say "no"\nANALYSIS: a\nKEY_INDICATORS: `a` = x"\\'
    assert taken(lark(odd), said) is None
    with pytest.raises(UserError, match="facts of a flow"):
        gbnf([], CLASSES, "label_first")


def test_what_the_grammar_refuses_in_an_analysis_the_gate_names() -> None:
    draw = random.Random(9)
    for place, right in enumerate(answers()):
        flow = "\n".join(
            f"{fact.feature}: {fact.value}" + (f" {fact.percentile}" if fact.percentile else "")
            for fact in right.facts[:-2]
        )
        signed = frozenset(fact.feature for fact in right.facts if fact.direction)
        known = facts_of(flow, signed)
        stated = right.facts[-2:]
        plain = right.text.replace(f" The record also has {stated[0]} and {stated[1]}.", "")
        plain = plain.replace(f"; {stated[0]}; {stated[1]}", "")
        assert mark_faults(parse_answer(plain).analysis, known) == []
        kind, text, _ = planted(Right(plain, right.facts[:-2], right.classes, right.order, None), place, draw)
        if "category" not in kind and text.split("KEY_INDICATORS")[0] != plain.split("KEY_INDICATORS")[0]:
            assert mark_faults(parse_answer(text).analysis, known) != [], (kind, text)


def written(wanted: str, head: str = "", steps: int = 120) -> str:
    """`head`, and what greedy decoding makes of a model that would say `wanted` and end."""
    import torch

    tokenizer, known = tokens(False)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (head, wanted)]
    grammar = lark(gbnf(facts_to_cite(FLOW), CLASSES, "label_first"))
    guided, made = GuidedAnswers(known, [grammar], [ids[0]]), list[int]()
    for step in range(steps):
        scores = torch.linspace(0, -1, known.vocab_size)[None].clone()
        scores[0, known.eos_token] = 0.5  # no more to say
        if step < len(ids[1]):
            scores[0, ids[1][step]] = 2
        made.append(int(guided(None, scores).argmax()))
        if made[-1] == known.eos_token:
            return head + str(tokenizer.decode(made[:-1]))
    raise AssertionError(tokenizer.decode(made))


def test_a_false_value_becomes_the_true_one_and_a_true_answer_stays() -> None:
    head, rest = "CLASSIFICATION: Normal", answer().removeprefix("CLASSIFICATION: Normal")
    assert written(rest, head) == answer()
    made = written(rest.replace("= 12", "= 13"), head)
    assert made.startswith(answer().partition(" (above")[0])
    assert written(answer() + "; and more").startswith(answer())
    with pytest.raises(UserError, match="does not fit"):
        written(answer(), head="CLASSIFICATION: Rogue")


def test_a_tokenizer_that_llguidance_cannot_read_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotGroundable, match="IOT_DECODING=free"):
        guide_tokens(object(), 3, 1)
    monkeypatch.setitem(sys.modules, "llguidance.hf", None)
    with pytest.raises(NotGroundable, match=r"llguidance is not installed.*IOT_DECODING=free"):
        guide_tokens(object(), 3, 1)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return Student.load(make_base(tmp_path_factory.mktemp("guided") / "base"), None, device="cpu", threads=1)


def test_a_student_follows_its_grammars_in_batches(student: Student) -> None:
    texts, heads = flow_texts(5, seed=3), ["CLASSIFICATION: Normal"] * 5
    grammars = [lark(gbnf(facts_to_cite(text), CLASSES, "label_first", "Normal")) for text in texts]
    held = student.explain(texts, 60, answers=heads, guided_by=grammars)
    assert held == [
        student.explain([t], 60, 1, heads[:1], guided_by=[g])[0] for t, g in zip(texts, grammars, strict=True)
    ]
    for said, _ended in held:
        assert said.startswith("CLASSIFICATION: Normal\nANALYSIS: ")
    with pytest.raises(UserError, match="guided decoding one grammar"):
        student.explain(texts, 60, guided_by=grammars[:1])


def test_a_category_is_cited_as_the_flow_has_it() -> None:
    flow = "proto = tcp 80%\nservice = -\norig_pkts: -0.068 p40"
    facts = facts_to_cite(flow)
    assert [str(fact) for fact in facts[:2]] == ["`proto` = tcp (80%)", "`service` = -"]
    grammar = lark(gbnf(facts, CLASSES, "label_first"))
    right = f"we see `proto` = tcp and `service` = - with {ORIG}, so"
    items = f"`proto` = tcp (80%); `service` = -; {ORIG}"
    assert taken(grammar, answer(right, items)) is None
    for false in ("`proto` = udp", "`proto` = tcp (81%)", "`proto` = tcp (above)", "`service` = http"):
        assert taken(grammar, answer(f"we see {false} here, so", items)) is not None
