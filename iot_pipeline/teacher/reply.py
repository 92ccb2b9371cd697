"""Outcome of one attempt at a request, and the parts of the request that error messages need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from iot_pipeline.teacher.redaction import shown_words
from iot_pipeline.teacher.request import Usage

Kind = Literal["answer", "rate_limit", "transport", "rejected", "doubt", "form", "parameter"]


@dataclass
class Reply:
    """Outcome of one attempt; its kind decides on a retry.

    `answer`: a completion; `rate_limit`, `transport`: worth a retry; `rejected`: the server refuses the request, which
    says nothing of its content; `doubt`: it refuses one with a schema, which may be why; `form`: it does not support
    response_format; `parameter`: nor this `parameter`. A `form` may name one too.

    `outcome` is one of few values, for the ledger; `detail` says more, in the server's words if it gave any. `fatal` is
    the message to stop with if no further request can succeed. `usage` is None if it is missing or not credible
    (`usage_fault` says why); `billed_unknown` is True if the server may charge for something that was never received.
    `too_long`: bytes after which an endless reply was given up.
    """

    kind: Kind
    outcome: str
    text: str = ""
    finish_reason: str = ""
    refusal: bool = False
    model: str = ""
    usage: Usage | None = None
    billed_unknown: bool = False
    retry_after_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    detail: str = ""
    fatal: str = ""
    usage_fault: str = ""
    too_long: int = 0
    parameter: str = ""

    @property
    def reason(self) -> str:
        """Outcome with its detail."""
        return f"{self.outcome}: {self.detail}" if self.detail else self.outcome


@dataclass(frozen=True)
class Asked:
    """Parts of the request that error messages need.

    `schema`: the request had a response_format. `sent`: its body.
    """

    model: str = ""
    url: str = ""
    schema: bool = False
    sent: Mapping[str, Any] = field(default_factory=dict)


def unreadable(why: str = "", billed: bool = True) -> Reply:
    """Return the reply for a malformed response: worth a retry, and possibly billed."""
    return Reply("transport", "unreadable response", billed_unknown=billed, detail=shown_words(why))


def is_page(said: Any) -> bool:
    """Return True for a page (HTML, XML) in place of JSON: a gateway's, a firewall's, a sign-in."""
    return isinstance(said, str) and said.lstrip("\ufeff \t\r\n").startswith("<")


def parse_json(content: str | bytes) -> Any:
    """Parse JSON text; ValueError if it is invalid, nested too deeply or has a number of too many digits."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:  # Python's limit on digits, with advice for programmers
        raise ValueError("a number of more digits than can be read") from None


def parse_body(content: bytes) -> Any:
    """Parse the body of an error if it is JSON; else return it as text."""
    try:
        return parse_json(content)
    except ValueError:
        return content.decode(errors="replace")
