"""Cost of the teacher's answers: billed here, and hypothetical for the same tokens elsewhere."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.teacher.pricing import BATCH_FACTOR, REFERENCE_MODEL, price_of
from iot_pipeline.vocabulary import Partition

COUNTS = ("rows", "requests", "distinct_requests", "prompt_tokens", "completion_tokens", "quarantined")
# Ledger values of a request.
TAKEN = ("requests", "prompt_tokens", "completion_tokens", "billed_usd")
Request = tuple[str, str]  # key and source


def by_ledger(
    summaries: Mapping[Any, Mapping[str, Any]],
    requests: Mapping[Any, Collection[Request]],
    taken: Mapping[Request, tuple[float, ...]],
    told: Mapping[Request, tuple[float, ...]],
) -> tuple[dict[Any, dict[str, Any]], dict[str, float]]:
    """Add ledger costs to summaries, and return what the ledger holds beyond them.

    Every attempt that a track's requests ever took counts, so the cost is the same whichever run built the track,
    cached or not.

    Args:
        summaries: Summary of each increment.
        requests: Requests of each summary; a shared request counts for the first summary only.
        taken: Ledger values of each request, in the order of TAKEN.
        told: The same values of imported answers, for which the ledger has no attempt.

    Returns:
        The summaries, with `imported` as the number of imported answers, and the sums left in the ledger. A summary
        without any known request (the store was moved) keeps its own costs.
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
    """Sum ledger values by name. Dollars are summed exactly, so that their order does not matter."""
    columns = list(zip(*lines, strict=True))
    if not columns:
        return dict.fromkeys(TAKEN, 0) | {"billed_usd": 0.0}
    return dict(zip(TAKEN, (*map(sum, columns[:-1]), math.fsum(columns[-1])), strict=True))


def cost_report(
    summaries: Mapping[Partition, Mapping[str, Any]],
    claimed: Mapping[str, float] | None = None,
    beyond: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Report the cost of each track's increment at each stage.

    Args:
        summaries: Stage and track -> {rows, requests (including failed and repeated ones), distinct_requests,
            prompt_tokens, completion_tokens, billed_usd, model, embedded (bool), quarantined, imported (answers from a
            file, optional)}. Tokens are those of all requests that the rows' answers ever took, so that a re-run
            reports the same.
        claimed: Track -> dollars in the prior work.
        beyond: Ledger sums beyond the summaries, from `by_ledger`.

    Returns:
        {rows, totals, beyond, prices, notes}.

    Raises:
        UserError: A summary lacks a count.
    """
    price = price_of(REFERENCE_MODEL)
    rows = []
    for (stage, track), summary in summaries.items():
        missing = [name for name in (*COUNTS, "billed_usd", "model", "embedded") if name not in summary]
        if missing:
            raise UserError(f"the summary of {track} at {stage} lacks {', '.join(missing)}; materialise it again")
        sync = (summary["prompt_tokens"] * price.prompt + summary["completion_tokens"] * price.completion) / 1e6
        rows.append(
            {
                "track": track,
                "stage": stage,
                "teacher": f"{summary['model']} (embedded, free)" if summary["embedded"] else summary["model"],
                "embedded": bool(summary["embedded"]),
                **{name: summary[name] for name in COUNTS},
                "imported": summary.get("imported", 0),
                "billed_usd": 0.0 if summary["embedded"] else summary["billed_usd"],
                "hypothetical_sync_usd": sync,
                "hypothetical_batch_usd": sync * BATCH_FACTOR,
                "claimed_usd": (claimed or {}).get(track),
            }
        )
    sums = (*COUNTS, "billed_usd", "hypothetical_sync_usd", "hypothetical_batch_usd")
    totals = {name: sum(row[name] for row in rows) for name in sums}
    prices = {
        "model": REFERENCE_MODEL,
        "prompt": price.prompt,
        "completion": price.completion,
        "batch_factor": BATCH_FACTOR,
    }
    notes = _notes(rows, totals, prices)
    if rows and beyond is not None:
        notes.append(_beyond(totals, beyond, free=all(row["embedded"] for row in rows)))
    return {"rows": rows, "totals": totals, "beyond": dict(beyond or {}), "prices": prices, "notes": notes}


def _beyond(totals: Mapping[str, Any], beyond: Mapping[str, float], free: bool) -> str:
    requests, dollars = beyond["requests"], beyond["billed_usd"]
    billed = "" if free else f", ${totals['billed_usd'] + dollars:,.2f}"
    return (
        f"Requests are counted from the ledger, failed and repeated ones included. It holds {requests:,} more, for"
        " validation flows, the zero-shot teacher, earlier prompts and settings, and what was given up: "
        f"{totals['requests'] + requests:,} in all{billed}."
    )


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
