"""Secrets kept out of what is kept: a server may say the key it was sent, in an error, a code or a header.

Belongs here: what of a server's words may be repeated; a filter for the logs of the client and its transport, which
print them all. Does not belong here: reading keys (settings.py).
"""

from __future__ import annotations

import logging
import re

# Whose debug logs print headers, status lines and errors as they came.
LIBRARIES = {"openai", "httpx2", "httpcore", "httpx_aiohttp", "aiohttp"}
CODE = re.compile(r"[a-z]+(?:_[a-z]+)*")  # as the API words its codes; no key looks like that
NOT_SECRET = {"none", "embedded"}  # keys where none is needed
SHORTEST = 4
HIDDEN = "[hidden]"


def code_of(said: object) -> str:
    """An error's code, empty where it is not worded as a code is: it is kept and shown, so it must not be just any."""
    return said if isinstance(said, str) and CODE.fullmatch(said) else ""


class Hide(logging.Filter):
    """Takes secrets out of log records."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record passes, its text and traceback without secrets."""
        text, trace = record.getMessage(), ""
        if record.exc_info and not isinstance(record.exc_info, bool):
            trace = logging.Formatter().formatException(record.exc_info)
        if any(secret in text or secret in trace for secret in self.secrets):
            record.msg, record.args = self.without(text), ()
            record.exc_info, record.exc_text = None, self.without(trace) or None
        return True

    def without(self, text: str) -> str:
        """A text without secrets."""
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text


_HIDE = Hide()


def keep_out_of_logs(*secrets: str) -> None:
    """From now on the libraries' logs of this process say `[hidden]` in place of these; libraries must be loaded."""
    _HIDE.secrets |= {secret for secret in secrets if len(secret) >= SHORTEST} - NOT_SECRET
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in LIBRARIES:
            logging.getLogger(name).addFilter(_HIDE)  # adding it twice adds it once
