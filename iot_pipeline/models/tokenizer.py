"""The tokenizer of a base: loading it with the class that made it, and encoding chats with it.

Text of flows, classes and answers is data: the name of a control token in it (`<|im_end|>`) is read as plain text. The
chat template alone writes control tokens. For this `literal` marks the places in data where such a name has to be cut:

    <|im_end|>  ->  <·|im_end|>      (the mark `·` is CUT)

and `encode` encodes the parts apart, so that no part holds a whole name. Text without such names is encoded as ever.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.models.folder import base_folder, read_settings

END_OF_TURN = "<|im_end|>"
START_OF_TURN = "<|im_start|>"
# Code points that Unicode keeps for a program's own use; one that stands in data all the same is written as ESCAPED.
CUT, OWN, ESCAPED = "\ufdd0\ufdd2", "\ufdd0", "\ufdd0\ufdd1"


def load_tokenizer(folder_or_id: str | Path) -> Any:
    """Load the tokenizer of a folder or a hub id; it must know ChatML's `<|im_end|>` and have a chat template.

    A `tokenizer.json` of our own beside a Qwen2 `config.json` would be reloaded by AutoTokenizer as
    Qwen2Tokenizer, with Qwen2's own pre-tokenizer: other ids for the same text, and no error. A folder whose
    `tokenizer_config.json` names the plain fast class is therefore loaded with that class.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = base_folder(folder_or_id, weights=False)
    plain = ("PreTrainedTokenizerFast", "TokenizersBackend")
    named = read_settings(folder / "tokenizer_config.json").get("tokenizer_class")
    kind = PreTrainedTokenizerFast if named in plain else AutoTokenizer
    try:
        tokenizer: Any = kind.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception for a file that it cannot parse
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


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """Map the text of each control token to its id: added tokens marked special, and others in angle brackets.

    Qwen2.5 does not mark `<tool_call>` and `<|fim_prefix|>` special, though no flow means them either. Words that
    somebody added to a vocabulary are ordinary tokens.
    """
    return {
        token.content: place
        for place, token in tokenizer.added_tokens_decoder.items()
        if token.special or re.fullmatch(r"<.+>", token.content)
    }


def literal(tokenizer: Any, text: str) -> str:
    """Mark data so that `encode` reads the names of control tokens in it as plain text."""
    names = "|".join(re.escape(name) for name in control_tokens(tokenizer))
    text = text.replace(OWN, ESCAPED)
    return re.sub(rf"(?=(?:{names}))(.)", rf"\1{CUT}", text, flags=re.DOTALL) if names else text


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Encode texts as they stand, without tokens added around them; data in them must have gone through `literal`."""
    parts = [[part.replace(ESCAPED, OWN) for part in text.split(CUT) if part] for text in texts]
    flat = [part for some in parts for part in some]
    found = iter(tokenizer(flat, add_special_tokens=False)["input_ids"] if flat else [])
    return [[int(token) for _ in some for token in next(found)] for some in parts]


def prompt_text(tokenizer: Any, user: str) -> str:
    """Render one user turn by the chat template, up to where the assistant begins; for `encode`."""
    turns = [{"role": "user", "content": literal(tokenizer, user)}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def chat_texts(tokenizer: Any, user: str, answer: str) -> tuple[str, str]:
    """Render prompt and answer of a chat by its template, each for `encode`; together they are the whole conversation.

    UserError where the template writes another prompt before an answer than without one.
    """
    head = prompt_text(tokenizer, user)
    turns = [
        {"role": "user", "content": literal(tokenizer, user)},
        {"role": "assistant", "content": literal(tokenizer, answer)},
    ]
    whole = str(tokenizer.apply_chat_template(turns, tokenize=False))
    if not whole.startswith(head):
        raise UserError(
            "the chat template's prompt is not the beginning of its whole conversation, so the answer cannot "
            f"be told from the prompt (flow beginning {user[:60]!r}); use a base with a ChatML template"
        )
    return head, whole[len(head) :]


def template_controls(tokenizer: Any) -> int:
    """Count the control tokens that the chat template writes into a row, up to its end of turn.

    UserError for a template that ends an answer otherwise than with one end of turn.
    """
    controls = list(control_tokens(tokenizer).values())
    before, after = encode(tokenizer, chat_texts(tokenizer, "x", "x"))
    end = int(tokenizer.convert_tokens_to_ids(END_OF_TURN))
    if after.count(end) != 1:
        raise UserError(
            f"IOT_BASE_MODEL: its chat template ends an answer with {after.count(end)} {END_OF_TURN} in place of one; "
            "use a base with a ChatML template"
        )
    return sum(token in controls for token in [*before, *after[: after.index(end) + 1]])


def first_line(error: Exception) -> str:
    """First line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
