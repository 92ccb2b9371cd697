"""What would be asked of a teacher: the engine's interface, counting in place of sending."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any

from iot_pipeline.embedded_teacher.analyst import ANSWER_BYTES_A_TOKEN, NOTHING_TO_DO, prompt_tokens, write_answer
from iot_pipeline.embedded_teacher.billing import PromptCache
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.batch import BatchLimits, line_text
from iot_pipeline.teacher.request import Answer, Request, Usage, is_embedded
from iot_pipeline.teacher.retry_state import RetryState
from iot_pipeline.teacher.session import Check, stored_answers
from iot_pipeline.teacher.store.store import Store
from iot_pipeline.teacher.tokens import request_tokens, safe_tokens, text_tokens

DRAFTS = 50  # answers drafted where there is none to learn from
ANALYSIS = re.compile(r"(?:ANALYSIS:|\"analysis\":)\s*\"?")
MARK = 8  # hex digits that make a stand-in unique


@dataclass
class Part:
    """One asset's requests, each counted where it is first needed. Dollars are of the requests to ask.

    cached: answered in the store. waiting: in batches at the server, paid for already. limited_tokens: as the limits a
    minute count them. worst_usd: if every answer were as long as it may be, an attempt each; half of it by batch.
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
    """What stored answers to one prompt file took: sums over requests, every attempt included."""

    answers: int = 0
    attempts: int = 0
    counted: float = 0.0  # tokens of the prompts by our own count, one attempt each
    usage: Usage = field(default_factory=Usage)
    texts: int = 0
    length: int = 0  # of all texts together
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
        """Add what one answer took."""
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
    """How a server counts tokens of prompts and answers.

    cached: how many of a prompt's (text, tokens) it has seen before, which cost less; None: its answers will tell.
    """

    prompt: Callable[[Request], float]
    answer: Callable[[str], float]
    cached: Callable[[str, int], int] | None = None


class CostEstimator:
    """Takes the engine's place (augmentation.tracks.Asks): what is stored is given out, for the rest a stand-in.

    store: opened to read, None where there is none yet. price: dollars by model. counting: in place of the source's.
    Writes nothing, connects to nothing.
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
        self.drafted: dict[str, str] = {}  # by prompt: a typical answer that nobody has given
        self._prompt = ""
        self._counted: set[str] = set()
        self._waiting = store.batched(source) if store is not None else set()
        self._counting = counting or token_counter(source)

    def begin(self, name: str, prompt: str) -> None:
        """What is asked from here on is for the asset `name`, by the prompt file `prompt`."""
        self.parts.append(Part(name))
        self._prompt = prompt

    def stream(self, requests: Iterable[Request], check: Check, take: Callable[[Answer], None]) -> None:
        """As the engine's, but all requests are held at once: what is sent for some is judged by all."""
        for answer in self.ask(list(requests), check).values():
            take(answer)

    def ask(self, requests: Sequence[Request], check: Check) -> dict[str, Answer]:
        """An answer for each distinct key: the stored one, or a stand-in of the length that it may have."""
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
        """An answer of about the length to expect: one that was given, else one drafted by the embedded rules."""
        given = [self.learned[self._prompt], *self.learned.values()]
        known = next((learned.typical for learned in given if learned.typical), "")
        if not known and missing:
            known = self.drafted.setdefault(self._prompt, self._draft(missing))
        return known

    def _draft(self, missing: Sequence[Request]) -> str:
        sample = missing[:: max(1, len(missing) // DRAFTS)]
        texts = [text for text in map(_drafted, sample) if text != NOTHING_TO_DO]
        if not texts:  # a prompt in other words than the rules understand
            return "CLASSIFICATION: \nANALYSIS: " + "explained " * self.words + "\nKEY_INDICATORS: "
        mean = sum(map(len, texts)) / len(texts)
        return min(texts, key=lambda text: abs(len(text) - mean))

    def _stand_in(self, request: Request, typical: str) -> Answer:
        """`typical`, but no other request's: what is made of it must not fall together with what is made of others."""
        at = ANALYSIS.search(typical)
        start = at.end() if at else 0
        text = typical[:start] + request.key[:MARK] + typical[start + MARK :]
        return Answer(request.key, "ok", text, "stop", request.model, self.source)

    # -- sums ------------------------------------------------------------------------------------------------

    def _known(self) -> TokenStats:
        """What answers to the present prompt file took, else those to all."""
        own = self.learned[self._prompt]
        return own if own.answers else sum(self.learned.values(), TokenStats())

    def _shared(self, asked: Sequence[Request], tokens: dict[str, float]) -> float:
        """Share of the prompts' tokens that a prompt cache spares: what other prompt files took says nothing of it."""
        own = self.learned[self._prompt]
        if own.answers:
            return own.usage.cached / own.usage.prompt
        return self._seen_before(asked, tokens) / sum(tokens[request.key] for request in asked)

    def _seen_before(self, asked: Sequence[Request], tokens: dict[str, float]) -> int:
        """Tokens that the server has seen at the beginning of an earlier prompt; 0 where its rule is not known."""
        cached = self._counting.cached
        return sum(cached(_text(r), int(tokens[r.key])) for r in asked) if cached is not None else 0

    def _count(
        self, missing: Sequence[Request], found: dict[str, Answer], tokens: dict[str, float], typical: str
    ) -> None:
        """Add what is new to the present part."""
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
        # The Batch API gives no discount for prompts that came before.
        part.usd_batch += price.in_batch().cost(Usage(round(prompt), 0, round(completion)))
        limits = [int(request.params["max_tokens"]) for request in asked]
        part.worst_usd += sum(map(partial(pricing.worst_case, price), asked, limits))
        needed = [safe_tokens(request) for request in asked]
        part.limited_tokens += attempts * (sum(needed) + sum(limits))
        sizes = (len(line_text(RetryState(request))) for request in asked)
        part.batches += waves(zip(sizes, needed, strict=True), self.limits)


def token_counter(source: str) -> TokenCounter:
    """How the server behind a source counts; of the embedded teacher that is known."""
    return embedded_token_counter() if is_embedded(source) else TokenCounter(request_tokens, text_tokens)


def embedded_token_counter() -> TokenCounter:
    """The embedded teacher's own rules, and a prompt cache as empty as that of a server just started."""
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
    """Batches that take lines of so many (bytes, tokens) within the limits, each filled before the next (batch.py)."""
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
    """Seconds that each limit makes concurrent requests take, by its name; the longest holds.

    A full minute's worth may go at once (quota.Bucket).
    """
    needed = {"concurrency": part.attempts * answer_seconds / concurrency}
    for name, limit, amount in (("rpm", rpm, part.attempts), ("tpm", tpm, part.limited_tokens)):
        if limit is not None:
            needed[name] = max(0.0, 60 * (amount - limit) / limit)
    return needed


def as_facts(part: Part) -> dict[str, Any]:
    """A part as JSON tells it: whole requests and tokens, dollars to a thousandth of a cent."""
    return {
        name: value if isinstance(value, str) else round(value, 5) if "usd" in name else round(value)
        for name, value in asdict(part).items()
    }
