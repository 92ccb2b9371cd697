"""Packing: rows laid end to end so that little room is wasted."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack rows of these lengths into at most `capacity` tokens each: best fit, longest first, O(n log n).

    Lengths [5, 3, 4, 2, 6] and capacity 8 give the row numbers [[4, 3], [0, 1], [2]]:

        |6 6 6 6 6 6|2 2|
        |5 5 5 5 5|3 3 3|
        |4 4 4 4|. . . .|

    No row is split or dropped: one longer than `capacity` gets its own pack. The same lengths give the same packs.
    Best fit decreasing needs at most 11/9 of the least number of packs (Johnson 1973).
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
