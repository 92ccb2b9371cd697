"""Cost estimates: a stand-in for the teacher that counts requests instead of sending them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
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

AT_ONCE = 1000  # requests looked up in the store at once
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
        """Return the sums of all figures, under this part's name."""
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
        self.learned: defaultdict[str, TokenStats] = defaultdict(TokenStats)  # by prompt file, and of all as ""
        self.drafted: dict[str, str] = {}  # by prompt file: a typical answer, drafted here
        self._prompt = ""
        self._counted: set[str] = set()
        self._waiting = store.batched(source) if store is not None else set()
        # Of the sources, only the embedded teacher's own rules are known.
        by_source = embedded_token_counter() if is_embedded(source) else TokenCounter(request_tokens, text_tokens)
        self._counting = counting or by_source

    def begin(self, name: str, prompt: str) -> None:
        """Attribute the requests that follow to the asset `name` and the prompt file `prompt`."""
        self.parts.append(Part(name))
        self._prompt = prompt

    def stream(self, requests: Iterable[Request], check: Check, take: Callable[[Answer], None]) -> None:
        """Pass an answer for each distinct request to `take`, stand-ins last: stored answers tell their length."""
        part, feed, seen = self.parts[-1], iter(requests), set[str]()
        missing, sample, lines = dict[str, str](), list[Request](), list[tuple[int, int]]()
        while some := list(islice(feed, AT_ONCE)):
            by_key = {request.key: request for request in some if request.key not in seen}
            seen |= by_key.keys()
            found = stored_answers(self.store, self.source, by_key, check) if self.store is not None else {}
            for key, request in by_key.items():
                new, answer = key not in self._counted, found.get(key)
                part.requests += new
                if answer is not None:
                    part.cached += new
                    if new and answer.usage.prompt:
                        for stats in (self.learned[self._prompt], self.learned[""]):
                            stats.take(self._counting.prompt(request), answer)
                    take(answer)
                    continue
                missing[key] = request.model
                sample += [request] if len(sample) < DRAFTS else []
                if new and key in self._waiting:
                    part.waiting += 1
                elif new:
                    lines.append(self._add(part, request))
        self._counted |= seen
        typical = self.learned[self._prompt].typical or self.learned[""].typical
        if missing and not typical:
            typical = self.drafted.setdefault(self._prompt, draft(sample, self.words))
        if part.to_ask:
            part.batches = waves(lines, self.limits)
            self._finish(part, typical, self.price(sample[0].model))  # one prompt file, one model
        for key, model in missing.items():
            take(stand_in(key, model, self.source, typical))

    def _add(self, part: Part, request: Request) -> tuple[int, int]:
        """Add one request to the sums, as for one attempt; return its bytes and tokens in a batch."""
        tokens, needed, limit = self._counting.prompt(request), safe_tokens(request), int(request.params["max_tokens"])
        part.to_ask += 1
        part.prompt_tokens += tokens
        if self._counting.cached is not None:
            part.cached_tokens += self._counting.cached(_text(request), int(tokens))
        part.worst_usd += pricing.worst_case(self.price(request.model), request, limit)
        part.limited_tokens += needed + limit
        return len(line_text(request.key, request.body())), needed

    def _finish(self, part: Part, typical: str, price: pricing.Price) -> None:
        """Correct the sums by what stored answers took, and price them.

        Token statistics are those of the prompt file, else of all; but another prompt file says nothing about the
        share of the prompt that is in the prompt cache.
        """
        own = self.learned[self._prompt]
        known = own if own.answers else self.learned[""]
        cached = own.usage.cached / own.usage.prompt if own.answers else part.cached_tokens / part.prompt_tokens
        attempts, completion = 1.0, self._counting.answer(typical)
        if known.answers:
            attempts, completion = known.attempts / known.answers, known.usage.completion / known.answers
            part.prompt_tokens *= known.usage.prompt / known.counted
        part.attempts = attempts * part.to_ask
        part.limited_tokens *= attempts
        part.cached_tokens = cached * part.prompt_tokens
        part.completion_tokens = completion * part.to_ask
        usage = Usage(round(part.prompt_tokens), round(part.cached_tokens), round(part.completion_tokens))
        part.usd_requests = price.cost(usage)
        # The Batch API gives no prompt-cache discount.
        part.usd_batch = price.in_batch().cost(replace(usage, cached=0))


def draft(sample: Sequence[Request], words: int) -> str:
    """Return an answer of about mean length, as the embedded teacher would write it to some of the requests."""
    texts = []
    for request in sample:
        temperature, seed, limit = (request.params.get(name) for name in ("temperature", "seed", "max_tokens"))
        parts = tuple(request.schema["properties"]) if request.schema is not None else ()
        texts.append(write_answer(request.messages, float(temperature or 0), seed, int(limit or 0), parts)[0])
    texts = [text for text in texts if text != NOTHING_TO_DO]
    if not texts:  # the embedded teacher does not understand this prompt
        return "CLASSIFICATION: \nANALYSIS: " + "explained " * words + "\nKEY_INDICATORS: "
    mean = sum(map(len, texts)) / len(texts)
    return min(texts, key=lambda text: abs(len(text) - mean))


def stand_in(key: str, model: str, source: str, typical: str) -> Answer:
    """Return `typical` with part of the request key in it, so that texts derived from stand-ins stay distinct.

    Args:
        key: Key of the request.
        model: Model of the request.
        source: Source under which the answer counts.
        typical: Answer of about the expected length.
    """
    at = ANALYSIS.search(typical)
    start = at.end() if at else 0
    return Answer(key, "ok", typical[:start] + key[:MARK] + typical[start + MARK :], "stop", model, source)


def embedded_token_counter() -> TokenCounter:
    """Return the embedded teacher's token counter, with an empty prompt cache as after a server start."""
    return TokenCounter(
        lambda request: prompt_tokens(_text(request)),
        lambda text: len(text) // ANSWER_BYTES_A_TOKEN + 1,
        PromptCache().tokens,
    )


def _text(request: Request) -> str:
    return "\n".join(message["content"] for message in request.messages)


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
