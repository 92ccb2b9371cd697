"""Loading the tokenizer of any base, the tiny one or a hub model's, with the class that really made it.

Belongs here: loading and the facts that sft needs of it. Does not belong here: training a tokenizer (training/).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError

END_OF_TURN = "<|im_end|>"
START_OF_TURN = "<|im_start|>"


def load_tokenizer(folder_or_id: str | Path) -> Any:
    """The tokenizer of a folder or a hub id; it must know ChatML's `<|im_end|>` and have a chat template.

    A `tokenizer.json` of our own beside a Qwen2 `config.json` would be reloaded by AutoTokenizer as
    Qwen2Tokenizer, with Qwen2's own pre-tokenizer: other ids for the same text, and no error. A folder whose
    `tokenizer_config.json` names the plain fast class is therefore loaded with that class.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = Path(folder_or_id)
    settings = folder / "tokenizer_config.json"
    plain = ("PreTrainedTokenizerFast", "TokenizersBackend")
    if settings.is_file() and json.loads(settings.read_text()).get("tokenizer_class") in plain:
        tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder_or_id))
        except (OSError, ValueError) as error:
            raise UserError(f"IOT_BASE_MODEL: no tokenizer in {str(folder_or_id)!r}: {first_line(error)}") from error
    if tokenizer.convert_tokens_to_ids(END_OF_TURN) in (None, tokenizer.unk_token_id):
        raise UserError(f"IOT_BASE_MODEL: the tokenizer of {str(folder_or_id)!r} has no {END_OF_TURN} token")
    if not tokenizer.chat_template:
        raise UserError(f"IOT_BASE_MODEL: the tokenizer of {str(folder_or_id)!r} has no chat template")
    return tokenizer


def pad_id(tokenizer: Any) -> int:
    """Id used for padding; never that of the end of turn, which would unteach stopping."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    pad: int | None = tokenizer.pad_token_id
    if pad is None or pad == end:
        pad = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    if pad is None or pad == end:
        raise UserError("IOT_BASE_MODEL: the tokenizer has no padding token distinct from its end of turn")
    return pad


def prompt_text(tokenizer: Any, user: str) -> str:
    """The chat template's text of one user turn, up to where the assistant begins."""
    turns = [{"role": "user", "content": user}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def first_line(error: Exception) -> str:
    """First line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
