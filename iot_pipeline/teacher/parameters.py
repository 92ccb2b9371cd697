"""Request parameters that a server does not take, learnt from its refusals and left out from then on."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

# Reasoning models count their thoughts as well and have a name of their own for the limit.
RENAMED = {"max_tokens": "max_completion_tokens"}
OPTIONAL = ("temperature", "top_p", "seed")
SYSTEM = "system"  # the role of a message: templates without it (Gemma's, old Mistral's) raise
NO_SYSTEM = re.compile(
    r"system (?:role|message|prompt)s?\b.{0,40}(?:\bnot|n't|\bun)\s?(?:be )?(?:support|allow|accept)", re.IGNORECASE
)
INSTEAD = {
    "max_tokens": "with max_completion_tokens in its place",
    SYSTEM: "with the system message at the head of the user's",
}
# A value out of range is a fault of the settings, and no reason to ask without the parameter.
NOT_TAKEN = re.compile(
    r"unsupported|(?:not|n't) support|only the default|unknown|unrecogni[sz]ed|unexpected|extra inputs|not permitted",
    re.IGNORECASE,
)


def refused_parameter(code: str, words: str, sent: Collection[str]) -> str:
    """Return the parameter of a request that an error calls unsupported, empty if there is none.

    Args:
        code: the error's code.
        words: its message, with the name of the parameter or field at fault.
        sent: names of the parameters that were sent.
    """
    if SYSTEM in sent and NO_SYSTEM.search(words):
        return SYSTEM
    if not NOT_TAKEN.search(f"{code.replace('_', ' ')} {words}"):
        return ""
    named = [name for name in sent if name in OPTIONAL or (name in RENAMED and RENAMED[name] in words)]
    # The first is at fault: some servers go on with a list of what they take. `seed-1.6` is a model.
    found = {match.start(): name for name in named if (match := re.search(rf"(?<![\w-]){name}(?![\w-])", words))}
    return found[min(found)] if found else ""


def names_of(body: Mapping[str, Any]) -> set[str]:
    """Return what a server may refuse of a body: its parameters, and the role `system` of a message."""
    return set(body) | {SYSTEM for message in body.get("messages", ()) if message["role"] == SYSTEM}


def without(body: Mapping[str, Any], refused: Collection[str]) -> dict[str, Any]:
    """Return a request's body without the refused parameters, or with the name that the server takes instead."""
    if SYSTEM in refused:
        body = {**body, "messages": _merged(body["messages"])}
    return {
        RENAMED.get(name, name) if name in refused else name: value
        for name, value in body.items()
        if name not in refused or name in RENAMED
    }


def _merged(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Put the system messages at the head of the first message of the user."""
    system = [message["content"] for message in messages if message["role"] == SYSTEM]
    rest = [dict(message) for message in messages if message["role"] != SYSTEM]
    if rest:
        rest[0]["content"] = "\n\n".join([*system, rest[0]["content"]])
    return rest
