"""How many tokens a server will count before it has been asked.

Belongs here: rules from text to tokens. Does not belong here: prices (ledger.py), limits that must hold (pool, batch).

Which tokenizer a server has is its own business and most are downloads, so this is a rule of two rates. Measured with
o200k_base (that of gpt-4o and its kind) on the prompts of both data sets, every serialisation and both forms of answer:
prompts within 4 %, answers within 6 %. One rate for all would be 2.3 bytes a token in a flow and 4.1 in a rule.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from iot_pipeline.teacher.analyst import ANSWER_BYTES_A_TOKEN, prompt_tokens
from iot_pipeline.teacher.bill import PromptCache
from iot_pipeline.teacher.request import Request, is_embedded

MARKS = b"0123456789.+-_"
TOKENS_A_MARK, TOKENS_A_BYTE = 0.875, 0.222
MESSAGE_TOKENS, REPLY_TOKENS = 4, 3  # what frames each message, and the reply

@dataclass(frozen=True)
class Counting:
    """How a server counts tokens of prompts and answers.

    cached: how many of a prompt's (text, tokens) it has seen before, which cost less; None: its answers will tell.
    """

    prompt: Callable[[Request], float]
    answer: Callable[[str], float]
    cached: Callable[[str, int], int] | None = None


def text_tokens(text: str) -> float:
    """Tokens of a text, near enough for an estimate."""
    raw = text.encode()
    others = len(raw.translate(None, MARKS))
    return TOKENS_A_MARK * (len(raw) - others) + TOKENS_A_BYTE * others


def request_tokens(request: Request) -> float:
    """Tokens of a prompt: messages with their frames, and the schema, which servers put before them."""
    texts = [message["content"] for message in request.messages]
    schema = json.dumps(request.schema) if request.schema is not None else ""
    return sum(text_tokens(text) + MESSAGE_TOKENS for text in texts) + REPLY_TOKENS + text_tokens(schema)


def prompt_text(request: Request) -> str:
    """The messages of a request as one text."""
    return "\n".join(message["content"] for message in request.messages)


def counting_of(source: str) -> Counting:
    """How the server behind a source counts; of the embedded teacher that is known."""
    return embedded_counting() if is_embedded(source) else Counting(request_tokens, text_tokens)


def embedded_counting() -> Counting:
    """The embedded teacher's own rules, and a prompt cache as empty as that of a server just started."""
    return Counting(
        lambda request: prompt_tokens(prompt_text(request)), lambda text: len(text) // ANSWER_BYTES_A_TOKEN + 1,
        PromptCache().tokens,
    )
