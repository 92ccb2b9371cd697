"""Columns of an unknown table: those that cannot be features, and why."""

from __future__ import annotations

import re

from iot_pipeline.flows.categories import MOST_CHARACTERS
from iot_pipeline.flows.drafting.table import Column

# Who and when, not what: with these a model would memorise the capture. Includes the names of UNSW-NB15 and Zeek.
IDENTITY = re.compile(
    r"(src|dst|source|destination|orig|resp|flow)?(id|uid|ip|ipv4|ipv6|addr\w*|mac|ports?|time|timestamp\w*|date\w*|ts)"
    r"|[sd]s?port|[sl]time|[sd]addr|(src|dst|source|destination)host|pkseqid|epoch|(flow)?(start|end)(time)?"
)
# Last words of measured quantities, whatever precedes them: orig_ip_bytes, active_time_mean.
MEASURES = {
    "bytes", "byts", "byte", "pkts", "pkt", "packets", "packet", "len", "length", "size", "count", "cnt", "num",
    "number", "rate", "ratio", "avg", "average", "mean", "std", "var", "variance", "min", "max", "median", "sum",
    "tot", "total", "sec", "secs", "seconds", "ms", "us", "s", "duration", "iat", "ttl", "loss", "difference",
    "delta", "relative", "ltm", "entropy", "weight", "skew", "kurtosis", "magnitude", "radius", "covariance", "pcc",
}  # fmt: skip
# First words of counts and of yes-or-no questions: ct_dst_sport_ltm, is_sm_ips_ports.
COUNTERS = {
    "ct", "is", "has", "num", "count", "cnt", "number", "nr", "same", "diff", "unique", "nunique", "distinct", "avg",
    "mean", "std", "max", "min", "total", "tot", "sum", "rate", "ratio", "percent", "pct",
}  # fmt: skip
# Beside one of these, `type`, `class` or `category` is of a protocol, a device or a message: Protocol Type, qtype_name.
_WORDS_OF_OTHERS = """
    protocol proto service mime content device dev packet pkt record src dst tcp udp http dns mqtt icmp arp ip app
    application user host os port frame ether eth conn connection query message msg header address sensor node flag vlan
"""
OF_OTHERS = frozenset(_WORDS_OF_OTHERS.split())
NAMELESS = re.compile(r"Unnamed: ")  # pandas' name for a column without one
MOST_CATEGORY_VALUES = 200  # NSL-KDD's service has 70, UNSW-NB15's proto 133
MOST_CATEGORIES_WITH_UNIT = 20  # 4G and 5G are categories, 0.1% to 99.9% are measured
SHOWN = 30  # characters of a cell in a message
MOST_BLANK = 0.01  # share of blank cells that may cost their rows, as IOT_MAX_REJECTED_SHARE allows


def words_of(column: str) -> list[str]:
    """Return the words of a column's name in small letters: AttackType and attack_type are two."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column)
    return [word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word]


def is_identity(column: str) -> bool:
    """Return True if a column's name suggests who or when; one that begins or ends as a measure never does."""
    words = [word for word in re.split(r"[^a-z0-9]+", column.lower()) if word]
    if "seen" in words[-2:]:  # first_seen_ms
        return True
    if (
        not words
        or "timetolive" in "".join(words)
        or words[-1] in MEASURES
        or (words[0] in COUNTERS and len(words) > 1)
    ):
        return False
    joined = any(IDENTITY.fullmatch("".join(words[place : place + 2])) for place in range(len(words) - 1))
    return joined or any(IDENTITY.fullmatch(word) for word in words)


def fault(column: Column, rows: int) -> str:
    """Return why a column cannot be a feature; empty if it can.

    Args:
        column: The column.
        rows: Rows of the table.
    """
    if NAMELESS.match(column.name):
        return "has no name: most likely a row number"
    if '"' in column.name:
        return "has a quote in its name: rename it in the file"
    if is_identity(column.name):
        return "says who or when"
    if column.distinct == 0:
        return "blank in every row"
    if not column.is_number:
        return _fault_of_text(column, rows)
    if column.distinct <= 1 and not column.blank:
        return "constant"
    if column.distinct == rows and column.is_whole:
        return "a number of its own for every row"
    if column.blank > MOST_BLANK * rows:
        return (
            f"blank or no finite number in {column.blank / rows:.1%} of the rows: with an expression such as "
            f'coalesce("{column.name}", 0) it can be a feature'
        )
    return "constant" if column.distinct <= 1 else ""


def _fault_of_text(column: Column, rows: int) -> str:
    if column.kind not in ("VARCHAR", "BOOLEAN"):
        return f"of type {column.kind.lower()}: not a number"
    if column.numbers and 2 * column.numbers >= rows - column.blank:
        others = rows - column.blank - column.numbers
        return f"not a number in {others:,} of {rows:,} rows, first {column.first_text[:SHOWN]!r}"
    if column.nested and 2 * column.nested >= rows - column.blank:
        return "objects or lists of JSON: write each of their parts as a column"
    if column.distinct > MOST_CATEGORIES_WITH_UNIT and 2 * column.with_unit >= rows - column.blank:
        return "numbers with a unit: write them without it"
    if column.distinct <= 1 and not column.blank:
        return "constant"
    if column.distinct > MOST_CATEGORY_VALUES:
        return f"text with {column.distinct:,} values: a drafted category has {MOST_CATEGORY_VALUES} at most"
    if column.longest > MOST_CHARACTERS:
        return f"text with values of {column.longest:,} characters: a category's have {MOST_CHARACTERS} at most"
    return ""
