"""Marked facts of an analysis: each must be its flow's, and nothing may be cited outside of them."""

from __future__ import annotations

import re

from iot_pipeline.augmentation.answers import Facts, mentions_in, numbers_in
from iot_pipeline.augmentation.mentions import certain_mentions
from iot_pipeline.flows.marked import MARKED
from iot_pipeline.flows.serialise import plain_number

MENTION = re.compile(r"`([^`\n]+)`")
DIRECTION = re.compile(r"\b(?:above|below)\b", re.IGNORECASE)


def marked_facts(text: str, facts: Facts) -> list[tuple[str, bool]]:
    """Return the marked facts of a text, each with True if feature, value, direction and percentile are the flow's."""
    return [(found[0], _is_true(found, facts)) for found in MARKED.finditer(text)]


def mark_faults(analysis: str, facts: Facts) -> list[str]:
    """Return the false marked facts of an analysis, and what it cites without a mark."""
    reasons = [f"false fact: {fact}" for fact, true in marked_facts(analysis, facts) if not true]
    rest = MARKED.sub(" ", analysis)
    reasons += [f"unknown feature: {name[:40]}" for name in MENTION.findall(rest) if name not in facts.values]
    rest = MENTION.sub(" ", rest)
    certain = set(certain_mentions(facts.names, rest))  # a category's name is told from a word by its value
    named = [name[0] for name in mentions_in(rest, facts) if name[0] in certain]
    cited = [*named, *numbers_in(rest, facts), *DIRECTION.findall(rest), *"`" * ("`" in rest)]
    return reasons + [f"unmarked fact: {what[:40]}" for what in cited]


def _is_true(found: re.Match[str], facts: Facts) -> bool:
    name, value, note = found.groups()
    if name in facts.shares:
        return value == facts.values[name] and note in (None, facts.shares[name])
    true = ", ".join(filter(None, (facts.directions.get(name), facts.percentiles.get(name))))
    return plain_number(value) == facts.values.get(name) and note in (None, true)
