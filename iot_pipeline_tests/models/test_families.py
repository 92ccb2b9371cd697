"""Bases of other families than ChatML's: prompt, end of turn, padding and label tokens are found in each."""

from __future__ import annotations

import datetime
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch  # noqa: TID253
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: TID253

from iot_pipeline.errors import UserError
from iot_pipeline.inference.openvino_engine import EngineUnavailable, OpenVinoStudent
from iot_pipeline.inference.student import Student
from iot_pipeline.models.check import check_base
from iot_pipeline.models.examine import examine
from iot_pipeline.models.loading import describe_base
from iot_pipeline.models.tokenizer import chat_form, class_tokens, encode, literal, load_tokenizer, prompt_text
from iot_pipeline.sft.check import check_tensors
from iot_pipeline.sft.tensors import IGNORED, build_tensors, load_tensors
from iot_pipeline.training.config import TrainConfig
from iot_pipeline.training.distributed import find_machine
from iot_pipeline.training.model import rows_stay_apart
from iot_pipeline.training.train import run
from iot_pipeline_tests.models.families import CHATML, FAMILIES, OF_LAYERS, QWEN3, Family, make_base, make_tokenizer
from iot_pipeline_tests.tiny_model import CLASSES, chats, flow_texts

NAMES = [*CLASSES, "Torii", "q9 x"]


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Family, Path]:
    family = FAMILIES[request.param]
    return family, make_base(family, tmp_path_factory.mktemp("family") / "base")


def test_a_base_is_checked_and_its_tokens_are_found(made: tuple[Family, Path]) -> None:
    family, base = made
    facts = check_base(str(base))
    assert (facts["end_of_turn"], facts["padding"]) == (family.end, family.padding)


def test_it_is_trained_for_a_step_and_answers(made: tuple[Family, Path], tmp_path: Path) -> None:
    family, base = made
    tokenizer, rows, out = load_tokenizer(base), chats(flow_texts(6)), tmp_path / "t.safetensors"
    build_tensors(rows, tokenizer, 400, out)
    assert check_tensors(out, tokenizer, 400, 6).problems == []
    ids, labels = load_tensors(out).row(0)
    assert tokenizer.decode(labels[labels != IGNORED]).strip() == rows[0]["messages"][1]["content"] + family.end
    (prompt,) = encode(tokenizer, [prompt_text(tokenizer, rows[0]["messages"][0]["content"])])
    assert ids[labels == IGNORED].tolist() == prompt
    run(TrainConfig(base=str(base), tensors=out, out=tmp_path / "adapter", max_steps=1, step_rows=6, threads=1))
    student = Student.load(base, tmp_path / "adapter", "cpu", 1)
    texts = [*flow_texts(5, seed=2), flow_texts(1, seed=3)[0][:20]]  # of several lengths in one batch
    scores = student.score_labels(texts, NAMES)
    assert np.allclose(scores, [by_hand(student, text) for text in texts], atol=1e-4)
    answers = student.explain(texts, max_new_tokens=6, answers=["CLASSIFICATION: Normal"] * 6)
    assert all(text.startswith("CLASSIFICATION: Normal") for text, _ended in answers)


@pytest.mark.parametrize("family", ["qwen2.5", "llama 3", "gemma 3"])
def test_a_class_is_trained_by_the_tokens_that_it_is_scored_by(family: str, tmp_path: Path) -> None:
    make_tokenizer(FAMILIES[family], tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    tokenizer = load_tokenizer(tmp_path)
    names, text = ["Torii.", "Normal"], flow_texts(1)[0]
    begun, rest = class_tokens(tokenizer, names)  # families of Qwen's rules have a token of `.` and newline
    for name, tokens in zip(names, rest, strict=True):
        answer = f"CLASSIFICATION: {name}\nANALYSIS: orig_pkts.\nKEY_INDICATORS: orig_pkts 1"
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        build_tensors([{"messages": turns}], tokenizer, 400, tmp_path / "t.safetensors")
        ids, labels = load_tensors(tmp_path / "t.safetensors").row(0)
        supervised = ids[labels != IGNORED].tolist()
        assert supervised[: len(begun) + len(tokens)] == [*begun, *tokens]
        assert tokenizer.decode(supervised, skip_special_tokens=True).strip() == answer


def test_rows_that_would_run_into_each_other_are_not_packed(tmp_path: Path) -> None:
    lfm2 = next(family for name, family in FAMILIES.items() if name.startswith("lfm2"))
    base, out = make_base(lfm2, tmp_path / "base"), tmp_path / "t.safetensors"
    build_tensors(chats(flow_texts(3)), load_tokenizer(base), 400, out)
    config = TrainConfig(base=str(base), tensors=out, out=tmp_path / "adapter", max_steps=1, threads=1, packing="on")
    with pytest.raises(UserError, match="IOT_PACKING=on: in this base, rows end to end read each other"):
        run(config)
    if find_spec("openvino") is not None:
        with pytest.raises(EngineUnavailable, match="layers that are no attention"):
            OpenVinoStudent.open(base, None, "fp32", 1)


@pytest.mark.parametrize(
    ("kind", "apart"), [("qwen2", True), ("llama", True), ("gemma3_text", True), ("gpt2", True), ("opt", False)]
)
def test_whether_rows_end_to_end_stay_apart_is_found_by_trying(kind: str, apart: bool) -> None:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2} | heads
    if kind == "opt":
        sizes |= {"ffn_dim": 48, "word_embed_proj_dim": 32}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **special)).train()
    state = torch.random.get_rng_state()
    assert rows_stay_apart(model, find_machine(1, "off")) is apart
    assert model.training and torch.equal(state, torch.random.get_rng_state())


def by_hand(student: Student, text: str) -> np.ndarray:
    """Log-probabilities of NAMES, each line encoded whole, as in training, and read alone behind the prompt."""
    (prompt,) = encode(student.tokenizer, [prompt_text(student.tokenizer, text)])
    begun = student._ids("CLASSIFICATION:")
    found = []
    for name in NAMES:
        (line,) = encode(student.tokenizer, [literal(student.tokenizer, f"CLASSIFICATION: {name}")])
        with torch.inference_mode():
            logs = student.model(torch.tensor([[*prompt, *line]])).logits[0].float().log_softmax(-1).double()
        places = range(len(begun), len(line))
        found.append(sum(float(logs[len(prompt) + place - 1, line[place]]) for place in places))
    return np.array(found) - np.logaddexp.reduce(found)


def test_a_students_folder_stops_at_the_end_of_turn(made: tuple[Family, Path], tmp_path: Path) -> None:
    family, base = made
    student = Student.load(base, None, "cpu", 1)
    student.save(tmp_path / "merged")
    stops = json.loads((tmp_path / "merged" / "generation_config.json").read_text())["eos_token_id"]
    assert student.tokenizer.convert_tokens_to_ids(family.end) in (stops if isinstance(stops, list) else [stops])


def test_a_bases_own_way_of_decoding_changes_no_answer(made: tuple[Family, Path], tmp_path: Path) -> None:
    base, texts = shutil.copytree(made[1], tmp_path / "base"), flow_texts(3)
    usual = Student.load(base, None, "cpu", 1).explain(texts, max_new_tokens=12)
    path = base / "generation_config.json"  # Qwen2.5-1.5B-Instruct has these
    own = {"do_sample": True, "repetition_penalty": 1.1, "temperature": 0.7, "top_k": 20, "top_p": 0.8}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    student = Student.load(base, None, "cpu", 1)
    assert student.explain(texts, max_new_tokens=12) == usual
    student.save(tmp_path / "merged")
    told = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert not own.keys() & told.keys()


def test_a_prompt_is_the_same_tomorrow(made: tuple[Family, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(made[1])
    today = prompt_text(tokenizer, "orig_pkts: 1")

    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime(2031, 1, 2)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Tomorrow)
    plain = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert ("2031" in plain) == ("strftime_now" in made[0].template)  # the clock was turned
    assert prompt_text(tokenizer, "orig_pkts: 1") == today


def test_a_thinking_base_is_asked_behind_an_empty_thought(tmp_path: Path) -> None:
    for number, name in enumerate(name for name in FAMILIES if name.startswith(("qwen3", "smollm3"))):
        folder = tmp_path / str(number)
        make_tokenizer(FAMILIES[name], folder)
        (folder / "config.json").write_text('{"model_type": "qwen3"}')
        head = prompt_text(load_tokenizer(folder), "x")
        assert head.rstrip("\n").endswith("<|im_start|>assistant\n<think>\n\n</think>"), name


REFUSED = {
    "the prompt opens a thought that the chat lacks": (
        QWEN3.replace("'<think>\\n\\n</think>\\n\\n'", "'<think>\\n'").replace("and loop.last", "and false"),
        "is not the beginning of its whole conversation",
    ),
    "no end": (CHATML.replace("<|im_end|>", ""), "ends an answer without a control token"),
    "no template": ("", "has no chat template"),
    "a system turn is needed": (
        "{% if messages[0].role != 'system' %}{{ raise_exception('a system turn is needed') }}{% endif %}",
        "refuses a user's turn and its answer: a system turn is needed",
    ),
    "the answer is lost": (CHATML.replace("m.content", "m.role"), "leaves out the text of a question"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_template_of_no_known_form_is_one_clear_error(what: str, tmp_path: Path) -> None:
    template, sentence = REFUSED[what]
    make_tokenizer(FAMILIES["qwen3"]._replace(template=template or "x"), tmp_path)
    if not template:
        (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(UserError, match=sentence) as told:
        load_tokenizer(tmp_path)
    assert "\n" not in str(told.value) and str(told.value).startswith("IOT_BASE_MODEL: ")


def test_the_end_of_turn_is_the_token_that_the_base_stops_at(tmp_path: Path) -> None:
    family = FAMILIES["qwen3"]._replace(template=CHATML.replace("'<|im_end|>\\n'", "'</think><|im_end|>\\n'"))
    make_tokenizer(family, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.convert_ids_to_tokens(chat_form(tokenizer).end) == "<|im_end|>"


def test_an_output_that_is_scaled_behind_the_projection_is_refused(tmp_path: Path) -> None:
    base = make_base(FAMILIES["gemma 3"], tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"final_logit_softcapping": 30.0}))
    with pytest.raises(UserError, match="final_logit_softcapping"):
        check_base(str(base))


@pytest.mark.parametrize(
    "scale", ["final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "lm_head_multiplier"]
)
def test_every_name_of_such_a_scale_is_known_in_bases_of_several_parts_too(scale: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", scale: 30.0}))
    with pytest.raises(UserError, match=scale):
        describe_base(str(tmp_path))
    nested = {"model_type": "qwen3_5", "text_config": {"model_type": "qwen3_5_text", scale: 30.0}}
    (tmp_path / "config.json").write_text(json.dumps(nested))
    with pytest.raises(UserError, match=scale):
        describe_base(str(tmp_path))


def test_a_base_that_reads_pictures_too_is_refused_before_the_teacher_is_asked(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gemma3"}')
    with pytest.raises(UserError, match="is a gemma3, which reads pictures or sounds too; take a base of text alone"):
        describe_base(str(tmp_path))


def test_a_base_whose_layers_cannot_be_read_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"num_local_experts": 2, "intermediate_size_mlp": 48, "attention_chunk_size": 16}
    monkeypatch.setitem(OF_LAYERS, "llama4_text", shape)
    base = make_base(FAMILIES["llama 3"]._replace(kind="llama4_text"), tmp_path / "base")
    with pytest.raises(UserError, match="is a Llama4ForCausalLM, whose layers cannot be read without its output"):
        examine(str(base), base)


def test_a_base_of_several_parts_has_the_longest_row_of_its_text_part(tmp_path: Path) -> None:
    family = FAMILIES["qwen3"]
    make_tokenizer(family, tmp_path)
    nested = {"model_type": "qwen3_5", "text_config": {"model_type": "qwen3_5_text", "max_position_embeddings": 512}}
    (tmp_path / "config.json").write_text(json.dumps(nested))
    assert describe_base(str(tmp_path))["longest_row"] == 512
