"""GGUF of a student: weights, shape and vocabulary in the one file that llama.cpp and Ollama load."""

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError, printable
from iot_pipeline.export.vocabulary import Vocabulary
from iot_pipeline.lake.atomic import fsync
from iot_pipeline.models.tokenizer import end_of_turn, pad_id, served_template

BLOCK = 32  # weights that share a scale
QUANTISATIONS = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
FEW_BITS = ("q5_1", "q5_0", "q4_1", "q4_0")
ARCHITECTURES = ("qwen2", "llama")
ENDS = ("token_embd.weight", "output.weight")  # of the network: what they lose, no layer mends
INSTALL = "pip install 'iot-pipeline[export]'"


def require_gguf() -> None:
    """Raise UserError if the package that writes GGUF is not installed."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError(f"--format gguf and ollama need the extra `export`: {INSTALL}") from error


def check_shape(config: Any) -> None:
    """Refuse a model that the files written here would not describe fully; UserError says what to do instead."""
    otherwise = "use --format merged, and convert that folder with llama.cpp's own convert_hf_to_gguf.py"
    rope = dict(getattr(config, "rope_parameters", None) or {})
    strange = {
        f"architecture {config.model_type}": config.model_type not in ARCHITECTURES,
        f"positions scaled by {rope.get('rope_type')!r}": rope.get("rope_type", "default") != "default",
        "layers that attend to a window": any(
            kind != "full_attention" for kind in getattr(config, "layer_types", None) or []
        ),
        "biases in attention": config.model_type == "llama" and bool(getattr(config, "attention_bias", False)),
        "biases in the MLP": bool(getattr(config, "mlp_bias", False)),
        f"activation {config.hidden_act}": config.hidden_act != "silu",
    }
    if found := [name for name, true in strange.items() if true]:
        raise UserError(f"--format gguf: the base has {found[0]}, which is not written here; {otherwise}")


def write_gguf(
    model: Any, tokenizer: Any, vocabulary: Vocabulary, path: Path, quantisation: str, about: Mapping[str, str]
) -> dict[str, Any]:
    """Write a model of check_shape's kinds as GGUF, one tensor in memory at a time.

    Args:
        model: Merged student in fp32 on the CPU.
        tokenizer: Its tokenizer.
        vocabulary: The tokens as the engine shall have them.
        path: New file.
        quantisation: One of QUANTISATIONS; of the matrices. Norms and biases stay fp32, embeddings and head have at
            least 8 bits, and a matrix whose rows are no multiple of 32 is written as fp16.
        about: name, description and licence of the model, for its metadata.

    Returns:
        {tensors: number by data type, parameters}.

    Raises:
        UserError: A weight is not finite, or too large for fp16.
    """
    from gguf import GGUFWriter

    writer = GGUFWriter(path, model.config.model_type)
    _describe(writer, model.config, quantisation, about)
    _add_vocabulary(writer, tokenizer, vocabulary)
    state = dict(_tensors(model))
    kinds = {name: _kind_of(name, tuple(value.shape), quantisation) for name, value in state.items()}
    for name, value in state.items():
        shape, size = _stored(tuple(value.shape), kinds[name])
        writer.add_tensor_info(name, shape, _numpy_type(kinds[name]), size, raw_dtype=kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, value in state.items():
        writer.write_tensor_data(_packed(name, value, kinds[name], model.config))
    writer.close()
    fsync(path)
    counts: dict[str, int] = {}
    for kind in kinds.values():
        counts[kind.name] = counts.get(kind.name, 0) + 1
    return {"tensors": counts, "parameters": sum(value.numel() for value in state.values())}


def read_gguf(path: Path, dtype: Any) -> Any:
    """Load a GGUF as transformers reads it, dequantised: not by the code that wrote it.

    UserError if a tensor is missing, or the file is not readable.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    told = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that cannot be switched off
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=dtype, trust_remote_code=False, output_loading_info=True
            )
        model, report = loaded
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be read back: {error}") from error
    finally:
        logging.set_verbosity(told)
    if report["missing_keys"] or report["mismatched_keys"]:
        raise UserError(f"{path}: lacks tensors: {sorted(report['missing_keys'])[:3]}")
    return model.eval()


def _describe(writer: Any, config: Any, quantisation: str, about: Mapping[str, str]) -> None:
    from gguf import LlamaFileType

    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_type("model")
    writer.add_name(printable(about["name"]))
    writer.add_description(printable(about["description"]))
    writer.add_license(printable(about["licence"]))
    named = "ALL_F32" if quantisation == "f32" else f"MOSTLY_{quantisation.upper()}"
    writer.add_file_type(LlamaFileType[named])
    writer.add_quantization_version(2)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_vocabulary(writer: Any, tokenizer: Any, vocabulary: Vocabulary) -> None:
    """Write tokens, special tokens and chat template; the template writes the begin of a text, so no engine shall."""
    writer.add_tokenizer_model(vocabulary.model)
    if vocabulary.merges:
        writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    writer.add_eos_token_id(end_of_turn(tokenizer))
    writer.add_eot_token_id(end_of_turn(tokenizer))
    writer.add_pad_token_id(pad_id(tokenizer))
    # Without one, engines assume token 1, and some put it before every text.
    begin = tokenizer.bos_token_id
    writer.add_bos_token_id(begin if begin is not None else pad_id(tokenizer))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(served_template(tokenizer))


def _tensors(model: Any) -> list[tuple[str, Any]]:
    """Return the tensors by their GGUF names; a head that is the embeddings is left out, and engines take those."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    arch = MODEL_ARCH[model.config.model_type.upper()]
    names = get_tensor_name_map(arch, model.config.num_hidden_layers)
    found = []
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise UserError(f"--format gguf: the model has a tensor {name} that GGUF has no name for")
        found.append((known, value))
    return found


def _kind_of(name: str, shape: tuple[int, ...], quantisation: str) -> Any:
    """Return the data type of a tensor."""
    from gguf import GGMLQuantizationType as Kind

    if len(shape) == 1:
        return Kind.F32
    if quantisation in ("f32", "f16", "bf16"):
        return Kind[quantisation.upper()]
    if shape[-1] % BLOCK:
        return Kind.F16
    return Kind.Q8_0 if name in ENDS and quantisation in FEW_BITS else Kind[quantisation.upper()]


def _stored(shape: tuple[int, ...], kind: Any) -> tuple[tuple[int, ...], int]:
    """Return shape and size in bytes as stored; a quantised row is counted in bytes."""
    from gguf import GGML_QUANT_SIZES
    from gguf.quants import quant_shape_to_byte_shape

    block, size = GGML_QUANT_SIZES[kind]
    stored = quant_shape_to_byte_shape(shape, kind) if _numpy_type(kind) == np.uint8 else shape
    return stored, int(np.prod(shape)) // block * size


def _numpy_type(kind: Any) -> Any:
    return {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16)}.get(kind.name, np.dtype(np.uint8))


def _packed(name: str, value: Any, kind: Any, config: Any) -> np.ndarray:
    """Return a tensor as stored.

    Llama files pair the rotated dimensions of a head side by side, transformers half a head apart:

        transformers  a0 a1 b0 b1   ->   a0 b0 a1 b1     (rows of a head's queries or keys)
    """
    from gguf import quantize

    values = value.detach().float().cpu().numpy()
    part = name.split(".")[-2]
    if config.model_type == "llama" and part in ("attn_q", "attn_k"):
        heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
        values = values.reshape(heads, 2, -1, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
    most = np.abs(values).max() if values.size else 0.0
    if not np.isfinite(most):
        raise UserError(f"--format gguf: {name} holds values that are no numbers; train this track and stage again")
    if kind.name == "F16" and most > np.finfo(np.float16).max:
        raise UserError(f"--format gguf: {name} holds {most:.3g}, too large for fp16; use --quantisation bf16")
    return quantize(np.ascontiguousarray(values), kind)
