"""Zero-shot teacher: requests for the class of flows that come without a label, and the class that an answer names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from iot_pipeline.augmentation.answers import ZERO_SHOT_VERSION, parse_answer, plain_label
from iot_pipeline.augmentation.plan import FlowRequest, TrackConfig
from iot_pipeline.augmentation.prompts import PromptFile
from iot_pipeline.teacher.request import Request


def sample_groups(groups: Sequence[str], count: int, seed: int) -> list[str]:
    """Sample flow groups by a seeded hash; a larger sample holds the smaller one, whose answers are stored."""
    ranked = sorted(set(groups), key=lambda group: hashlib.sha256(f"{seed}{group}".encode()).digest())
    return sorted(ranked[:count])


def zero_shot_request(text: str, prompt: PromptFile, config: TrackConfig) -> FlowRequest:
    """Return the request for a flow's class; the prompt is given no label, so one that uses it is refused.

    Its schema version is in its key, which therefore is no request's of a track.
    """
    messages = prompt.render(**config.variables(), flow=text)
    params = prompt.params() | {"seed": config.seed}
    return FlowRequest(prompt.model, messages, params, ZERO_SHOT_VERSION, flow=text)


def accept(request: Request, text: str) -> list[str]:
    """Return no reason against any answer: one without a class is wrong, and asking again would be a favour."""
    return []


def named_class(text: str, classes: Sequence[str]) -> str | None:
    """Return the class that an answer names in its CLASSIFICATION; None if it is no class, or there are two parts."""
    parsed = parse_answer(text)
    if "CLASSIFICATION stands twice" in parsed.problems:
        return None
    return {plain_label(name): name for name in classes}.get(plain_label(parsed.label))
