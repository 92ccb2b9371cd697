"""Redaction of secrets: a server may repeat the key that it was sent, in an error, a code or a header."""

from __future__ import annotations

import logging
import re

from iot_pipeline.flows.download import without_credentials

# Libraries whose debug logs print raw headers, status lines and errors.
LIBRARIES = {"openai", "httpx2", "httpcore", "httpx_aiohttp", "aiohttp"}
CODE = re.compile(r"[a-z]+(?:_[a-z]+)*")  # format of the API's codes; no key looks like that
NOT_SECRET = {"none", "embedded"}  # placeholders where no key is needed
SHORTEST = 4
HIDDEN = "[hidden]"
PART = 6  # a word with so many characters of a secret is hidden: servers repeat keys with the middle masked
MOST_READ, MOST_SHOWN = 2000, 300  # characters of a server's message: read, shown
TAG, WORD = re.compile(r"<[^<>]*>"), re.compile(r"[^\s\"'`,;()<>]+")
# Long words of letters and digits, like the keys and tokens of most services.
KEY_LIKE = re.compile(r"(?=[A-Za-z_-]*[0-9])(?=[0-9_-]*[A-Za-z])[A-Za-z0-9_-]{24,}")


def code_of(said: object) -> str:
    """Return an error's code; empty if it does not look like one, because codes are stored and shown."""
    return said if isinstance(said, str) and len(said) <= 100 and CODE.fullmatch(said) else ""


def shown_words(said: str) -> str:
    """Reduce a server's message to one short line without tags, keys, parts of keys and credentials."""
    text = TAG.sub(" ", said[:MOST_READ])
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    text = without_credentials(" ".join(text.split()))
    text = WORD.sub(lambda word: HIDDEN if _gives_away(word[0]) else word[0], _HIDE.without(text))
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN].rstrip() + "..."


def inert(said: str, most: int = MOST_SHOWN) -> str:
    """Cut a server's short text (an id, a model's name), and replace what a terminal would obey."""
    said = said[:most]
    return said if said.isprintable() else "".join(sign if sign.isprintable() else "\ufffd" for sign in said)


def _gives_away(word: str) -> bool:
    if HIDDEN in word:
        return False
    parts = (word[at : at + PART] for at in range(len(word) - PART + 1))
    return KEY_LIKE.search(word) is not None or any(part in _HIDE.parts for part in parts)


class RedactingFilter(logging.Filter):
    """Logging filter that removes secrets from records."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: set[str] = set()
        self.parts: set[str] = set()  # substrings of PART characters

    def add(self, secrets: set[str]) -> None:
        """Add secrets to those that are removed."""
        self.secrets |= secrets
        self.parts |= {one[at : at + PART] for one in secrets for at in range(len(one) - PART + 1)}

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass every record, with secrets removed from its text and traceback."""
        text, trace = record.getMessage(), ""
        if record.exc_info and not isinstance(record.exc_info, bool):
            trace = logging.Formatter().formatException(record.exc_info)
        if any(secret in text or secret in trace for secret in self.secrets):
            record.msg, record.args = self.without(text), ()
            record.exc_info, record.exc_text = None, self.without(trace) or None
        return True

    def without(self, text: str) -> str:
        """Return the text without secrets."""
        for secret in sorted(self.secrets, key=len, reverse=True):  # one may be the beginning of another
            text = text.replace(secret, HIDDEN)
        return text


_HIDE = RedactingFilter()


def redact_in_logs(*secrets: str) -> None:
    """Replace these secrets by `[hidden]` in the logs of all libraries that are already loaded."""
    _HIDE.add({secret for secret in secrets if len(secret) >= SHORTEST} - NOT_SECRET)
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in LIBRARIES:
            logging.getLogger(name).addFilter(_HIDE)  # adding it again has no effect
