"""Price table, cost of an attempt, and the maximum that a request can cost."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from iot_pipeline.errors import UserError
from iot_pipeline.lake.yaml_reader import read_own_yaml
from iot_pipeline.teacher.request import Request, Usage

PRICES = Path(__file__).parent / "prices.yaml"
PRICE_PARTS = ("prompt", "cached", "completion")
# Comparison price for the embedded teacher's tokens.
REFERENCE_MODEL = "gpt-4o-mini"
MESSAGE_OVERHEAD_TOKENS = 16
BATCH_FACTOR = 0.5  # the Batch API costs half: https://help.openai.com/en/articles/9197833-batch-api-faq


@dataclass(frozen=True)
class Price:
    """Price in dollars per million tokens."""

    prompt: float
    cached: float
    completion: float

    def cost(self, usage: Usage) -> float:
        """Return the cost of `usage` in dollars."""
        fresh = usage.prompt - usage.cached
        return (fresh * self.prompt + usage.cached * self.cached + usage.completion * self.completion) / 1e6

    def in_batch(self) -> Price:
        """Return the price in the Batch API."""
        return Price(*(BATCH_FACTOR * price for price in (self.prompt, self.cached, self.completion)))


FREE = Price(0.0, 0.0, 0.0)


@cache
def price_table() -> dict[str, Price]:
    """Load the prices in prices.yaml, by model name."""
    content = read_own_yaml(PRICES)
    return {name: Price(*(entry[part] for part in PRICE_PARTS)) for name, entry in content.items()}


@cache
def price_of(model: str) -> Price:
    """Return the price of a model or a dated version of it (`gpt-4o-mini-2024-07-18`); UserError if unknown."""
    table = price_table()
    known = [name for name in table if model == name or model.startswith(f"{name}-2")]
    if known:
        return table[max(known, key=len)]
    price = _published(model)
    if price is None:
        raise UserError(
            f"no price is known for the model {model!r}, so no budget could hold: add it to "
            "iot_pipeline/teacher/prices.yaml (0 for a server of your own), or choose another IOT_TEACHER_MODEL."
        )
    return price


def _published(model: str) -> Price | None:
    """Return the price in the installed package genai-prices (nothing is fetched); None if it is unknown.

    Of a tiered price, return the highest: a budget must hold for prompts of any length.
    """
    from genai_prices.data_snapshot import get_snapshot

    try:
        _, found = get_snapshot().find_provider_model(model, None, None, None)
    except LookupError:
        return None
    prices = found.get_prices(datetime.now(UTC))
    prompt, completion = _highest(prices.input_mtok), _highest(prices.output_mtok)
    if prompt is None or completion is None:
        return None
    cached = _highest(prices.cache_read_mtok)
    return Price(prompt, prompt if cached is None else cached, completion)


def _highest(price: Any) -> float | None:
    steps = [price.base, *(tier.price for tier in price.tiers)] if hasattr(price, "tiers") else [price]
    return None if price is None else max(map(float, steps))


def is_paid(base_url: str) -> bool:
    """Return True if an address looks like a paid server: one outside this machine and private networks.

    A guess: a proxy in the same network may pass requests on to a paid server (see IOT_TEACHER_PAID).
    """
    host = urlsplit(base_url).hostname or ""
    if host == "localhost" or host.endswith(".local") or ("." not in host.strip("[]") and ":" not in host):
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    return not (address.is_loopback or address.is_private)


def worst_case(price: Price, request: Request, max_tokens: int) -> float:
    """Return the maximum cost of an attempt in dollars: a token per byte of prompt, `max_tokens` of answer.

    The schema counts as well: servers put it before the messages.
    """
    prompt = sum(len(m["content"].encode()) + MESSAGE_OVERHEAD_TOKENS for m in request.messages)
    if request.schema is not None:
        prompt += len(json.dumps(request.body()["response_format"]))
    return price.cost(Usage(prompt=prompt, completion=max_tokens))


def reference_usd(usage: Usage) -> float:
    """Return the cost of the same tokens with REFERENCE_MODEL: a comparison, not an invoice."""
    return price_of(REFERENCE_MODEL).cost(usage)
