"""Flows as Zeek's conn.log and zeek-flowmeter measure them: the quantities behind their features, and the identities.

In RT-IoT2022 all of them hold, except that the rates of 3 % of its flows divide by a duration of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Parts = dict[str, Values]

SIDES = {"fwd": "orig", "bwd": "resp"}
WAYS = (*SIDES, "flow")
IP_HEADER = 20
SECOND = 1e6  # microseconds
MEASURED = (
    *(f"{side}_{what}" for side in SIDES.values() for what in ("pkts", "ip_bytes")),
    *(f"{way}_pkts_per_sec" for way in WAYS),
    *(f"{way}_header_size_{what}" for way in SIDES for what in ("tot", "min", "max")),
    *(f"{way}_{what}" for way in WAYS for what in ("pkts_payload.tot", "pkts_payload.avg", "iat.tot", "iat.avg")),
    "down_up_ratio", "pkts_difference",
)  # fmt: skip


def measures(names: Sequence[str]) -> bool:
    """Return True if these features are those of a flow meter, so that its identities can be kept."""
    return {*MEASURED, "data_pkts_difference"} <= set(names)


def parts_of(raw: Mapping[str, Values]) -> Parts:
    """Return the quantities behind raw features: packets, bytes and times of each way.

    Packets and bytes are whole. The duration is that of the rates, more exact than times where a flow is short;
    without a rate it is the time from the first to the last packet.
    """
    parts: Parts = {}
    for way, side in SIDES.items():
        parts[f"{way}_packets"] = np.rint(raw[f"{side}_pkts"])
        parts[f"{way}_payload"] = np.rint(raw[f"{way}_pkts_payload.tot"])
        for what in ("tot", "min", "max"):
            parts[f"{way}_header_{what}"] = np.rint(raw[f"{way}_header_size_{what}"])
    for way in WAYS:
        parts[f"{way}_time"] = np.maximum(raw[f"{way}_iat.tot"], 0.0)
    packets, rate = parts["fwd_packets"] + parts["bwd_packets"], raw["flow_pkts_per_sec"]
    parts["duration"] = parts["flow_time"].copy()
    np.divide(packets * SECOND, rate, out=parts["duration"], where=rate > 0)
    parts["data_difference"] = np.rint(raw["data_pkts_difference"])
    return parts


def features_of(parts: Parts) -> dict[str, Values]:
    """Return the features in raw units that follow from the quantities of `parts_of`."""
    packets = {way: parts[f"{way}_packets"] for way in SIDES}
    payload = {way: parts[f"{way}_payload"] for way in SIDES}
    packets["flow"], payload["flow"] = (of["fwd"] + of["bwd"] for of in (packets, payload))
    found: dict[str, Values] = {}
    for way in WAYS:
        found[f"{way}_pkts_payload.tot"] = payload[way]
        found[f"{way}_pkts_payload.avg"] = payload[way] / np.maximum(packets[way], 1)
        found[f"{way}_iat.tot"] = parts[f"{way}_time"]
        found[f"{way}_iat.avg"] = parts[f"{way}_time"] / np.maximum(packets[way] - 1, 1)
        rate = np.zeros_like(parts["duration"])
        found[f"{way}_pkts_per_sec"] = np.divide(
            packets[way] * SECOND, parts["duration"], out=rate, where=parts["duration"] > 0
        )
    for way, side in SIDES.items():
        found[f"{side}_pkts"] = packets[way]
        found[f"{side}_ip_bytes"] = payload[way] + parts[f"{way}_header_tot"] + IP_HEADER * packets[way]
        for what in ("tot", "min", "max"):
            found[f"{way}_header_size_{what}"] = parts[f"{way}_header_{what}"]
    found["pkts_difference"] = packets["fwd"] - packets["bwd"]
    found["down_up_ratio"] = np.where(packets["fwd"] > 0, packets["bwd"] / np.maximum(packets["fwd"], 1), 0.0)
    return found
