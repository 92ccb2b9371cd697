"""Small bases of real families: rules of their tokenizers, chat templates after their documentation, random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast  # noqa: TID253

from iot_pipeline_tests.tiny_model import CLASSES, answer_of, flow_texts

# Words as GPT-4's tokenizer cuts them: Qwen with single digits, Llama 3 with up to three.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TURN = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
CHATML = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}"
    f"{{% for m in messages %}}{TURN}{{% endfor %}}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Qwen3: an empty thought before the last answer, and in prompts where thinking is off.
THOUGHT = "'<think>\\n\\n</think>\\n\\n'"
QWEN3 = (
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}"
    f"{{{{ '<|im_start|>assistant\\n' + {THOUGHT} + m.content + '<|im_end|>\\n' }}}}{{% else %}}{TURN}{{% endif %}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    f"{{% if enable_thinking is defined and enable_thinking is false %}}{{{{ {THOUGHT} }}}}{{% endif %}}{{% endif %}}"
)
LLAMA3 = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n<|eot_id|>' }}"
    "{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
SMOLLM3 = (
    "{{ '<|im_start|>system\\nToday Date: ' + strftime_now('%d %B %Y') + '\\n' }}"
    "{% set off = enable_thinking is defined and enable_thinking is false %}"
    "{{ 'Reasoning Mode: ' + ('/no_think' if off else '/think') + '<|im_end|>\\n' }}"
    "{% for m in messages %}{% if m.role == 'assistant' and off %}"
    "{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n' + m.content + '<|im_end|>\\n' }}"
    f"{{% else %}}{TURN}{{% endif %}}{{% endfor %}}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% if off %}{{ '<think>\\n\\n</think>\\n' }}"
    "{% endif %}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)


class Family(NamedTuple):
    """Rules of a family: tokens that are special and that are only added, names of some, template, and its model."""

    rules: str
    special: list[str]
    added: list[str]
    names: dict[str, str]
    template: str
    kind: str
    end: str
    padding: str
    tokenizer_class: str = "PreTrainedTokenizerFast"


IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA = [
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|finetune_right_pad_id|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
]
THINK = ["<think>", "</think>"]
SPIECE = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "[multimodal]", "<start_of_turn>", "<end_of_turn>"]
QWEN = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
FAMILIES = {
    "qwen2.5": Family(
        "qwen", IM, ["<tool_call>"], QWEN, CHATML, "qwen2", "<|im_end|>", "<|endoftext|>", "Qwen2Tokenizer"
    ),
    "qwen2.5 base, which ends texts and not turns": Family(
        "qwen", IM, [], QWEN | {"eos_token": "<|endoftext|>"}, CHATML, "qwen2", "<|im_end|>", "<|endoftext|>"
    ),
    "qwen3": Family("qwen", IM, THINK, QWEN, QWEN3, "qwen3", "<|im_end|>", "<|endoftext|>", "Qwen2Tokenizer"),
    "qwen3, thoughts in prompts alone": Family(
        "qwen", IM, THINK, QWEN, QWEN3.replace("and loop.last", "and false"), "qwen3", "<|im_end|>", "<|endoftext|>"
    ),
    "qwen3, thoughts in chats alone": Family(
        "qwen", IM, THINK, QWEN, QWEN3.replace("is false", "is none"), "qwen3", "<|im_end|>", "<|endoftext|>"
    ),
    "llama 3": Family(
        "llama", LLAMA, [], {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, LLAMA3, "llama",
        "<|eot_id|>", "<|finetune_right_pad_id|>",
    ),
    "gemma 3": Family(
        "gemma", SPIECE, ["<unused0>", "<table>", "\n\n"],
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}, GEMMA3,
        "gemma3_text", "<end_of_turn>", "<pad>", "GemmaTokenizer",
    ),
    "smollm2": Family(
        "smollm", IM, [], {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}, CHATML, "llama", "<|im_end|>",
        "<|endoftext|>",
    ),
    "smollm3": Family(
        "llama", [*LLAMA, *IM[1:]], THINK,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}, SMOLLM3, "smollm3",
        "<|im_end|>", "<|finetune_right_pad_id|>",
    ),
    "mistral": Family(
        "sentencepiece", ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], [],
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, MISTRAL, "mistral", "</s>", "<unk>",
    ),
    "qwen3.5, whose layers are no attention but for every fourth": Family(
        "qwen", IM, THINK, QWEN, QWEN3, "qwen3_5_text", "<|im_end|>", "<|endoftext|>", "Qwen2Tokenizer"
    ),
    "lfm2, with convolutions": Family(
        "llama", ["<|startoftext|>", "<|pad|>", *IM[1:]], [],
        {"bos_token": "<|startoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|pad|>"}, "{{ bos_token }}" + CHATML,
        "lfm2", "<|im_end|>", "<|pad|>",
    ),
    "gpt-oss": Family(
        "llama", ["<|endoftext|>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"], [],
        {"eos_token": "<|return|>", "pad_token": "<|endoftext|>"}, HARMONY, "llama", "<|return|>", "<|endoftext|>",
    ),
}  # fmt: skip

OF_LAYERS: dict[str, dict[str, Any]] = {
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_ff_dim": 48, "block_auto_adjust_ff_dim": False},
    "qwen3_5_text": {
        "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4, "linear_num_key_heads": 2,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    },
}  # fmt: skip


def make_tokenizer(family: Family, folder: Path) -> Any:
    """Train a tokenizer of some 600 tokens by the family's rules, and save it as the family's own are saved."""
    core = _spaced(family) if family.rules in ("gemma", "sentencepiece") else _bytes(family)
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in family.special])
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.added])
    if bos := family.names.get("bos_token"):
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos}:0 $A:0", special_tokens=[(bos, core.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, chat_template=family.template, **family.names)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    told = json.loads(path.read_text()) | {"tokenizer_class": family.tokenizer_class}
    path.write_text(json.dumps(told | {"clean_up_tokenization_spaces": family.rules == "llama"}))
    return tokenizer


def make_base(family: Family, folder: Path) -> Path:
    """Save a random model of the family's architecture with its tokenizer."""
    import torch

    tokenizer = make_tokenizer(family, folder)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer) + 5,  # embeddings of real bases have spare rows
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.3,
    }  # fmt: skip
    sizes |= OF_LAYERS.get(family.kind, {})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family.kind, **sizes), trust_remote_code=False)
    model.save_pretrained(folder)
    return folder


def _bytes(family: Family) -> Tokenizer:
    """Byte-level BPE of Qwen, Llama 3 and SmolLM."""
    core = Tokenizer(models.BPE())
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=family.rules == "smollm")
    if family.rules == "smollm":
        core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole])
    else:
        pattern = Regex(WORDS.replace("DIGITS", "{1,3}" if family.rules == "llama" else ""))
        core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), whole])
    core.normalizer = normalizers.NFC() if family.rules == "qwen" else None
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(_sample(), trainer)
    return core


def _spaced(family: Family) -> Tokenizer:
    """BPE over `▁` with byte fallback: Gemma, and SentencePiece with a space of its own before every text."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    learner.train_from_iterator(_sample(), trainers.BpeTrainer(vocab_size=400, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    tokens = [*family.special, *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    merges = [tuple(merge) for merge in learned["merges"]]
    vocabulary = {token: place for place, token in enumerate(dict.fromkeys(tokens))}
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    parts: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if family.rules == "gemma":
        core.normalizer = normalizers.Replace(" ", "▁")
        core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        parts.append(decoders.Strip(" ", 1, 0))
    core.decoder = decoders.Sequence(parts)
    return core


def _sample() -> list[str]:
    texts = flow_texts(60, seed=5)
    return [*texts, *map(answer_of, texts), *(" ".join([f"CLASSIFICATION: {name}"] * 30) for name in CLASSES[:2])]
