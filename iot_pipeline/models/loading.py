"""Loading a base and a LoRA adapter, from safetensors only; a missing tensor is an error, never random."""

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import sha256_file
from iot_pipeline.models.cpu_products import use_onednn
from iot_pipeline.models.folder import base_folder, read_settings, weight_files
from iot_pipeline.models.tokenizer import in_one_line, load_tokenizer

ADAPTER = "adapter_model.safetensors"
NAMED = 3  # tensors listed in an error
LARGEST = 1e10  # of a weight; a damaged exponent gives up to 3e38, whose products are infinite
LARGEST_ALPHA = 1e6
# Of peft's settings: they change scale, layers or code of an adapter whose tensors look the same.
NEVER_SET = (
    "alpha_pattern", "rank_pattern", "use_rslora", "use_dora", "lora_bias", "modules_to_save", "layers_to_transform",
    "trainable_token_indices", "megatron_config", "auto_map", "arrow_config", "kasa_config", "monteclora_config",
    "velora_config", "use_qalora", "layer_replication", "target_parameters",
)  # fmt: skip
SCALED = (  # Gemma 2, Granite, Cohere; RecurrentGemma, xLSTM, Falcon H1
    "final_logit_softcapping", "logits_scaling", "logit_scale",
    "logits_soft_cap", "output_logit_soft_cap", "lm_head_multiplier",
)  # fmt: skip


def attention_kernel(device: Any, dtype: Any) -> str:
    """Return the attention kernel by its transformers name: flash attention if installed and usable, else sdpa.

    Both are exact. Flash attention reads packed rows by their lengths; sdpa needs a block mask for them and is slower.
    """
    import torch
    from transformers.utils import is_flash_attn_2_available

    on_card = torch.device(device).type == "cuda" and dtype in (torch.bfloat16, torch.float16)
    return "flash_attention_2" if on_card and is_flash_attn_2_available() else "sdpa"


def attends_alone(config: Any) -> bool:
    """True if every layer is attention, to all tokens or to a window.

    Others (Qwen3.5, LFM2, Mamba) carry a state from token to token: padding between two tokens changes it, and it goes
    on from row to row where rows stand end to end.
    """
    kinds = getattr(config.get_text_config(), "layer_types", None) or []
    return set(kinds) <= {"full_attention", "sliding_attention"}


def describe_base(base: str, download: bool = True, folder: Path | None = None) -> dict[str, Any]:
    """Describe a base without its weights: {architecture, longest_row, revision} of a causal language model.

    `folder`: where its files are, if that is known.
    longest_row: tokens that a row may have, None without a limit. revision: commit on the hub, None for a folder.
    The tokeniser is loaded too. UserError if it is no such model, or has no chat template or end of turn.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    folder = base_folder(folder or base, download, weights=False)
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"IOT_BASE_MODEL: {base!r} is a LoRA adapter, no base; name the model that it was trained on")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a value that transformers does not expect raises whatever comes first
        raise UserError(f"IOT_BASE_MODEL: {base!r} is no causal language model here: {in_one_line(error)}") from error
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(f"IOT_BASE_MODEL: {base!r} is a {config.model_type}, no causal language model")
    if MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type].endswith("ForConditionalGeneration"):
        raise UserError(
            f"IOT_BASE_MODEL: {base!r} is a {config.model_type}, which reads pictures or sounds too; take a base of "
            "text alone (of Gemma 3 those of 270M and 1B)"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"IOT_BASE_MODEL: {base!r} has an encoder and a decoder; take a base with a decoder alone")
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and getattr(config, "is_decoder", True) is False:
        raise UserError(
            f"IOT_BASE_MODEL: {base!r} is a {config.model_type} that reads a text in both directions (is_decoder is "
            "false in config.json), so it cannot write answers; take a causal language model"
        )
    told = read_settings(folder / "config.json")
    if (packed := told.get("quantization_config", told.get("compression_config"))) is not None:
        method = packed.get("quant_method", "unknown") if isinstance(packed, dict) else "unknown"
        raise UserError(
            f"IOT_BASE_MODEL: {base!r} is quantised already ({method}); take the model that it was made from "
            "(IOT_QUANTISATION=nf4 packs that one as it is loaded)"
        )
    text = config.get_text_config()  # which is loaded alone where a base has more parts, as Qwen3.5 has
    if scaled := [name for name in SCALED if getattr(text, name, None) not in (None, 1)]:
        raise UserError(
            f"IOT_BASE_MODEL: {base!r} changes its output after the last layer ({scaled[0]} in config.json), which "
            "neither the training nor the scoring of labels does here; take another base"
        )
    load_tokenizer(folder)
    return {
        "architecture": config.model_type, "longest_row": getattr(text, "max_position_embeddings", None),
        "revision": None if Path(base).exists() else folder.name,
    }  # fmt: skip


def load_base(
    base: str, dtype: Any, quantisation: str = "none", device: Any = "cpu", move: bool = True
) -> tuple[Any, list[str]]:
    """Load a base (causal language model) for `device` and, if `move`, onto it.

    Args:
        base: Folder or hub id.
        dtype: torch type of its weights.
        quantisation: `none`, or `nf4` (needs bitsandbytes and a GPU).
        device: Where it will compute. "meta" reads only the headers of the weight files.
        move: False leaves it in main memory.

    Returns:
        The model, and the names of tensors in the files that it does not use.

    Raises:
        UserError: There is no such model, or one of its tensors is missing or has another shape.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    if torch.device(device).type == "cpu":
        use_onednn()
    logging.disable_progress_bar()  # its unterminated line would spoil the run's log
    folder = base_folder(base)
    weight_files(folder)
    options: dict[str, Any] = {"device_map": "meta"} if str(device) == "meta" else {}
    if quantisation == "nf4":
        options = _nf4_options(device)
    told = logging.get_verbosity()
    logging.set_verbosity_error()  # no table of missing tensors; one sentence reports them below
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention_kernel(device, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a value in config.json that transformers does not expect raises whatever comes first
        raise UserError(f"IOT_BASE_MODEL: {base!r} is no causal language model here: {in_one_line(error)}") from error
    finally:
        logging.set_verbosity(told)
    model, report = loaded
    if missing := report["missing_keys"]:
        raise UserError(f"IOT_BASE_MODEL: {base!r} lacks {_listed(missing)}; they would be random numbers")
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, wanted = mismatched[0]
        raise UserError(
            f"IOT_BASE_MODEL: {base!r}: {name} has shape {list(found)} where its config.json means {list(wanted)}"
        )
    if wrong := report["error_msgs"]:
        raise UserError(f"IOT_BASE_MODEL: {base!r}: {wrong[0]}")
    _forget_decoding(model)
    moved = model.to(device) if move and quantisation == "none" and not options else model
    return moved, sorted(report["unexpected_keys"])


def _forget_decoding(model: Any) -> None:
    """Drop what a base's generation_config.json asks for, but for its special tokens.

    Students decode greedily, which a repetition penalty changes too (Qwen2.5-1.5B-Instruct names one of 1.1): values
    that a flow has twice would be written once, and by other engines, which do not read the file, twice.
    """
    from transformers import GenerationConfig

    if (told := getattr(model, "generation_config", None)) is not None:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        model.generation_config = GenerationConfig(**{name: getattr(told, name) for name in names})


def _nf4_options(device: Any) -> dict[str, Any]:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UserError("IOT_QUANTISATION=nf4 needs the extra `gpu`: pip install 'iot-pipeline[gpu]'") from error
    import torch
    from transformers import BitsAndBytesConfig

    packing = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    return {"quantization_config": packing, "device_map": {"": device}}


def base_identity(base: str) -> str:
    """Hash the weights of a base; an adapter records the hash and fits no other base."""
    files = weight_files(base_folder(base))
    stats = [(path, path.stat()) for path in files]
    return _weights_hash(tuple((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in stats))


@lru_cache(maxsize=8)
def _weights_hash(files: tuple[tuple[str, int, int, int], ...]) -> str:
    """Hash the sha256 of each file; cached by path, size, time and inode, because 3 GB take some seconds."""
    return hashlib.sha256("".join(sha256_file(Path(name)) for name, *_ in files).encode()).hexdigest()


def load_adapter(model: Any, folder: Path, base: str, trainable: bool = False) -> Any:
    """Load the LoRA adapter of a folder onto a base, completely or not at all.

    Args:
        model: The base as `load_base` returns it.
        folder: Has adapter_config.json and adapter_model.safetensors as `save_adapter` wrote them.
        base: Folder or hub id that `model` was loaded from.
        trainable: True to train it further.

    Raises:
        UserError: There is no adapter, it was trained on another base, or a tensor is missing, of another shape or
            not finite.
    """
    from peft import PeftModel, get_peft_model_state_dict

    held = adapter_tensors(folder, base)
    check_adapter_settings(folder)
    try:
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=trainable, trust_remote_code=False)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: does not fit the base {base}: {in_one_line(error)}") from error
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    check_tensors_of(folder / ADAPTER, held, wanted)
    return adapted


def adapter_tensors(folder: Path, base: str) -> dict[str, Any]:
    """Read the tensors of an adapter; UserError if it is missing, unreadable or trained on another base."""
    from safetensors import SafetensorError, safe_open

    path = folder / ADAPTER
    if not path.is_file() or not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder}: no {ADAPTER} with its adapter_config.json; train this track and stage first")
    try:
        with safe_open(path, framework="pt") as file:
            recorded = (file.metadata() or {}).get("base")
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: is damaged ({error}); train this track and stage again") from error
    if recorded != base_identity(base):
        raise UserError(f"{path}: was not trained on the base {base} as it is now; train this track and stage again")
    return held


def check_adapter_settings(folder: Path) -> None:
    """Refuse settings of an adapter that no training here writes: most would change its effect without an error."""
    path, mend = folder / "adapter_config.json", "train this track and stage again"
    told = read_settings(path, "", mend)
    alpha = told.get("lora_alpha")
    if not isinstance(alpha, int | float) or not 0 < alpha <= LARGEST_ALPHA:
        raise UserError(f"{path}: lora_alpha is {alpha!r}, no number of a training here; {mend}")
    for name, value in {"peft_type": "LORA", "task_type": "CAUSAL_LM"}.items():
        if told.get(name) != value:
            raise UserError(f"{path}: {name} is {told.get(name)!r} in place of {value}; {mend}")
    # Others than the usual one (`pissa`, `olora`) change the base's own weights, as peft loads the adapter too.
    initial = [] if told.get("init_lora_weights", True) is True else ["init_lora_weights"]
    if strange := [name for name in NEVER_SET if told.get(name)] + initial:
        raise UserError(f"{path}: {strange[0]} is set, which no training here does; {mend}")


def check_tensors_of(path: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Compare the tensors of a file with those that a model needs; UserError names what is missing or wrong."""
    mend = "remove the file, and train this track and stage again"
    if missing := wanted.keys() - held.keys():
        raise UserError(f"{path}: lacks {_listed(missing)}; {mend}")
    if more := held.keys() - wanted.keys():
        raise UserError(f"{path}: has {_listed(more)}, of which the base knows nothing; {mend}")
    for name, value in held.items():
        if value.shape != wanted[name].shape:
            raise UserError(
                f"{path}: {name} has shape {list(value.shape)} where the base needs {list(wanted[name].shape)}; {mend}"
            )
        if not value.is_floating_point() or value.element_size() == 1:
            raise UserError(f"{path}: {name} holds {str(value.dtype).removeprefix('torch.')} values; {mend}")
        if value.numel() and not value.abs().max() <= LARGEST:  # NaN is not
            raise UserError(f"{path}: {name} holds values that are no numbers; {mend}")


def _listed(names: Iterable[str]) -> str:
    """Name the first few tensors and count the others."""
    every = sorted(names)
    more = f" and {len(every) - NAMED} more" if len(every) > NAMED else ""
    return f"{len(every)} tensors: {', '.join(every[:NAMED])}{more}"


def with_sorted_metadata(packed: bytes) -> bytes:
    """Sort the metadata of serialised safetensors, so that equal tensors give equal bytes.

    The library writes metadata entries in an order that changes from call to call.
    """
    start = 8 + int.from_bytes(packed[:8], "little")  # 8 bytes with the header's length come first
    header = json.loads(packed[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + packed[start:]
