"""Cost estimates: a stand-in for the teacher that counts requests instead of sending them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any

from iot_pipeline.embedded_teacher.analyst import ANSWER_BYTES_A_TOKEN, NOTHING_TO_DO, prompt_tokens, write_answer
from iot_pipeline.embedded_teacher.billing import PromptCache
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.batch import line_text
from iot_pipeline.teacher.config import BatchLimits
from iot_pipeline.teacher.request import Answer, Request, Usage, is_embedded
from iot_pipeline.teacher.session import Check, stored_answers
from iot_pipeline.teacher.store.store import Store
from iot_pipeline.teacher.tokens import request_tokens, safe_tokens, text_tokens

DRAFTS = 50  # answers drafted where none is stored
ANALYSIS = re.compile(r"(?:ANALYSIS:|\"analysis\":)\s*\"?")
MARK = 8  # hex digits of the request key that make a stand-in unique


@dataclass
class Part:
    """Requests and costs of one asset; a request counts for the asset that needs it first.

    Attempts, tokens and dollars are those of the `to_ask` requests. cached: answered in the store. waiting: in batches
    at the server, already paid for. limited_tokens: as rate limits per minute count them. worst_usd: every answer at
    its maximum length, one attempt each; half of that by batch.
    """

    name: str
    requests: int = 0
    cached: int = 0
    waiting: int = 0
    to_ask: int = 0
    attempts: float = 0.0
    prompt_tokens: float = 0.0
    cached_tokens: float = 0.0
    completion_tokens: float = 0.0
    usd_requests: float = 0.0
    usd_batch: float = 0.0
    worst_usd: float = 0.0
    limited_tokens: float = 0.0
    batches: int = 0

    def __add__(self, other: Part) -> Part:
        summed = {one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)[1:]}
        return Part(self.name, **summed)


@dataclass
class TokenStats:
    """Token usage of the stored answers to one prompt file: sums over requests, all attempts included."""

    answers: int = 0
    attempts: int = 0
    counted: float = 0.0  # prompt tokens by our own count, one attempt each
    usage: Usage = field(default_factory=Usage)
    texts: int = 0
    length: int = 0  # characters of all texts
    typical: str = ""  # a text of about mean length

    def __add__(self, other: TokenStats) -> TokenStats:
        return TokenStats(
            self.answers + other.answers,
            self.attempts + other.attempts,
            self.counted + other.counted,
            self.usage + other.usage,
            self.texts + other.texts,
            self.length + other.length,
            self.typical or other.typical,
        )

    def take(self, request_tokens: float, answer: Answer) -> None:
        """Add the token usage of one answer."""
        self.answers, self.attempts = self.answers + 1, self.attempts + answer.attempts
        self.counted, self.usage = self.counted + request_tokens, self.usage + answer.usage
        if answer.status != "ok" or not ANALYSIS.search(answer.text):
            return
        self.texts, self.length = self.texts + 1, self.length + len(answer.text)
        mean = self.length / self.texts
        if not self.typical or abs(len(answer.text) - mean) < abs(len(self.typical) - mean):
            self.typical = answer.text


@dataclass(frozen=True)
class TokenCounter:
    """Token counts of prompts and answers as a server makes them.

    cached: (prompt text, its tokens) -> tokens in the prompt cache, which cost less; None if only answers report them.
    """

    prompt: Callable[[Request], float]
    answer: Callable[[str], float]
    cached: Callable[[str, int], int] | None = None


class CostEstimator:
    """Cost estimator with a teacher's interface (TeacherProtocol): returns stored answers, and stand-ins for the rest.

    Writes nothing and connects to nothing.

    Args:
        source: Source whose stored answers count.
        store: Opened for reading; None if there is none yet.
        price: Dollars by model.
        words: Words of an explanation where no answer can be drafted.
        limits: Size limits of a batch.
        counting: Token counter; by default the source's.
    """

    def __init__(
        self,
        source: str,
        store: Store | None,
        price: Callable[[str], pricing.Price],
        words: int,
        limits: BatchLimits | None = None,
        counting: TokenCounter | None = None,
    ) -> None:
        self.source, self.store, self.price, self.words = source, store, price, words
        self.limits = limits or BatchLimits()
        self.parts: list[Part] = []
        self.learned: dict[str, TokenStats] = {}
        self.drafted: dict[str, str] = {}  # by prompt file: a typical answer, drafted here
        self._prompt = ""
        self._counted: set[str] = set()
        self._waiting = store.batched(source) if store is not None else set()
        self._counting = counting or token_counter(source)

    def begin(self, name: str, prompt: str) -> None:
        """Attribute the requests that follow to the asset `name` and the prompt file `prompt`."""
        self.parts.append(Part(name))
        self._prompt = prompt

    def stream(self, requests: Iterable[Request], check: Check, take: Callable[[Answer], None]) -> None:
        """Pass an answer for each distinct request to `take`.

        All requests are held in memory: the estimate of the missing ones uses the stored answers of all.
        """
        for answer in self.ask(list(requests), check).values():
            take(answer)

    def ask(self, requests: Sequence[Request], check: Check) -> dict[str, Answer]:
        """Return an answer for each distinct key: the stored one, or a stand-in of the expected length."""
        by_key = {request.key: request for request in requests}
        found = stored_answers(self.store, self.source, by_key, check) if self.store is not None else {}
        tokens = {key: self._counting.prompt(request) for key, request in by_key.items()}
        learned = self.learned.setdefault(self._prompt, TokenStats())
        for key in found.keys() - self._counted:
            if found[key].usage.prompt:
                learned.take(tokens[key], found[key])
        missing = [request for key, request in by_key.items() if key not in found]
        typical = self._typical(missing)
        self._count([r for r in missing if r.key not in self._counted], found, tokens, typical)
        self._counted |= by_key.keys()
        return found | {request.key: self._stand_in(request, typical) for request in missing}

    # -- lengths ---------------------------------------------------------------------------------------------

    def _typical(self, missing: Sequence[Request]) -> str:
        """Return an answer of about the expected length: a stored one, else one drafted by the embedded teacher."""
        given = [self.learned[self._prompt], *self.learned.values()]
        known = next((learned.typical for learned in given if learned.typical), "")
        if not known and missing:
            known = self.drafted.setdefault(self._prompt, self._draft(missing))
        return known

    def _draft(self, missing: Sequence[Request]) -> str:
        sample = missing[:: max(1, len(missing) // DRAFTS)]
        texts = [text for text in map(_drafted, sample) if text != NOTHING_TO_DO]
        if not texts:  # the embedded teacher does not understand this prompt
            return "CLASSIFICATION: \nANALYSIS: " + "explained " * self.words + "\nKEY_INDICATORS: "
        mean = sum(map(len, texts)) / len(texts)
        return min(texts, key=lambda text: abs(len(text) - mean))

    def _stand_in(self, request: Request, typical: str) -> Answer:
        """Return `typical` with part of the request key in it, so that texts derived from stand-ins stay distinct."""
        at = ANALYSIS.search(typical)
        start = at.end() if at else 0
        text = typical[:start] + request.key[:MARK] + typical[start + MARK :]
        return Answer(request.key, "ok", text, "stop", request.model, self.source)

    # -- sums ------------------------------------------------------------------------------------------------

    def _known(self) -> TokenStats:
        """Return the token statistics of the current prompt file, else those of all."""
        own = self.learned[self._prompt]
        return own if own.answers else sum(self.learned.values(), TokenStats())

    def _shared(self, asked: Sequence[Request], tokens: dict[str, float]) -> float:
        """Return the share of prompt tokens in the prompt cache; other prompt files say nothing about it."""
        own = self.learned[self._prompt]
        if own.answers:
            return own.usage.cached / own.usage.prompt
        return self._seen_before(asked, tokens) / sum(tokens[request.key] for request in asked)

    def _seen_before(self, asked: Sequence[Request], tokens: dict[str, float]) -> int:
        """Count the prompt tokens that the server's cache already holds; 0 if its rule is unknown."""
        cached = self._counting.cached
        return sum(cached(_text(r), int(tokens[r.key])) for r in asked) if cached is not None else 0

    def _count(
        self, missing: Sequence[Request], found: dict[str, Answer], tokens: dict[str, float], typical: str
    ) -> None:
        """Add the new requests to the current part."""
        part = self.parts[-1]
        asked = [request for request in missing if request.key not in self._waiting]
        cached = len(found.keys() - self._counted)
        part.requests += cached + len(missing)
        part.cached += cached
        part.waiting += len(missing) - len(asked)
        part.to_ask += len(asked)
        if not asked:
            return
        known, shared = self._known(), self._shared(asked, tokens)
        attempts, prompt = 1.0, sum(tokens[request.key] for request in asked)
        completion = self._counting.answer(typical) * len(asked)
        if known.answers:
            attempts = known.attempts / known.answers
            prompt *= known.usage.prompt / known.counted
            completion = known.usage.completion / known.answers * len(asked)
        part.attempts += attempts * len(asked)
        part.prompt_tokens += prompt
        part.cached_tokens += shared * prompt
        part.completion_tokens += completion
        price = self.price(asked[0].model)  # one prompt file, one model
        part.usd_requests += price.cost(Usage(round(prompt), round(shared * prompt), round(completion)))
        # The Batch API gives no prompt-cache discount.
        part.usd_batch += price.in_batch().cost(Usage(round(prompt), 0, round(completion)))
        limits = [int(request.params["max_tokens"]) for request in asked]
        part.worst_usd += sum(map(partial(pricing.worst_case, price), asked, limits))
        needed = [safe_tokens(request) for request in asked]
        part.limited_tokens += attempts * (sum(needed) + sum(limits))
        sizes = (len(line_text(request.key, request.body())) for request in asked)
        part.batches += waves(zip(sizes, needed, strict=True), self.limits)


def token_counter(source: str) -> TokenCounter:
    """Return the token counter of a source; only the embedded teacher's own rules are known."""
    return embedded_token_counter() if is_embedded(source) else TokenCounter(request_tokens, text_tokens)


def embedded_token_counter() -> TokenCounter:
    """Return the embedded teacher's token counter, with an empty prompt cache as after a server start."""
    return TokenCounter(
        lambda request: prompt_tokens(_text(request)),
        lambda text: len(text) // ANSWER_BYTES_A_TOKEN + 1,
        PromptCache().tokens,
    )


def _text(request: Request) -> str:
    return "\n".join(message["content"] for message in request.messages)


def _drafted(request: Request) -> str:
    temperature, seed, limit = (request.params.get(name) for name in ("temperature", "seed", "max_tokens"))
    fields = tuple(request.schema["properties"]) if request.schema is not None else ()
    return write_answer(request.messages, float(temperature or 0), seed, int(limit or 0), fields)[0]


def waves(lines: Iterable[tuple[int, int]], limits: BatchLimits) -> int:
    """Count the batches that lines of (bytes, tokens) need within the limits, filled one after the other (batch.py)."""
    count = size = tokens = inside = 0
    for length, needed in lines:
        full = inside == limits.requests or size + length > limits.bytes or tokens + needed > limits.tokens
        if full or not count:
            count, size, tokens, inside = count + 1, 0, 0, 0
        size, tokens, inside = size + length, tokens + needed, inside + 1
    return count


def seconds_needed(
    part: Part, answer_seconds: float, concurrency: int, rpm: int | None, tpm: int | None
) -> dict[str, float]:
    """Return the seconds that concurrent requests need under each limit, by its name; the longest applies.

    A full minute's quota may be sent at once (rate_limit.Bucket).

    Args:
        part: Requests to send.
        answer_seconds: Seconds of one attempt.
        concurrency: Requests in flight at a time.
        rpm: Requests per minute, None without a limit.
        tpm: Tokens per minute, None without a limit.
    """
    needed = {"concurrency": part.attempts * answer_seconds / concurrency}
    for name, limit, amount in (("rpm", rpm, part.attempts), ("tpm", tpm, part.limited_tokens)):
        if limit is not None:
            needed[name] = max(0.0, 60 * (amount - limit) / limit)
    return needed


def as_facts(part: Part) -> dict[str, Any]:
    """Return a part as JSON values: whole requests and tokens, dollars to a thousandth of a cent."""
    return {
        name: value if isinstance(value, str) else round(value, 5) if "usd" in name else round(value)
        for name, value in asdict(part).items()
    }
