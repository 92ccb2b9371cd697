"""A flow text that leaves no room for an answer is one sentence of the base's check, before the teacher is asked."""

from types import SimpleNamespace
from typing import Any

import pytest

from iot_pipeline.defs.training import assets
from iot_pipeline.settings import load_settings
from iot_pipeline.tiny_base.tokenizer import build_tokenizer


@pytest.mark.parametrize(("features", "room", "told"), [(29, 1024, False), (200, 1024, True), (200, 2048, False)])
def test_a_text_too_long_is_told_with_the_length_it_needs(
    features: int, room: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["\n".join(f"f{n}: {n * row}.5 p{n % 100}" for n in range(features)) for row in range(3)]
    tokenizer = build_tokenizer(texts, [], 400)
    monkeypatch.setattr(assets, "pool_texts", lambda _step: (texts, {}))
    monkeypatch.setattr(assets, "load_tokenizer", lambda _base: tokenizer)
    settings = load_settings({}, max_length=room)
    step: Any = SimpleNamespace(settings=settings, lake=SimpleNamespace(manifest=lambda _artefact: object()))
    problem = assets.too_long(step, "base")
    assert bool(problem) == told
    assert not told or problem.startswith(f"IOT_MAX_LENGTH={room}, but a flow takes up to ")
    step.lake.manifest = lambda _artefact: None
    assert assets.too_long(step, "base") == ""
