"""Packets of simulated conversations, and their features as in Zeek's conn.log and zeek-flowmeter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IP_HEADER = 20
Numbers = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Draw:
    """A random integer lo, lo + step, ... up to hi; `power` 1 is uniform, higher values favour lo."""

    lo: int
    hi: int
    step: int = 1
    power: int = 1


def sample(value: Draw | int, rng: np.random.Generator, rows: int) -> Numbers:
    """Sample `rows` integers, using only sums and products of doubles: equal bytes on every platform."""
    if isinstance(value, int) or value.lo == value.hi:
        return np.full(rows, value if isinstance(value, int) else value.lo, dtype=np.int64)
    uniform = rng.random(rows)
    leaning = uniform.copy()
    for _ in range(value.power - 1):
        leaning *= uniform
    steps = (value.hi - value.lo) // value.step + 1
    return value.lo + value.step * (leaning * steps).astype(np.int64)


@dataclass(frozen=True)
class Packet:
    """One packet: direction, transport header bytes, payload bytes, microseconds since the previous packet."""

    forward: bool
    header: int
    payload: Draw | int = 0
    gap: Draw | int = 0


@dataclass(frozen=True)
class Conversation:
    """A kind of flow: its share of the class, its packets in order, bytes that the capture missed."""

    share: float
    packets: tuple[Packet, ...]
    missed: Draw | int = 0


@dataclass(frozen=True)
class Trace:
    """Packets of flows of one kind: payload bytes and times in microseconds (rows, packets), missed bytes (rows)."""

    payload: Numbers
    times: Numbers
    missed: Numbers


def trace(conversation: Conversation, rows: int, rng: np.random.Generator) -> Trace:
    """Draw the packets of `rows` flows of one kind."""
    packets = conversation.packets
    payload = np.stack([sample(packet.payload, rng, rows) for packet in packets], axis=1)
    gaps = [np.zeros(rows, dtype=np.int64)] + [sample(packet.gap, rng, rows) for packet in packets[1:]]
    times = np.cumsum(np.stack(gaps, axis=1), axis=1)
    return Trace(payload, times, sample(conversation.missed, rng, rows))


def measure(conversation: Conversation, rows: int, rng: np.random.Generator) -> dict[str, Values]:
    """Compute the 29 features, in raw units, of `rows` flows of one kind.

    A flow of one packet has duration 0, and all rates are 0 where the duration is 0; times are in microseconds.
    """
    drawn = trace(conversation, rows, rng)
    ways = np.array([packet.forward for packet in conversation.packets])
    headers = np.array([packet.header for packet in conversation.packets], dtype=np.int64)
    payload, times = drawn.payload, drawn.times
    duration = times[:, -1]
    found: dict[str, Values] = {}
    totals: dict[str, Numbers] = {}
    count: dict[str, int] = {}
    for name, chosen in (("fwd", ways), ("bwd", ~ways), ("flow", np.ones_like(ways))):
        number = int(chosen.sum())
        count[name] = number
        totals[name] = payload[:, chosen].sum(axis=1)
        span = times[:, chosen][:, -1] - times[:, chosen][:, 0] if number else np.zeros(rows, dtype=np.int64)
        rate = np.zeros(rows)
        np.divide(number * 1e6, duration, out=rate, where=duration > 0)
        found[f"{name}_pkts_per_sec"] = rate
        found[f"{name}_pkts_payload.tot"] = totals[name].astype(np.float64)
        found[f"{name}_pkts_payload.avg"] = totals[name] / max(number, 1)
        found[f"{name}_iat.tot"] = span.astype(np.float64)
        found[f"{name}_iat.avg"] = span / max(number - 1, 1)
        if name != "flow":
            sizes = headers[chosen] if number else np.zeros(1, dtype=np.int64)
            found[f"{name}_header_size_tot"] = np.full(rows, float(sizes.sum()))
            found[f"{name}_header_size_min"] = np.full(rows, float(sizes.min()))
            found[f"{name}_header_size_max"] = np.full(rows, float(sizes.max()))
    for name, side in (("fwd", "orig"), ("bwd", "resp")):
        found[f"{side}_pkts"] = np.full(rows, float(count[name]))
        found[f"{side}_ip_bytes"] = totals[name] + found[f"{name}_header_size_tot"] + IP_HEADER * count[name]
    with_data = payload > 0
    found["data_pkts_difference"] = (with_data[:, ways].sum(axis=1) - with_data[:, ~ways].sum(axis=1)).astype(float)
    found["pkts_difference"] = np.full(rows, float(count["fwd"] - count["bwd"]))
    found["down_up_ratio"] = np.full(rows, count["bwd"] / count["fwd"] if count["fwd"] else 0.0)
    found["missed_bytes"] = drawn.missed.astype(np.float64)
    return found


def shares(weights: list[float], total: int) -> list[int]:
    """Distribute `total` in proportion to the weights by largest remainder: exact and deterministic."""
    exact = [weight / sum(weights) * total for weight in weights]
    whole = [int(value + 1e-9) for value in exact]
    order = sorted(range(len(weights)), key=lambda index: (whole[index] - exact[index], index))
    for index in order[: total - sum(whole)]:
        whole[index] += 1
    return whole


def class_features(
    conversations: tuple[Conversation, ...], rows: int, rng: np.random.Generator, names: list[str]
) -> Values:
    """Return the raw features of the flows of a class, shape (rows, len(names)), kind after kind of conversation.

    Args:
        conversations: Kinds of conversation, each with its share of the rows.
        rows: Number of flows.
        rng: Source of all draws.
        names: Features, in the order of the columns.
    """
    parts = []
    for conversation, number in zip(conversations, shares([kind.share for kind in conversations], rows), strict=True):
        if number:
            found = measure(conversation, number, rng)
            parts.append(np.stack([found[name] for name in names], axis=1))
    return np.concatenate(parts)
