"""Assignment of flow groups to the sides of the split: the rule for the groups of one class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from iot_pipeline.vocabulary import SIDES

# The order in which a class too small for the rule gives one group to each side.
EVALUATION_SIDES = ("test", "validation", "calibration")
# From this many rows on a group is large: it moves the row shares of a class, and there are few of them.
LARGE = 16
# However many rows the evaluation sides lack, the train pool keeps this share of the large groups that are dealt.
TRAIN_KEEPS = 0.5


def assign_class(sizes: Sequence[int], fractions: Mapping[str, float]) -> list[str]:
    """Return the side of each group of one class.

    `sizes` are rows per group: larger powers of two first, seeded order within a power.

    1. A group with more rows than the largest evaluation side's full share of the class stays in train.
    2. Every other group goes, in the order given, to the side furthest behind its share of the rows assigned so far,
       among the sides whose full share the group does not exceed. Groups of each size are thus split in the same
       proportions, and sides hold their shares both of rows and of distinct flows.
    3. The large groups (LARGE rows or more) compensate for the rows that rule 1 holds in train: for them the evaluation
       sides' shares are raised in proportion, but train keeps at least TRAIN_KEEPS of those rows. Without that limit,
       the train pool of a class that is mostly one group would lose every other pattern of the class.
    4. A class with four groups or more has at least one on every side, whatever their sizes.
    """
    total = sum(sizes)
    most = {side: fractions[side] * total for side in SIDES} | {"train": float(total)}
    oversized = max(most[side] for side in EVALUATION_SIDES)
    raised = boosted_fractions(sizes, oversized, fractions)
    behind = dict.fromkeys(SIDES, 0.0)
    sides = []
    for size in sizes:
        if size > oversized:
            sides.append("train")
            continue
        for side, share in (raised if size >= LARGE else fractions).items():
            behind[side] += share * size
        # On a tie the first of SIDES: train.
        side = max((side for side in SIDES if size <= most[side]), key=behind.__getitem__)
        behind[side] -= size
        sides.append(side)
    return one_on_every_side(sides)


def boosted_fractions(sizes: Sequence[int], oversized: float, fractions: Mapping[str, float]) -> Mapping[str, float]:
    """Return raised evaluation shares for large groups, to compensate for groups above `oversized` rows."""
    held = sum(size for size in sizes if size > oversized)
    large = sum(size for size in sizes if LARGE <= size <= oversized)
    if not held or not large:
        return fractions
    wanted = 1 - fractions["train"]
    factor = max(1.0, min(1 + held / large, (1 - TRAIN_KEEPS) / wanted))
    return {"train": 1 - factor * wanted} | {side: factor * fractions[side] for side in EVALUATION_SIDES}


def one_on_every_side(sides: list[str]) -> list[str]:
    """Give each empty side the smallest group of a side that has two or more; train donates first."""
    if len(sides) < len(SIDES):
        return sides
    dealt = list(sides)
    for empty in (side for side in (*EVALUATION_SIDES, "train") if side not in sides):
        donor = next(side for side in ("train", *EVALUATION_SIDES) if dealt.count(side) > 1)
        # The smallest groups stand last.
        dealt[len(dealt) - 1 - dealt[::-1].index(donor)] = empty
    return dealt
