"""Packing: which rows are laid end to end so that little room is wasted."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Packs of row numbers, each of at most `capacity` tokens together: best fit, longest first, O(n log n).

    No row is ever split or dropped: one longer than `capacity` gets a pack of its own. The same lengths give the
    same packs. Best fit decreasing needs at most 11/9 of the least number of packs (Johnson 1973).
    """
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, pack), sorted
    for place in order:
        at = bisect_left(room, (lengths[place], -1))
        if at < len(room):
            left, pack = room.pop(at)
            packs[pack].append(place)
        else:
            left, pack = capacity, len(packs)
            packs.append([place])
        if left > lengths[place]:
            insort(room, (left - lengths[place], pack))
    return packs
