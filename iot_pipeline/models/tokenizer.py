"""Tokeniser of a base: loading it with the right class, encoding chats with it, and finding the label in an answer.

Flow texts, class names and answers are data: a control token's name in them (`<|im_end|>`) is encoded as plain text.
Only the chat template writes control tokens. `literal` therefore marks where such a name in data has to be cut:

    <|im_end|>  ->  <·|im_end|>      (the mark `·` is CUT)

and `encode` encodes the pieces separately, so that none holds a complete name. Other text is encoded as usual.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.models.folder import base_folder, read_settings

END_OF_TURN = "<|im_end|>"
START_OF_TURN = "<|im_start|>"
LABEL_LINE = "CLASSIFICATION:"
LINE = re.compile(rf"^{LABEL_LINE}", re.MULTILINE)
# Code points that Unicode reserves for a program's internal use; an OWN that occurs in data is written as ESCAPED.
CUT, OWN, ESCAPED = "\ufdd0\ufdd2", "\ufdd0", "\ufdd0\ufdd1"


def load_tokenizer(folder_or_id: str | Path) -> Any:
    """Load the tokeniser of a folder or hub id; UserError if it lacks ChatML's `<|im_end|>` or a chat template.

    AutoTokenizer would load our own `tokenizer.json` beside a Qwen2 `config.json` as Qwen2Tokenizer, with Qwen2's
    pre-tokeniser: other ids for the same text, and no error. A folder whose `tokenizer_config.json` names the plain
    fast class is therefore loaded with that class.
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
    """Return the padding token's id; never that of the end of turn, because then the student would unlearn to stop."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    pad: int | None = tokenizer.pad_token_id
    if pad is None or pad == end:
        pad = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    if pad is None or pad == end:
        raise UserError("IOT_BASE_MODEL: the tokenizer has no padding token distinct from its end of turn")
    return pad


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """Map each control token's text to its id: added tokens that are marked special or in angle brackets.

    Qwen2.5 does not mark `<tool_call>` and `<|fim_prefix|>` special, though no flow means them either. Other words
    added to a vocabulary are ordinary tokens.
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
    """Encode texts without adding tokens around them; data in them must have passed through `literal`."""
    parts = [[part.replace(ESCAPED, OWN) for part in text.split(CUT) if part] for text in texts]
    flat = [part for some in parts for part in some]
    found = iter(tokenizer(flat, add_special_tokens=False)["input_ids"] if flat else [])
    return [[int(token) for _ in some for token in next(found)] for some in parts]


def prompt_text(tokenizer: Any, user: str) -> str:
    """Render the prompt of one user turn by the chat template, up to where the assistant begins; for `encode`."""
    turns = [{"role": "user", "content": literal(tokenizer, user)}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def chat_texts(tokenizer: Any, user: str, answer: str) -> tuple[str, str]:
    """Render prompt and answer of a chat by its template, each for `encode`; together they are the whole conversation.

    UserError if the template renders the prompt differently when an answer follows.
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

    UserError if the template does not end an answer with exactly one end of turn.
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
    """Return the first line of an error's message, or the error's type if it is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class LabelFinder:
    """Label finder that knows the text of every token.

    Searching for fixed token ids would fail: a newline may be merged with the text after it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.pieces: list[str] = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        self.controls = frozenset(control_tokens(tokenizer).values())

    def span(self, ids: Sequence[int]) -> tuple[int, int] | None:
        """Return the token span [start, stop) of the class after `CLASSIFICATION:`, None if there is no class."""
        pieces = [self.pieces[token] for token in ids]
        text = "".join(pieces)
        line = LINE.search(text)
        if line is None:
            return None
        starts = [0, *accumulate(len(piece) for piece in pieces)]
        begin, newline = line.end(), text.find("\n", line.end())
        turns = [start for start, token in zip(starts, ids, strict=False) if token in self.controls and start >= begin]
        end = min([*turns, len(text) if newline < 0 else newline])
        if not text[begin:end].strip():
            return None
        return bisect_right(starts, begin) - 1, bisect_right(starts, end - 1)
