"""Projections are bounds that no product of bandwidth or FLOPs can beat, and the guide names what fits."""

from __future__ import annotations

import pytest

from iot_pipeline.inference.projection import (
    advice,
    cards_and_bases,
    explanation_seconds,
    guide,
    label_seconds,
    memory_gb,
    projection,
)

CARDS, BASES = ({one.name: one for one in some} for some in cards_and_bases())


def test_a_token_alone_costs_the_reading_of_the_weights() -> None:
    card, base = CARDS["H200"], BASES["Qwen2.5-1.5B"]
    weights = 1.544e9 * 2 / 4800e9
    one = explanation_seconds(card, base, rows=1, tokens=512) - label_seconds(card, base, rows=1)
    assert 512 * weights < one < 512 * weights * 1.1  # the cache is little beside them
    assert label_seconds(card, base, rows=32) == pytest.approx(2 * 1.310e9 * 459 / 989e12)


def test_a_base_of_another_card_is_never_called_measured() -> None:
    rows = projection()
    assert {row["card"] for row in rows} == {"RTX 3060", "RTX 4090", "H100", "H200"}
    assert all(row["projected"] and row["source"] for row in rows)
    assert all(row["memory_gb"] <= CARDS[row["card"]].memory for row in rows)
    seven = {row["card"]: row["weights"] for row in rows if row["base"] == "Qwen2.5-7B"}
    assert seven == {"RTX 3060": "int8", "RTX 4090": "bf16", "H100": "bf16", "H200": "bf16"}


@pytest.mark.parametrize(("memory", "on_card"), [(12, True), (24, True), (24, False), (2, True)])
def test_the_guide_names_the_largest_base_that_fits(memory: float, on_card: bool) -> None:
    room = memory if on_card else memory / 2
    for kind, name in guide(memory, on_card)["largest"].items():
        fitting = [base.name for base in BASES.values() if memory_gb(base, kind) <= room]
        assert name == (fitting[-1] if fitting else None)
    assert (f"{memory} GB" in advice(memory, on_card)) and ("no base" in advice(memory, on_card)) == (memory == 2)
