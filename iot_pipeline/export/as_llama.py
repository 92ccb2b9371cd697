"""A Qwen2 written as the Llama that computes the same, where transformers would read its folder with other tokens.

transformers loads every folder of a Qwen2 with Qwen2's own tokenizer, whatever tokenizer_config.json names, and so do
vLLM and others that use it: the tiny base's vocabulary would be cut by wrong rules, without an error. A Llama with
biases in its attention is the same network but for one more bias, which is zero; its folder is read by its own
tokenizer.json.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iot_pipeline.inference.student import Student
from iot_pipeline.models.tokenizer import encode, plain, prompt_text


def auto_tokenizer(folder: Path) -> Any:
    """Load a tokenizer as other programs do."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def other_tokens(student: Student, questions: Sequence[str]) -> int:
    """Count the prompts that other programs would read as other tokens from a folder of this student."""
    texts = [prompt_text(student.tokenizer, question) for question in questions]
    with tempfile.TemporaryDirectory() as name:
        student.model.config.save_pretrained(name)
        student.tokenizer.save_pretrained(name)
        other = auto_tokenizer(Path(name))
    theirs = other([plain(text) for text in texts], add_special_tokens=False)["input_ids"] if texts else []
    return sum(list(a) != b for a, b in zip(theirs, encode(student.tokenizer, texts), strict=True))


def readable(student: Student, questions: Sequence[str]) -> int:
    """Make a Qwen2 a Llama if that lets others read its prompts; return how many they still read as other tokens.

    The student's model is replaced.
    """
    wrong = other_tokens(student, questions)
    if not wrong or student.model.config.model_type != "qwen2":
        return wrong
    before, student.model = student.model, as_llama(student.model)
    still = other_tokens(student, questions)
    if still == wrong:
        student.model = before
    return still


def as_llama(model: Any) -> Any:
    """Return the Llama that computes what a Qwen2 without windows does; weights are shared, not copied."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    old = model.config
    kept = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act "
        "max_position_embeddings initializer_range rms_norm_eps rope_parameters tie_word_embeddings bos_token_id "
        "eos_token_id pad_token_id"
    )
    config = LlamaConfig(**{name: getattr(old, name) for name in kept.split()}, attention_bias=True, mlp_bias=False)
    with torch.device("meta"):
        made = LlamaForCausalLM._from_config(config, dtype=model.dtype)
    state = dict(model.state_dict())
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}.self_attn.o_proj"
        state[f"{name}.bias"] = torch.zeros_like(state[f"{name}.weight"][:, 0])
    made.load_state_dict(state, assign=True)
    made.model.rotary_emb = model.model.rotary_emb
    made.tie_weights()
    made.generation_config = model.generation_config
    return made.eval()
