"""Grounded decoding: every number of an answer is one of its flow, whatever the model would have liked to write."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iot_pipeline.augmentation.answers import STATED, facts_of, numbers_in, plain_number
from iot_pipeline.errors import UserError
from iot_pipeline.flows.serialise import printed
from iot_pipeline.flows.spec import Format
from iot_pipeline.inference.grounding import GroundedNumbers, NotGroundable, NumberTokens, numbers_for, spellings
from iot_pipeline.inference.student import Student
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.tiny_base.tokenizer import build_tokenizer
from iot_pipeline_tests.tiny_model import NO_REAL, REAL, flow_texts, make_base

FEATURES = ["orig_pkts", "resp_pkts", "flow_iat.avg", "flow_iat.tot"]
FLOW = "orig_pkts: -0.068 p97\nresp_pkts: 12 p6\nflow_iat.avg: 2.621e+05 p50\nflow_iat.tot: 12 p43"
COMPACT = "orig_pkts -.068 resp_pkts 12\nflow_iat avg 2.5e-5 tot .5"


@cache
def tokenizer() -> Any:
    """One that has whole values, parts of them, and single digits."""
    texts = [FLOW, "flow_iat.tot 12 (above the median, p97); orig_pkts (-0.068, p43)", "2.621e+05 1.866e+04 3.7e-05"]
    return build_tokenizer(texts * 5, [*FEATURES, "ANALYSIS:", "KEY_INDICATORS:", "CLASSIFICATION:"], 420)


@cache
def tokens() -> NumberTokens:
    return NumberTokens(tokenizer(), len(tokenizer()) + 3)  # models have more scores than there are tokens


@cache
def real() -> tuple[Any, NumberTokens]:
    loaded = load_tokenizer(REAL)
    return loaded, NumberTokens(loaded, len(loaded))


def write(flow: str, head: str, wanted: str, of: Any = None, steps: int = 60) -> str:
    """`head`, and what greedy decoding makes of a model that would say `wanted` and end."""
    import torch

    tokenizer_, tokens_ = of or (tokenizer(), tokens())
    ids = tokenizer_(wanted, add_special_tokens=False)["input_ids"]
    end = tokenizer_.convert_tokens_to_ids("<|im_end|>")
    held = GroundedNumbers(tokens_, [flow], [head], end)
    made: list[int] = []
    for step in range(steps):
        scores = torch.linspace(0, -1, len(tokens_.pieces))[None].clone()
        scores[0, end] = 0.5  # no more to say
        if step < len(ids):
            scores[0, ids[step]] = 2
        best = int(held(torch.tensor([[0, *made]]), scores).argmax())
        if best == end:
            break
        made.append(best)
    return head + str(tokenizer_.decode(made))


@pytest.mark.parametrize(
    ("before", "values", "percentiles"),
    [
        ("ANALYSIS: the value of orig_pkts is ", {"-0.068"}, {"p97"}),
        ("KEY_INDICATORS: flow_iat.avg 2.621e+05 (above the median, ", None, {"p50"}),
        ("resp_pkts and flow_iat.avg are ", {"12", "2.621e+05"}, {"p6", "p50"}),
        ("resp_pkts and orig_pkts (", {"-0.068"}, {"p97"}),
        ("orig_pkts is -0.068, p97; with ", None, None),
        ("orig_pkts is -0.068, p97; with 12, ", None, {"p6", "p43"}),
        ("orig_pkts is -0.068, p97; flow_iat.tot is 12, ", None, {"p43"}),
        ("orig_pkts is odd. Some ", None, None),
        ("orig_pkts is above ", {"-0.068"}, {"p50"}),
    ],
)
def test_the_feature_named_decides_which_numbers_may_follow(
    before: str, values: set[str] | None, percentiles: set[str] | None
) -> None:
    facts, written = facts_of(FLOW), spellings(FLOW)
    every, ranks = {"-0.068", "12", "2.621e+05"}, {"p97", "p6", "p50", "p43"}
    assert numbers_for(before, facts, written, False) == (every if values is None else values)
    assert numbers_for(before, facts, written, True) == (ranks if percentiles is None else percentiles)


CASES = pytest.mark.parametrize(
    ("flow", "wanted", "written"),
    [
        (FLOW, "orig_pkts 3.5 (", "orig_pkts -0.068 ("),
        (FLOW, "orig_pkts (0.068,", "orig_pkts (-0.068,"),
        (FLOW, "resp_pkts 120;", "resp_pkts 12;"),
        (FLOW, "resp_pkts 12.", "resp_pkts 12."),
        (FLOW, "flow_iat.avg 2.621e-05 ", "flow_iat.avg 2.621e+05 "),
        (FLOW, "flow_iat.avg 2 (", "flow_iat.avg 2.621e+05 ("),
        (FLOW, "resp_pkts 12 (below the median, p97)", "resp_pkts 12 (below the median, p6)"),
        (FLOW, "no number at all.", "no number at all."),
        (COMPACT, "flow_iat.avg .7;", "flow_iat.avg 2.5e-5;"),
        (COMPACT, "flow_iat.tot 0.5;", "flow_iat.tot 0.5;"),
        (COMPACT, "orig_pkts .068;", "orig_pkts -.068;"),
    ],
)


@CASES
def test_a_false_number_becomes_that_of_the_feature(flow: str, wanted: str, written: str) -> None:
    made = write(flow, "KEY_INDICATORS: ", wanted)
    assert numbers(made, flow) == numbers(written, flow) <= facts_of(flow).numbers
    assert made.startswith(f"KEY_INDICATORS: {written.rstrip(' (;,)')}")


@pytest.mark.skipif(not REAL.is_dir(), reason=NO_REAL)
@CASES
def test_so_it_does_in_the_single_digits_of_a_real_vocabulary(flow: str, wanted: str, written: str) -> None:
    made = write(flow, "KEY_INDICATORS: ", wanted, real())
    if " ." in wanted and " ." not in written:  # a point of its own, written before anything says that it is a number's
        assert numbers(made, flow) == set()
        return
    assert numbers(made, flow) == numbers(written, flow)
    assert made.startswith(f"KEY_INDICATORS: {written.rstrip(' (;,)')}")


def test_a_sign_that_no_value_has_is_followed_by_no_number() -> None:
    assert numbers(write(FLOW, "KEY_INDICATORS: ", "resp_pkts -12;"), FLOW) == set()


def numbers(text: str, flow: str) -> set[str]:
    return set(numbers_in(text, facts_of(flow)))


def test_the_class_is_never_touched() -> None:
    assert write(FLOW, "", "CLASSIFICATION: Class 7\nANALYSIS: it") == "CLASSIFICATION: Class 7\nANALYSIS: it"


def test_digits_of_a_name_are_no_number() -> None:
    assert write("top_40: 1.5", "ANALYSIS: ", "top_40 is") == "ANALYSIS: top_40 is"


def test_a_flow_without_percentiles_lets_none_be_written() -> None:
    made = write("orig_pkts: -0.068", "ANALYSIS: ", "orig_pkts is -0.068, p97")
    assert "p97" not in made and "-0.068" in made


def test_a_vocabulary_that_cannot_write_numbers_is_a_clear_error() -> None:
    class NoDigits:
        added_tokens_decoder: ClassVar[dict[int, Any]] = {}

        def __len__(self) -> int:
            return 2

        def batch_decode(self, rows: list[list[int]]) -> list[str]:
            return ["a", "b"][: len(rows)]

    with pytest.raises(NotGroundable, match=r"no token for 0 1 2.*IOT_DECODING=free"):
        NumberTokens(NoDigits(), 2)


def test_a_vocabulary_that_drops_spaces_is_a_clear_error() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["\u2581orig_pkts", "\u2581is", "\u2581", ",", *"0123456789.e+-p", "<unk>"]
    pieces = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, [], unk_token="<unk>"))
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    with pytest.raises(NotGroundable, match="IOT_DECODING=free"):
        NumberTokens(PreTrainedTokenizerFast(tokenizer_object=pieces), len(words))


FORMS = st.sampled_from([Format(decimals=3), Format(significant=4), Format(decimals=0)])
VALUES = st.floats(-1e9, 1e9, allow_nan=False) | st.floats(-1, 1) | st.floats(-1e-6, 1e-6) | st.just(0.0)


@st.composite
def flows(draw: st.DrawFn) -> str:
    form, ranked = draw(FORMS), draw(st.booleans())
    lines = [f"{name}: {printed(form, draw(VALUES))}" for name in FEATURES]
    return "\n".join(f"{line} p{draw(st.integers(0, 100))}" if ranked else line for line in lines)


@settings(max_examples=100, deadline=None)
@given(st.lists(flows(), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
@example(["\n".join(f"{name}: 0.000" for name in FEATURES)] * 3, 4306)  # `.e-0` was taken for an open number
def test_every_number_stands_in_its_flow_whatever_the_model_wants(texts: list[str], seed: int) -> None:
    """A model of noise that likes names and numbers; rows of a batch are held to their own flows."""
    import torch

    rng = np.random.default_rng(seed)
    ascii_only = np.array([piece.isascii() for piece in tokens().pieces])
    numeric = ~tokens().free | np.isin(tokens().pieces, [" ", "-", "+", ".", "e", "p", ", ", " (", ";", "th"])
    named = np.isin([piece.strip() for piece in tokens().pieces], FEATURES)
    taste = np.where(ascii_only, 2.0 * numeric + 3.0 * named, -100)
    held = GroundedNumbers(tokens(), texts, ["ANALYSIS: "] * len(texts), -1)
    made = torch.zeros((len(texts), 1), dtype=torch.long)
    for _ in range(40):
        scores = torch.from_numpy(taste + rng.normal(0, 2, (len(texts), len(taste))))
        made = torch.cat([made, held(made, scores).argmax(dim=1, keepdim=True)], dim=1)
    for text, row in zip(texts, made[:, 1:].tolist(), strict=True):
        answer = "ANALYSIS: " + "".join(tokens().pieces[token] for token in row)
        answer = answer[: max(answer.rfind(" "), answer.rfind(";"))]  # the limit may have cut the last number
        assert not numbers(answer, text) - facts_of(text).numbers, answer
        for line in answer.split("\n"):
            for mention in facts_of(text).names.finditer(line):
                if stated := STATED.match(line, mention.end()):
                    assert plain_number(stated[1]) == facts_of(text).values[mention[0]], answer


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return Student.load(make_base(tmp_path_factory.mktemp("grounded") / "base"), None, device="cpu", threads=1)


def test_a_student_is_held_to_its_flows_and_free_where_it_is_not_asked(student: Student) -> None:
    texts = flow_texts(5, seed=3)
    heads = ["CLASSIFICATION: Normal\nANALYSIS: orig_pkts"] * 5
    free = student.explain(texts, 20, answers=heads)
    held = student.explain(texts, 20, answers=heads, grounded_in=texts)
    assert held == [student.explain([t], 20, 1, [h], None, [t])[0] for t, h in zip(texts, heads, strict=True)]
    assert free == student.explain(texts, 20, answers=heads)
    for text, (answer, _ended) in zip(texts, held, strict=True):
        assert not numbers(answer.rsplit(" ", 1)[0], text) - facts_of(text).numbers
    with pytest.raises(UserError, match="one flow text for each prompt"):
        student.explain(texts, 20, grounded_in=texts[:1])


WORDS = "proto = tcp 80%\nservice = 3pc 2%\norig_pkts: -0.068 p97"


@pytest.mark.parametrize(
    ("wanted", "written"),
    [
        ("proto udp; orig_pkts 3", "proto tcp; orig_pkts -0.068"),
        ("proto tcp (12%); orig_pkts 3", "proto tcp (80%); orig_pkts -0.068"),
        ("proto tcpx", "proto tcp"),
        ("service 3pc (2%); proto tcp", "service 3pc (2%); proto tcp"),
        ("service 7", "service 3pc"),
    ],
)
def test_a_cited_category_is_that_of_the_flow(wanted: str, written: str) -> None:
    made = write(WORDS, "KEY_INDICATORS: ", wanted)
    assert made.startswith("KEY_INDICATORS: " + written), made
