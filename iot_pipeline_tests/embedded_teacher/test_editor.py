"""The editor: an explanation in other sentences, with its facts, its points and about its length, and no copy of it."""

import re
from random import Random
from typing import Any

import pytest

from iot_pipeline.augmentation.answers import parse_answer
from iot_pipeline.augmentation.prose_words import PROSE_WORDS
from iot_pipeline.embedded_teacher.analyst import write_answer
from iot_pipeline.embedded_teacher.editor import Editor, phrases
from iot_pipeline.embedded_teacher.phrasing import KNOWLEDGE, Cite, Writer, knowledge
from iot_pipeline.flows.names import name_fault
from iot_pipeline.flows.serialise import NUMBER
from iot_pipeline.lake.yaml_reader import read_own_yaml
from iot_pipeline_tests.augmentation.mutations import judged, true_answers

ANSWER = (
    "CLASSIFICATION: {label}\nANALYSIS: The record fits {label} best. "
    "Here resp_pkts stands at 2.265, p97, above the median; "
    "likewise orig_pkts (-0.068, p40) is below the median. {why}\n"
    "KEY_INDICATORS: resp_pkts 2.265 (above the median, p97); orig_pkts -0.068 (below the median, p40); "
    "flow_iat.avg 0.500 (at the median, p50)"
)


def rewritten(answer: str, seed: int, temperature: float = 0.8) -> str:
    """The analysis of a paraphrase."""
    told = [{"role": "user", "content": f"Rewrite this explanation:\n<answer>\n{answer}\n</answer>"}]
    return parse_answer(write_answer(told, temperature, seed, 2048)[0]).analysis


def strings(content: Any) -> list[str]:
    """All sentences and phrases of a YAML file."""
    if isinstance(content, dict):
        return [text for value in content.values() for text in strings(value)]
    if isinstance(content, list):
        return [text for value in content for text in strings(value)]
    return [content] if isinstance(content, str) else []


def test_every_paraphrase_passes_the_gates() -> None:
    cases = [case for case in true_answers(900, 31, (30, 60, 60, 120, 300, 900)) if case.original]
    assert len(cases) > 250
    assert [reasons for case in cases if (reasons := judged(case, case.answer, case.original))] == []


def test_it_makes_the_point_that_the_original_makes() -> None:
    for label, about in knowledge()["classes"].items():
        for place, why in enumerate(about["why"]):
            analysis = rewritten(ANSWER.format(label=label, why=why), place)
            known = phrases()["classes"][label]["points"][place]
            assert any(point in analysis for point in known), (label, why, analysis)


def test_its_phrases_are_not_those_of_the_analyst() -> None:
    own, others = strings(phrases()), strings(read_own_yaml(KNOWLEDGE))
    assert not {text for text in own if len(text.split()) > 3} & set(others)
    for text in own:
        assert not re.search(r"\d|_", text), text


def test_each_word_of_its_sentences_is_known_as_a_word_beside_a_feature_of_that_name() -> None:
    texts = [*strings(phrases()), *strings(read_own_yaml(KNOWLEDGE)), "the last of them"]
    words = {word.lower() for text in texts for word in re.findall(r"[^\W\d_]{2,}", re.sub(r"\{\w+\}", "", text))}
    assert len(words) > 900
    assert sorted(word for word in words - PROSE_WORDS if word != "thingspeak" and not name_fault(word)) == []


def test_a_word_right_before_a_value_names_no_feature() -> None:
    texts = [*strings(phrases()), *strings(read_own_yaml(KNOWLEDGE))]
    before = {word.lower() for text in texts for word in re.findall(r"(\w+),? \(?\{v\}", text)}
    assert {"carries", "namely", "puts"} & before and [word for word in before if not name_fault(word)] == []


def test_sentences_are_whole_and_every_class_has_as_many_points_as_reasons() -> None:
    classes = phrases()["classes"]
    assert classes.keys() == knowledge()["classes"].keys()
    for label, about in (*classes.items(), ("generic", phrases()["generic"])):
        assert len(about["points"]) == len((knowledge()["classes"] | knowledge())[label]["why"])
        for sentence in strings([about["points"], about["act"]]):
            assert sentence[0].isupper() and sentence.endswith("."), sentence
    for sentence in strings([phrases()[name] for name in ("remarks", "background", "contrasts", "pairs")]):
        assert sentence.endswith(".") and not sentence[0].islower(), sentence


@pytest.mark.parametrize("seed", range(20))
def test_features_values_and_percentiles_stand_as_often_as_before(seed: int) -> None:
    analysis = rewritten(ANSWER.format(label="HTTP_Flood", why="Nothing else."), seed)
    assert sorted(re.findall(rf"(?<![\w.]){NUMBER}\b", analysis.replace("p97", "").replace("p40", ""))) == [
        "-0.068",
        "2.265",
    ]
    assert analysis.count("p97") == analysis.count("p40") == analysis.count("resp_pkts") == 1
    assert "flow_iat.avg" not in analysis


def test_equal_requests_give_equal_texts_and_seeds_other_ones() -> None:
    answer = ANSWER.format(label="HTTP_Flood", why="Nothing else.")
    assert rewritten(answer, 1) == rewritten(answer, 1)
    assert len({rewritten(answer, seed) for seed in range(50)}) > 45
    assert rewritten(answer, 1, 0.0) == rewritten(answer, 2, 0.0)


def test_clauses_that_agree_are_not_opposed() -> None:
    cites = [Cite(name, "0.5", "p90", "above") for name in ("orig_pkts", "resp_pkts", "flow_iat.avg")]
    for seed in range(100):
        text = Editor(Writer(Random(seed), 1.0)).rewrite("word " * 60, "Normal", cites, ())
        assert not re.search(r", (?:while|whereas|but|yet) |by contrast", text), text
