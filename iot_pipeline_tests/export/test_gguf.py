"""A GGUF holds the model and the vocabulary: transformers' own reader gives the same logits and the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch  # noqa: TID253
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer  # noqa: TID253

from iot_pipeline.errors import UserError
from iot_pipeline.export.gguf_file import check_shape, read_gguf, write_gguf
from iot_pipeline.export.vocabulary import BLANK, BY_SCORE, CONTROL, UNUSED, Vocabulary, by_score, vocabulary_of
from iot_pipeline.inference.student import Student
from iot_pipeline.models.tokenizer import LABEL_LINE, encode, end_of_turn, literal, prompt_text, served_template
from iot_pipeline_tests.models.families import FAMILIES, make_base, make_tokenizer
from iot_pipeline_tests.tiny_model import CLASSES, flow_texts
from iot_pipeline_tests.tiny_model import make_base as make_tiny

ABOUT = {"name": "student\x1b[31m", "description": "SIMULATED", "licence": "MIT"}
RULES = {"qwen2.5": "qwen2", "llama 3": "llama-bpe", "smollm2": "smollm"}
KINDS = gguf.GGMLQuantizationType


def asked(tokenizer: Any, count: int = 20) -> list[str]:
    texts = [prompt_text(tokenizer, text) for text in flow_texts(count)]
    return [*texts, *(literal(tokenizer, f"{LABEL_LINE} {name}") for name in CLASSES)]


def written(student: Student, path: Path, quantisation: str = "f32") -> Vocabulary:
    rows = student.model.get_input_embeddings().weight.shape[0]
    vocabulary = vocabulary_of(student.tokenizer, rows, asked(student.tokenizer))
    write_gguf(student.model, student.tokenizer, vocabulary, path, quantisation, ABOUT)
    return vocabulary


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([ids])).logits
    return found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return Student.load(make_tiny(tmp_path_factory.mktemp("tiny") / "base"), None, "cpu", dtype="fp32")


@pytest.mark.parametrize("name", RULES)
def test_models_of_real_families_are_read_back_as_they_were(name: str, tmp_path: Path) -> None:
    student = Student.load(make_base(FAMILIES[name], tmp_path / "base"), None, "cpu", dtype="fp32")
    vocabulary = written(student, tmp_path / "x.gguf")
    assert (vocabulary.pre, vocabulary.differing) == (RULES[name], 0)
    ids = encode(student.tokenizer, asked(student.tokenizer, 1))[0]
    assert torch.allclose(
        logits(student.model, ids), logits(read_gguf(tmp_path / "x.gguf", torch.float32), ids), atol=1e-5
    )
    if name != "smollm2":  # transformers reads every Llama vocabulary by the rules of Llama 3
        reader = AutoTokenizer.from_pretrained(tmp_path, gguf_file="x.gguf", trust_remote_code=False)
        for text in (*flow_texts(5, seed=3), "we'll 12345 a.b\n\n  x"):
            assert reader(text, add_special_tokens=False)["input_ids"] == encode(student.tokenizer, [text])[0]


def test_the_metadata_names_what_an_engine_needs(tmp_path: Path) -> None:
    student = Student.load(make_base(FAMILIES["llama 3"], tmp_path / "base"), None, "cpu", dtype="fp32")
    written(student, tmp_path / "x.gguf")
    told = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "x.gguf").fields.items()}
    end, tokens = end_of_turn(student.tokenizer), told["tokenizer.ggml.tokens"]
    assert told["general.architecture"] == "llama" and told["general.name"] == "student\ufffd[31m"
    assert told["tokenizer.ggml.eos_token_id"] == told["tokenizer.ggml.eot_token_id"] == end
    assert tokens[end] == "<|eot_id|>" and told["tokenizer.ggml.token_type"][end] == CONTROL
    assert not told["tokenizer.ggml.add_bos_token"], "the template writes the begin of a text"
    assert tokens[-5:] == [f"[PAD{place}]" for place in range(len(tokens) - 5, len(tokens))]
    assert told["tokenizer.ggml.token_type"][-5:] == [UNUSED] * 5
    assert told["tokenizer.chat_template"] == served_template(student.tokenizer)
    assert told["llama.attention.head_count_kv"] == 2 and told["llama.rope.dimension_count"] == 8


def test_the_tiny_base_is_read_by_scores_into_its_own_tokens(tiny: Student, tmp_path: Path) -> None:
    vocabulary = written(tiny, tmp_path / "x.gguf")
    assert (vocabulary.model, vocabulary.pre, vocabulary.differing) == ("llama", BY_SCORE, 0)
    assert len(set(vocabulary.tokens)) == len(vocabulary.tokens) and all(vocabulary.tokens)
    assert not any("\0" in token for token in vocabulary.tokens)
    texts = [prompt_text(tiny.tokenizer, text) for text in flow_texts(50, seed=9)]
    assert [list(vocabulary.read(text)) for text in texts] == encode(tiny.tokenizer, texts)
    ids = encode(tiny.tokenizer, asked(tiny.tokenizer, 1))[0]
    assert torch.equal(logits(tiny.model, ids), logits(read_gguf(tmp_path / "x.gguf", torch.float32), ids))


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters=BLANK), max_size=60))
@settings(deadline=None, max_examples=60)
def test_tokens_by_score_spell_the_text(text: str) -> None:
    base = [*map(chr, range(1, 128)), BLANK, *(f"<0x{byte:02X}>" for byte in (0, *range(128, 256)))]
    tokens = [*dict.fromkeys(base), "ab", "abc", "bc", f"{BLANK}a", "1.", "1.5", "\n\n"]
    scores = [-float(len(token)) if len(token) > 1 else 0.0 for token in tokens]
    ids = by_score({token: place for place, token in enumerate(tokens)}, scores, text)
    spelled = b"".join(
        bytes([int(token[3:5], 16)]) if token.startswith("<0x") else token.replace(BLANK, " ").encode()
        for token in (tokens[place] for place in ids)
    )
    assert spelled.decode() == text


@pytest.mark.parametrize(("quantisation", "steps"), [("q8_0", 127), ("q4_0", 8), ("bf16", 256)])
def test_quantised_weights_are_within_a_step_of_their_block(
    quantisation: str, steps: int, tiny: Student, tmp_path: Path
) -> None:
    written(tiny, tmp_path / "x.gguf", quantisation)
    kinds = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    assert kinds["output_norm.weight"] == kinds["blk.0.attn_q.bias"] == KINDS.F32
    assert kinds["token_embd.weight"] == (KINDS.BF16 if quantisation == "bf16" else KINDS.Q8_0)
    assert kinds["blk.0.ffn_gate.weight"] == KINDS[quantisation.upper()]
    if quantisation != "bf16":
        assert kinds["blk.0.ffn_down.weight"] == KINDS.F16, "rows of 48 are no multiple of 32"
    read, kept = read_gguf(tmp_path / "x.gguf", torch.float32).state_dict(), tiny.model.state_dict()
    for name, value in kept.items():
        assert (read[name] - value).abs().max() <= 1.01 * value.abs().max() / steps, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen3"}, "architecture qwen3"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "scaled by 'llama3'"),
        ({"layer_types": ["sliding_attention"]}, "a window"),
        ({"hidden_act": "gelu"}, "activation gelu"),
    ],
)
def test_what_would_not_be_described_fully_is_refused(change: dict[str, Any], message: str, tiny: Student) -> None:
    check_shape(tiny.model.config)
    config = type("Config", (), {**tiny.model.config.to_dict(), "model_type": "qwen2", **change})()
    with pytest.raises(UserError, match=f"{message}.*convert_hf_to_gguf"):
        check_shape(config)


def test_weights_that_are_no_numbers_and_other_tokenizers_are_refused(tiny: Student, tmp_path: Path) -> None:
    vocabulary = written(tiny, tmp_path / "x.gguf")
    norm = tiny.model.model.norm.weight
    before = norm.detach().clone()
    try:
        for value, quantisation, message in ((np.nan, "f32", "no numbers"), (np.inf, "bf16", "no numbers")):
            norm.data[0] = value
            with pytest.raises(UserError, match=message):
                write_gguf(tiny.model, tiny.tokenizer, vocabulary, tmp_path / "y.gguf", quantisation, ABOUT)
    finally:
        norm.data.copy_(before)
    spaced = make_tokenizer(FAMILIES["gemma 3"], tmp_path / "gemma")
    with pytest.raises(UserError, match="no byte-level BPE; use --format merged"):
        vocabulary_of(spaced, len(spaced), [])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_served_template_gives_the_prompts_of_training_to_any_engine(name: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(FAMILIES[name], tmp_path)
    wanted = prompt_text(tokenizer, "orig_pkts: 1")
    tokenizer.chat_template = served_template(tokenizer)
    turns = [{"role": "user", "content": "orig_pkts: 1"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == wanted
    assert prompt_text(tokenizer, "orig_pkts: 1") == wanted
