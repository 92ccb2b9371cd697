"""Parts that the two APIs of OpenAI share: the flow in a conversation, the answer, parameters, events."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import StreamingResponse

from iot_pipeline.models.tokenizer import LABEL_LINE
from iot_pipeline.serving.server.lanes import Classified
from iot_pipeline.serving.server.limits import Refusal
from iot_pipeline.serving.server.schemas import Message
from iot_pipeline.serving.server.service import Service
from iot_pipeline.serving.units import Unit

DELTA = re.compile(r"\s*(?:\S+\s*){1,8}|\s+")  # words of a part of a stream


@dataclass(frozen=True)
class Answer:
    """The student's answer: its text, why it ended (`stop`, `length`), tokens, and the verdict as JSON (`told`)."""

    text: str
    reason: str
    prompt_tokens: int
    tokens: int
    told: dict[str, Any]


@dataclass
class Asked:
    """A question: its flow, classified, and the limits of its answer."""

    service: Service
    found: Classified
    most: int | None
    stops: Sequence[str]

    @property
    def head(self) -> str:
        """Beginning of the answer, known once the flow is classified; one of no known class has a nearest one."""
        verdict = self.found.verdicts[0]
        lines = [f"{LABEL_LINE} {verdict.name}"]
        if verdict.unknown and verdict.strange is not None:
            lines += [f"NEAREST_CLASS: {verdict.label}", f"UNKNOWN_BECAUSE: {'; '.join(verdict.strange.reasons)}"]
        return "\n".join(lines)

    @property
    def explains(self) -> bool:
        """True if the answer goes on behind the class."""
        room = self.most is None or self.most > len(self.service.tokens.answer(self.head))
        return room and _before_stop(self.head, self.stops) == self.head

    @property
    def early(self) -> str:
        """Text that the answer begins with for sure: the class, if an explanation follows, else nothing."""
        return self.head if self.explains and not _stop_may_follow(self.head, self.stops) else ""

    async def answer(self) -> Answer:
        """Return the answer. The explanation is written only if there is room for more than the class."""
        service, text = self.service, self.head
        (verdict,) = service.classes(self.found)
        if self.explains:
            (verdict,) = await service.model.explain(self.found)
            assert verdict.explanation is not None
            text = self.head + verdict.explanation.text.removeprefix(f"{LABEL_LINE} {verdict.label}")
        text = _before_stop(text, self.stops)
        tokens, reason = service.tokens.answer(text), "stop"
        if self.most is not None and len(tokens) > self.most:
            tokens, reason = tokens[: self.most], "length"
            text = service.tokens.text(tokens)
        (flow,) = service.classifier.writer.texts(self.found.flows)
        return Answer(text, reason, service.tokens.prompt(flow), len(tokens), service.told(verdict))

    async def parts(self, answers: list[Answer]) -> AsyncIterator[str]:
        """Yield the parts of the answer, together its text, as soon as they are known; `answers` receives the whole."""
        early = self.early
        if early:
            yield early
        answer = await self.answer()
        answers.append(answer)
        for part in DELTA.findall(answer.text.removeprefix(early)):
            yield part


def _before_stop(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the first stop sequence in it."""
    return text[: min((place for stop in stops if stop and (place := text.find(stop)) >= 0), default=len(text))]


def _stop_may_follow(text: str, stops: Sequence[str]) -> bool:
    """Return True if a stop sequence begins at the end of a text and may go on behind it."""
    return any(text.endswith(stop[:size]) for stop in stops for size in range(1, min(len(stop), len(text) + 1)))


async def ask(
    service: Service,
    messages: Sequence[Message],
    param: str,
    most: int | None,
    stops: Sequence[str] = (),
    units: Unit | None = None,
) -> Asked:
    """Classify the flow in the last message of the user.

    Args:
        service: The student.
        messages: The conversation.
        param: Parameter that holds it, for refusals.
        most: Most tokens of the answer; None: any number.
        stops: Texts before which the answer ends.
        units: Units of the flow, if the request states them.

    Raises:
        Refusal: The message holds no flow, or several.
    """
    own = [(place, message) for place, message in enumerate(messages) if message.role == "user"]
    if not own:
        raise Refusal(400, "no message of the role user", "invalid_value", param)
    place, message = own[-1]
    content = message.content or ""
    text = content if isinstance(content, str) else "\n".join(part.text for part in content)
    where = f"{param}[{place}].content" if len(messages) > 1 or param == "messages" else param
    row = await service.one_flow(text, where)
    try:
        found = await service.classify([row], units)
    except Refusal as refusal:
        if refusal.code == "invalid_flow":
            raise Refusal(400, refusal.message.removeprefix("flows[0]: "), "invalid_value", where) from None
        raise
    return Asked(service, found, most, stops)


def check_parameters(
    extra: Mapping[str, Any], without_effect: frozenset[str], neutral: Mapping[str, Sequence[Any]]
) -> None:
    """Refuse parameters that ask for what a student cannot do, as OpenAI does.

    Args:
        extra: Parameters beside those that are read.
        without_effect: Parameters that change nothing for a student that decodes greedily and keeps nothing.
        neutral: Parameter -> values that ask for nothing.
    """
    for name, value in extra.items():
        if value is None or name in without_effect:
            continue
        if name not in neutral:
            raise Refusal(400, f"Unrecognized request argument supplied: {name[:100]}", "unknown_parameter", name[:100])
        if not any(value == allowed and type(value) is type(allowed) for allowed in neutral[name]):
            raise Refusal(
                400, f"Unsupported value: '{name}' does not support what is asked with this model.",
                "unsupported_value" if neutral[name] else "unsupported_parameter", name,
            )  # fmt: skip


def new_id(prefix: str) -> str:
    """Return a random id."""
    return f"{prefix}{secrets.token_hex(14)}"


def event(content: Mapping[str, Any], kind: str = "") -> str:
    """Return a server-sent event."""
    return (f"event: {kind}\n" if kind else "") + f"data: {json.dumps(content, allow_nan=False)}\n\n"


def event_stream(events: AsyncIterator[str]) -> StreamingResponse:
    """Return a stream of events; a refusal in the middle of it becomes an event, as OpenAI's errors do."""

    async def guarded() -> AsyncIterator[str]:
        try:
            async for one in events:
                yield one
        except Refusal as refusal:
            yield event(refusal.content, "error")

    return StreamingResponse(guarded(), media_type="text/event-stream")
