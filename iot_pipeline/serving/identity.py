"""Identity of a flow in its source: time, uid, addresses and ports, which events carry and the student never sees."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

# Name in an event -> names of the column in Zeek, Suricata, CICFlowMeter, Argus and NetFlow, without punctuation.
COLUMNS = {
    "ts": ("ts", "timestamp", "starttime", "stime", "flowstart", "datefirstseen", "firstseen"),
    "uid": ("uid", "flowid"),
    "src_ip": ("idorigh", "srcip", "sourceip", "saddr", "ipv4srcaddr", "ipv6srcaddr", "srcaddr", "ipsrchost"),
    "src_port": ("idorigp", "srcport", "sourceport", "sport", "l4srcport", "tcpsrcport"),
    "dest_ip": ("idresph", "dstip", "destip", "destinationip", "daddr", "ipv4dstaddr", "ipv6dstaddr", "dstaddr",
                "ipdsthost"),
    "dest_port": ("idrespp", "dstport", "destport", "destinationport", "dport", "dsport", "l4dstport", "tcpdstport"),
    "proto": ("proto", "protocol", "protocoltype", "transport"),
    "service": ("service", "appproto", "application"),
}  # fmt: skip
UNSET = ("", "-", "(empty)")
PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 47: "gre", 58: "ipv6-icmp", 132: "sctp"}
WHOLE_NUMBER = re.compile("0|[1-9][0-9]{0,14}")  # `007` is a name, and stays as it is
LARGEST_WHOLE = 1e15  # of a float whose digits are all its own
MOST_CHARACTERS = 256  # of a value; more is no address, name or port
MOST_SECONDS = 62e9  # from 1970 to what a date can hold: the years 6 to 3934
SECONDS, MILLISECONDS, MICROSECONDS = 1e8, 1e11, 1e14  # from here on a number of seconds, ms, us since 1970


def identity_columns(columns: Iterable[str]) -> dict[str, str]:
    """Return the column of each part of the identity that a table has: name in an event -> column."""
    plain = {re.sub(r"[^a-z0-9]", "", column.lower()): column for column in reversed(list(columns))}
    found = {name: next((plain[one] for one in known if one in plain), None) for name, known in COLUMNS.items()}
    return {name: column for name, column in found.items() if column is not None}


def identity(cells: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of an identity that are set, whole numbers as numbers."""
    return {name: cell for name, value in cells.items() if (cell := _cell(value)) is not None}


def text_of(cell: Any) -> str | None:
    """Return a cell as text: a whole number without a fraction, as ports beside blanks are floats; None if unset."""
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return None
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() and abs(cell) < LARGEST_WHOLE else str(cell)


def _cell(value: Any) -> Any:
    if (text := text_of(value)) is None:
        return None
    text = text.strip()
    if text in UNSET:
        return None
    return int(text) if WHOLE_NUMBER.fullmatch(text) else text[:MOST_CHARACTERS]


def seconds_of(value: Any) -> float | None:
    """Return a time (a number of s, ms or us; ISO 8601, UTC if it names no zone) as seconds since 1970; else None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return _iso_seconds(value)
    if not SECONDS <= number < 1e17:
        return None
    return number / (1 if number < MILLISECONDS else 1e3 if number < MICROSECONDS else 1e6)


def _iso_seconds(value: Any) -> float | None:
    try:
        found = datetime.fromisoformat(str(value).strip())
        seconds = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if abs(seconds) < MOST_SECONDS else None


def address(value: Any) -> str | None:
    """Return an IP address in its usual spelling, without a zone, which no schema takes; None if it is none."""
    try:
        return str(ipaddress.ip_address(str(value))).partition("%")[0]
    except ValueError:
        return None


def port(value: Any) -> int | None:
    """Return a port; None if it is none."""
    return value if isinstance(value, int) and 0 <= value <= 65535 else None


def protocol(value: Any) -> str | None:
    """Return the name of a transport protocol in lower case, also of its number; None if there is none."""
    if isinstance(value, int):
        return PROTOCOLS.get(value)
    return str(value).lower() if value is not None and re.fullmatch(r"[\w.-]{1,32}", str(value)) else None
