"""What the teacher's answers cost: billed here, and what the same tokens would have cost elsewhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.reporting import tables
from iot_pipeline.reporting.comparison import split_key
from iot_pipeline.reporting.tables import Column
from iot_pipeline.teacher.pricing import BATCH_FACTOR, REFERENCE_MODEL, price_of

COUNTS = ("rows", "requests", "distinct_requests", "prompt_tokens", "completion_tokens", "quarantined")
# What the ledger knows of a request.
TAKEN = ("requests", "prompt_tokens", "completion_tokens", "billed_usd")
Request = tuple[str, str]  # key and source


def by_ledger(
    summaries: Mapping[Any, Mapping[str, Any]],
    requests: Mapping[Any, Collection[Request]],
    taken: Mapping[Request, tuple[float, ...]],
    told: Mapping[Request, tuple[float, ...]],
) -> tuple[dict[Any, dict[str, Any]], dict[str, float]]:
    """Summaries with what their answers cost, and what the ledger holds beyond them.

    It is the same whichever run made a track, from the cache or not: every attempt that its requests ever took.

    Args:
        summaries: By increment.
        requests: Those of each summary; one that several share counts for the first.
        taken: What the ledger says of each request, in the order of TAKEN.
        told: What answers say of themselves that the ledger knows no attempt of: they were imported.

    Returns:
        The summaries, `imported` being how many of the answers were, and the sums of what is left in the ledger. A
        summary of which neither knows any request (the store was moved) stays as it is.
    """
    left, imported, found = dict(taken), dict(told), {}
    for name, summary in summaries.items():
        here = sorted(set(requests[name]) & (taken.keys() | told.keys()))
        own = [left.pop(request) for request in here if request in left]
        others = [imported.pop(request) for request in here if request in imported]
        known = {**_summed([*own, *others]), "imported": len(others)} if here else {}
        found[name] = {**summary, "imported": 0, **known}
    return found, _summed(left.values())


def _summed(lines: Iterable[tuple[float, ...]]) -> dict[str, float]:
    """Sums by name. Dollars are added up exactly, so that their order does not matter."""
    columns = list(zip(*lines, strict=True))
    if not columns:
        return dict.fromkeys(TAKEN, 0) | {"billed_usd": 0.0}
    return dict(zip(TAKEN, (*map(sum, columns[:-1]), math.fsum(columns[-1])), strict=True))


def cost_report(
    summaries: Mapping[Any, Mapping[str, Any]],
    claimed: Mapping[str, float] | None = None,
    prices: Mapping[str, Any] | None = None,
    beyond: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Cost of each track's increment of each stage.

    summaries: (stage, track) or `stage|track` -> {rows, requests (sent, failed and repeated ones too),
    distinct_requests, prompt_tokens, completion_tokens, billed_usd, model, embedded (bool), quarantined; imported
    (answers from a file), if any were}. Tokens are those of all requests that the rows' answers took, now or
    before, so that a re-run reports the same. claimed: track -> dollars in the prior work; prices: default
    `reference_prices`; beyond: what `by_ledger` found beyond the summaries. Returns {rows, totals, beyond,
    prices, notes}; UserError if a summary lacks a count.
    """
    prices = prices or reference_prices()
    rows = []
    for key, summary in summaries.items():
        stage, track = split_key(key)
        missing = [name for name in (*COUNTS, "billed_usd", "model", "embedded") if name not in summary]
        if missing:
            raise UserError(f"the summary of {track} at {stage} lacks {', '.join(missing)}; materialise it again")
        sync = (summary["prompt_tokens"] * prices["prompt"] + summary["completion_tokens"] * prices["completion"]) / 1e6
        rows.append(
            {
                "track": track,
                "stage": stage,
                "teacher": (f"{summary['model']} (embedded, free)" if summary["embedded"] else summary["model"]),
                "embedded": bool(summary["embedded"]),
                **{name: summary[name] for name in COUNTS},
                "imported": summary.get("imported", 0),
                "billed_usd": 0.0 if summary["embedded"] else summary["billed_usd"],
                "hypothetical_sync_usd": sync,
                "hypothetical_batch_usd": sync * prices["batch_factor"],
                "claimed_usd": (claimed or {}).get(track),
            }
        )
    totals = {
        name: sum(row[name] for row in rows)
        for name in (*COUNTS, "billed_usd", "hypothetical_sync_usd", "hypothetical_batch_usd")
    }
    notes = _notes(rows, totals, prices)
    if rows and beyond is not None:
        free = all(row["embedded"] for row in rows)
        notes.append(_beyond(totals, beyond, free))
    return {"rows": rows, "totals": totals, "beyond": dict(beyond or {}), "prices": dict(prices), "notes": notes}


def _beyond(totals: Mapping[str, Any], beyond: Mapping[str, float], free: bool) -> str:
    requests, dollars = beyond["requests"], beyond["billed_usd"]
    billed = "" if free else f", ${totals['billed_usd'] + dollars:,.2f}"
    return (
        f"Requests are counted from the ledger, failed and repeated ones included. It holds {requests:,} more, for"
        " validation flows, earlier prompts and settings, and what was given up: "
        f"{totals['requests'] + requests:,} in all{billed}."
    )


def reference_prices() -> dict[str, Any]:
    """Dollars a million tokens of the reference model, from the teacher's price table."""
    price = price_of(REFERENCE_MODEL)
    return {
        "model": REFERENCE_MODEL,
        "prompt": price.prompt,
        "completion": price.completion,
        "batch_factor": BATCH_FACTOR,
    }


def _notes(rows: list[dict[str, Any]], totals: Mapping[str, Any], prices: Mapping[str, Any]) -> list[str]:
    if not rows:
        return ["No track has been made in this lake, so nothing was asked of a teacher."]
    notes = []
    embedded = sum(row["embedded"] for row in rows)
    if embedded:
        which = "All answers were" if embedded == len(rows) else f"The answers of {embedded} of {len(rows)} tracks were"
        notes.append(
            f"{which} written by the embedded rule-based teacher and cost nothing; the dollars beside them"
            f" are hypothetical: the same number of tokens at {prices['model']}'s list price of"
            f" ${prices['prompt']:.2f} (prompt) and ${prices['completion']:.2f} (completion) a million, and"
            " half of that by the Batch API."
        )
    if totals["distinct_requests"]:
        saved = totals["rows"] / totals["distinct_requests"]
        notes.append(
            f"{totals['rows']:,} rows needed {totals['distinct_requests']:,} distinct requests: asking once"
            f" for each distinct request makes {saved:.2f} times fewer requests than asking for each row."
        )
    if imported := sum(row["imported"] for row in rows):
        notes.append(
            f"{imported:,} answers were imported: their requests and tokens are as the file tells them, their dollars"
            " are those tokens at list price. Nothing of that was spent here."
        )
    if any(row["claimed_usd"] is not None for row in rows):
        notes.append("The prior work's dollars are for all of its rows; compare them with stage ALL only.")
    return notes


def columns() -> list[Column]:
    """Columns of the cost table."""
    return [
        Column("track"),
        Column("stage"),
        Column("rows", write=tables.whole, numeric=True),
        Column("distinct_requests", "distinct requests", tables.whole, True),
        Column("requests", "requests sent", tables.whole, True),
        Column("quarantined", write=tables.whole, numeric=True),
        Column("prompt_tokens", "prompt tokens", tables.whole, True),
        Column("completion_tokens", "answer tokens", tables.whole, True),
        Column("billed_usd", "billed", tables.dollars, True),
        Column("hypothetical_sync_usd", "hypothetical, gpt-4o-mini", tables.dollars, True),
        Column("hypothetical_batch_usd", "hypothetical, Batch API", tables.dollars, True),
        Column("claimed_usd", "prior work's claim, all rows", tables.dollars, True),
    ]
