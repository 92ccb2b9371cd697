"""Engines give the student's labels; a profile takes one only where it was measured to be faster and to agree."""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.inference import engines, explanation_variants
from iot_pipeline.inference.engines import (
    Measured,
    Opening,
    chosen_engine,
    kind_of,
    measured_on,
    open_engine,
    profiles,
    replica_engine,
)
from iot_pipeline.inference.explanation_variants import OURS, Way, Writing, openvino_writing
from iot_pipeline.inference.measuring import Timed
from iot_pipeline.inference.openvino_engine import EngineUnavailable, OpenVinoStudent, compiled_decoder
from iot_pipeline.inference.student import Student, left_padded
from iot_pipeline.inference.vllm_engine import VllmStudent
from iot_pipeline.models.tokenizer import end_of_turn
from iot_pipeline_tests.models import families
from iot_pipeline_tests.tiny_model import CLASSES, flow_texts, make_base

LONGER = ["Normal", "Port_Scanning", "Norway_x9", "q", "q 7.77 zz"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("engines") / "base")


@pytest.fixture(scope="module")
def student(base: Path) -> Student:
    return Student.load(base, None, device="cpu", threads=1)


def texts_of_all_lengths() -> list[str]:
    return [text + "\nextra: 1.5" * (place % 3) for place, text in enumerate(flow_texts(9, seed=3))]


# `importorskip` would import it with its telemetry.
installed = pytest.mark.skipif(find_spec("nncf") is None, reason="the extra `openvino` is not installed")


@installed
@pytest.mark.parametrize("names", [CLASSES, LONGER])
def test_openvino_scores_as_the_reference_does(base: Path, student: Student, names: list[str]) -> None:
    texts = texts_of_all_lengths()
    opened = OpenVinoStudent.open(base, None, "fp32", 1)
    wanted, states = student.score_with_states(texts, names)
    scores, read = opened.score_with_states(texts, names)
    assert np.allclose(scores, wanted, atol=1e-4) and np.allclose(read, states, atol=1e-3)
    one_by_one = np.concatenate([opened.score_labels([text], names) for text in texts])
    assert np.allclose(one_by_one, wanted, atol=1e-4)
    assert opened.explain(texts[:2], 8) == student.explain(texts[:2], 8)
    assert sys.modules["openvino_telemetry"] is None  # nothing is reported to the maker's server
    assert opened.describe()["engine"] == opened.name == "openvino-fp32"


@installed
def test_a_base_of_another_family_has_its_graph_and_a_window_is_refused(tmp_path: Path) -> None:
    llama, gemma = (families.make_base(families.FAMILIES[name], tmp_path / name[:5]) for name in ("llama 3", "gemma 3"))
    texts = texts_of_all_lengths()[:3]
    wanted = Student.load(llama, None, device="cpu", threads=1).score_labels(texts, LONGER)
    assert np.allclose(OpenVinoStudent.open(llama, None, "fp32", 1).score_labels(texts, LONGER), wanted, atol=1e-4)
    with pytest.raises(EngineUnavailable, match="sliding window"):
        OpenVinoStudent.open(gemma, None, "fp32", 1)


@installed
def test_openvino_writes_what_transformers_writes(base: Path, student: Student) -> None:
    texts = texts_of_all_lengths()
    opened = OpenVinoStudent.open(base, None, "fp32", 1)
    opened.writes = True
    assert opened.describe()["explanations"] == "openvino-fp32"
    heads = [f"CLASSIFICATION: {CLASSES[place % 3]}" for place in range(len(texts))]
    called: list[int] = []
    wanted = student.explain(texts, 24, batch=4, answers=heads, grounded_in=texts)
    found = opened.explain(texts, 24, batch=4, answers=heads, grounded_in=texts, meanwhile=lambda: called.append(1))
    assert found == wanted and len(called) > 24
    assert opened.explain(texts[:3], 12) == student.explain(texts[:3], 12) == opened.explain(texts[:3], 12, batch=1)


@installed
def test_tracing_a_decoder_tells_users_nothing(student: Student) -> None:
    from transformers.utils.logging import warning_once

    told: list[str] = []

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    handler, logger = Told(), logging.getLogger("transformers.modeling_utils")
    warning_once.cache_clear()
    logger.addHandler(handler)
    try:
        compiled_decoder(student.model, 1)
    finally:
        logger.removeHandler(handler)
    assert not told, "tracing asks for the model's loss, which nobody wants"


@installed
def test_rows_that_ended_leave_the_batch_and_change_no_other(base: Path, student: Student) -> None:
    import torch

    end, rows = end_of_turn(student.tokenizer), student._prompts(texts_of_all_lengths()[:5])
    ids, mask = left_padded(rows, student.pad)

    def ends(width: int) -> Any:
        """Processor that ends row 1 at once, row 3 after three tokens, row 0 after six, and no other."""

        def process(written: Any, scores: Any) -> Any:
            done = written.shape[1] - width
            for row, after in ((1, 0), (3, 3), (0, 6)):
                if done == after:
                    scores[row] = -torch.inf
                scores[row, end] = torch.inf if done == after else -torch.inf
            scores[[2, 4], end] = -torch.inf
            return scores

        return process

    given = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 10, "do_sample": False}
    given |= {"eos_token_id": end, "pad_token_id": student.pad}
    made = [
        model.generate(**given, logits_processor=[ends(ids.shape[1])])
        for model in (student.model, compiled_decoder(student.model, 1))
    ]
    assert torch.equal(*made) and made[0].shape[1] == ids.shape[1] + 10


@installed
def test_weights_in_int8_change_probabilities_a_little(base: Path, student: Student) -> None:
    texts = texts_of_all_lengths()
    scores = OpenVinoStudent.open(base, None, "int8", 1).score_labels(texts, CLASSES)
    difference = np.abs(np.exp(scores) - np.exp(student.score_labels(texts, CLASSES))).max()
    assert 0 < difference < 0.05


def test_an_engine_that_is_not_installed_is_one_sentence(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("openvino", "vllm"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'iot-pipeline\[openvino\]'"):
        OpenVinoStudent.open(base, None, "fp32")
    with pytest.raises(EngineUnavailable, match="vllm is not installed"):
        VllmStudent.open(base, None)


def test_replicas_load_the_engine_that_they_are_told(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Opening(str(base), None, "reference").open(1).name == "transformers-fp32"
    with pytest.raises(UserError, match="has no transformers-fp64 on its cpu"):
        Opening(str(base), None, "transformers-fp64").open(1)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"cannot load openvino-fp32 .*IOT_INFERENCE=reference"):
        Opening(str(base), None, "openvino-fp32").open(1)
    reference = partial(str, kind_of("reference", None, "cpu", print).name)
    assert replica_engine("same", reference, needs_states=True) == "transformers-fp32"
    vllm = Opening(str(base), None, replica_engine("vllm", reference, needs_states=False))
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"IOT_RAY_ENGINE=vllm: .* cannot .vllm is not installed"):
        vllm.open(1)
    monkeypatch.setattr(VllmStudent, "open", lambda *given: given)
    assert vllm.open(1) == (str(base), None)
    with pytest.raises(UserError, match="reads hidden states"):
        replica_engine("vllm", reference, needs_states=True)


def measured(engine: str, profile: Any, seconds: float, **other: Any) -> Measured:
    return Measured(engine, profile, seconds, **{"agreement": 1.0, "difference": 1e-6, "flows": 2000} | other)


def test_a_profile_takes_the_fastest_engine_that_agrees() -> None:
    exact, lossy = measured("exact", "balanced", 0.6), measured("lossy", "aggressive", 0.3, difference=0.02)
    found = profiles(1.0, [exact, lossy])
    assert (found["balanced"]["engine"], found["aggressive"]["engine"]) == ("exact", "lossy")
    assert found["aggressive"]["times_reference"] == pytest.approx(3.333)


def test_openvino_writes_where_it_was_faster_and_wrote_the_same() -> None:
    def row(name: str, seconds: float, **more: Any) -> dict[str, Any]:
        name = f"explanation, {name}, batch 32, stop at end of turn"
        return {"name": name, "run": True, "flows": 32, "cpu_seconds_a_flow": seconds, **more}

    reference = row("fp32", 0.4)
    assert openvino_writing([reference, row("openvino-fp32", 0.1, equal_answers=1.0)]) == {
        "offered": True, "engine": "openvino-fp32", "times_reference": 4.0, "equal_answers": 1.0, "flows": 32,
    }  # fmt: skip
    for own, reason in (
        (row("openvino-fp32", 0.1, equal_answers=31 / 32), "96.88% of its answers equal the reference's"),
        (row("openvino-fp32", 0.5, equal_answers=1.0), "not faster"),
        ({"name": "explanation, openvino-fp32, batch 1", "run": False, "reason": "no"}, "no"),
    ):
        found = openvino_writing([reference, own])
        assert not found["offered"] and found["reason"] == reason


def test_a_way_that_would_take_too_long_leaves_the_student_as_it_was(student: Student) -> None:
    before = student.model.config._attn_implementation
    texts = flow_texts(2)
    writing = Writing(student, lambda _dtype: student, texts, CLASSES[:2], "cpu", 1, 0.0, lambda _told: None)
    (row,) = writing.measure([Way("eager", OURS, 1, 8, attention="eager")])
    assert not row["run"] and "would take about" in row["reason"]
    assert before != "eager" and student.model.config._attn_implementation == before


def test_a_base_that_cannot_speculate_is_measured_otherwise(tmp_path: Path) -> None:
    family = next(family for name, family in families.FAMILIES.items() if name.startswith("qwen3.5"))
    student = Student.load(families.make_base(family, tmp_path / "base"), None, device="cpu", threads=1)
    writing = Writing(student, lambda _dtype: student, flow_texts(1), CLASSES, "cpu", 1, 60.0, lambda _told: None)
    guessed, plain = writing.measure([Way("a", OURS, 1, 4, stop=True, lookup=True), Way("b", OURS, 1, 4, stop=True)])
    assert plain["run"] and not guessed["run"] and "does not speculate with this base" in guessed["reason"]


def test_a_cards_first_call_does_not_count_in_what_a_way_would_take(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = list[int]()

    def written(_writing: Writing, _model: Any, _way: Way, rows: list[list[int]], tokens: int) -> Timed:
        called.append(tokens)  # the first call loads kernels
        return Timed([[1] * tokens for _ in rows], 2.0 if len(called) == 1 else 0.001 * tokens, 0.0)

    monkeypatch.setattr(Writing, "_written", written)
    monkeypatch.setattr(explanation_variants, "peak_memory", lambda _device: nullcontext({}))
    writing = Writing(student, lambda _dtype: student, flow_texts(1), CLASSES, "cuda:0", 1, 10.0, lambda _told: None)
    (row,) = writing.measure([Way("old", OURS, 1, 512)])
    assert row["run"] and called[-1] == 512


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (measured("e", "aggressive", 1.0), "not faster"),
        (measured("e", "aggressive", 0.3, agreement=0.9985), "99.8500 % of 2,000 flows"),
        (measured("e", "aggressive", 0.3, flows=900), "compared on 900 flows"),
        (measured("e", "balanced", 0.3, difference=0.01), "a probability differs by 0.01"),
        (measured("e", "balanced", 0.3, difference=float("nan")), "a probability differs by nan"),
    ],
)
def test_an_engine_is_refused_with_its_reason(one: Measured, reason: str) -> None:
    found = profiles(1.0, [one])
    assert not any(profile["offered"] for profile in found.values())
    assert reason in found["aggressive"]["reason"]


def evidence(**other: Any) -> dict[str, Any]:
    found = profiles(1.0, [measured("openvino-fp32", "balanced", 0.5), measured("openvino-bf16", "aggressive", 0.25)])
    told = {"stage": "10K", "track": "original", "model": "m1", "on_card": False}
    return told | {"machine": measured_on(), "profiles": found} | other


def test_evidence_counts_for_its_own_machine_and_student() -> None:
    assert chosen_engine("balanced", evidence(), "cpu", "other")[0] == "openvino-fp32"
    assert chosen_engine("aggressive", evidence(), "cpu", "m1")[0] == "openvino-bf16"
    refused = {
        "nothing was measured": ("balanced", None, "cpu"),
        "on another machine": ("balanced", evidence(machine=measured_on() | {"processor": "x"}), "cpu"),
        "measured on another": ("balanced", evidence(), "cuda"),
        "for another student, original 10K": ("aggressive", evidence(), "cpu"),
    }
    for reason, given in refused.items():
        engine, why = chosen_engine(*given, "m2")  # type: ignore[arg-type]
        assert engine == "" and reason in why, (reason, why)
    assert chosen_engine("reference", evidence(), "cpu") == ("", "")


def test_without_evidence_or_engine_the_reference_answers_and_it_is_said(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    opened = open_engine(base, None, "balanced", None, told.append, device="cpu", threads=1)
    assert type(opened) is Student and opened.name == "transformers-fp32"
    assert told.pop() == (
        "IOT_INFERENCE=balanced: the reference, transformers-fp32, answers: nothing was measured; "
        "`iot-pipeline run --until inference_benchmark` measures"
    )
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert type(open_engine(base, None, "balanced", evidence(), told.append, device="cpu", threads=1)) is Student
    assert "openvino is not installed" in told.pop()
    open_engine(base, None, "reference", None, told.append, device="cpu", threads=1)
    assert told == [] and {kind.name for kind in engines.kinds_of("cuda:0")} == {"transformers-bf16"}


class VllmOfTheReference:
    """Answers vLLM's requests by the reference's model, as vLLM documents its answers."""

    def __init__(self, student: Student) -> None:
        self.student, self.asked = student, list[Any]()

    def generate(self, prompts: list[list[int]], parameters: list[Any]) -> list[Any]:
        self.asked += parameters
        return [self.answer(prompt, told) for prompt, told in zip(prompts, parameters, strict=True)]

    def answer(self, prompt: list[int], told: Any) -> Any:
        import torch

        with torch.inference_mode():
            logits = self.student.model(torch.tensor([prompt])).logits[0].float()
        if told.get("prompt_logprobs"):
            logs = logits.log_softmax(-1)
            rest = [{token: SimpleNamespace(logprob=float(logs[i, token]))} for i, token in enumerate(prompt[1:])]
            return SimpleNamespace(prompt_logprobs=[None, *rest], outputs=[])
        allowed = told.get("allowed_token_ids")
        if allowed:
            logs = logits[-1, allowed].log_softmax(-1)
            found = {token: SimpleNamespace(logprob=float(log)) for token, log in zip(allowed, logs, strict=True)}
            return SimpleNamespace(outputs=[SimpleNamespace(logprobs=[found])])
        text = self.student.tokenizer.encode("Normal", add_special_tokens=False)
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=text, finish_reason="length")])


@pytest.mark.parametrize("names", [CLASSES, LONGER])
def test_vllm_is_asked_for_what_the_scores_need(student: Student, names: list[str]) -> None:
    server = VllmOfTheReference(student)
    asked = VllmStudent(student.tokenizer, dict, server.generate, "0")
    texts = [*texts_of_all_lengths()[:4], texts_of_all_lengths()[0]]
    assert np.allclose(asked.score_labels(texts, names), student.score_labels(texts, names), atol=1e-4)
    assert len(server.asked) == (4 if names == CLASSES else 4 * 4) and {one["max_tokens"] for one in server.asked} == {
        1
    }
    assert asked.explain(texts[:1], 5, answers=["CLASSIFICATION: "]) == [("CLASSIFICATION: Normal", False)]
    assert server.asked[-1]["stop_token_ids"] == [end_of_turn(student.tokenizer)]
    with pytest.raises(UserError, match="IOT_DECODING=free"):
        asked.explain(texts[:1], grounded_in=texts[:1])
