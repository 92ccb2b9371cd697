"""`iot-pipeline run --dry-run`: artefacts that a run would make, in order, with reason, requests, dollars and seconds.

Nothing is made, sent or written. What follows from another artefact is listed although a run leaves it as it is where
that one comes out equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from iot_pipeline.commands.estimate import DATA, estimate
from iot_pipeline.commands.show import told_reasons, wide_console
from iot_pipeline.defs import plan
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import Settings
from iot_pipeline.vocabulary import TRACKS

# What the teacher's requests are made of besides prompt files; in the order in which they are made.
SOURCES = ("raw_flows", "flows", "evaluation_split", DATA)
ASKING = ("validation_answers", *TRACKS)


def dry_run(settings: Settings, planned: list[plan.Planned], force: bool, accept_code: bool) -> dict[str, Any]:
    """List what a run would make, and its total.

    Args:
        settings: The present settings.
        planned: The plan, upstream first.
        force: Whether everything is made again.
        accept_code: Whether artefacts that another version of the code made are kept.

    Returns:
        `artefacts` (one each, in order: artefact, group, why, requests and usd of those that ask the teacher, seconds
        of last time) and `total`. Requests and usd are None, with `unknown` saying until when, where they cannot be
        counted yet; seconds are None for what was never made.
    """
    lake = Lake(settings.lake_path, read_only=True)
    reasons = plan.forecast(lake, settings, planned, accept_code)
    todo = [p for p in planned if force or reasons[p.artefact]]
    stale = {artefact.asset for artefact, why in reasons.items() if why}
    asked = _requests(settings, [p.artefact for p in todo], stale)
    rows = [
        {
            "artefact": str(p.artefact), "group": p.group, "why": reasons[p.artefact] or ["--force"],
            **asked.get(p.artefact, {}),
            "seconds": _seconds(lake, p.artefact),
        }
        for p in todo
    ]  # fmt: skip
    return {"artefacts": rows, "fresh": len(planned) - len(todo), "total": _total(rows)}


def _requests(settings: Settings, todo: list[ArtefactId], stale: set[str]) -> dict[ArtefactId, dict[str, Any]]:
    """Requests and dollars of each artefact to make that asks the teacher, as `estimate` counts them."""
    asking = [artefact for artefact in todo if artefact.asset in ASKING]
    if not asking:
        return {}
    if missing := [name for name in SOURCES if name in stale]:
        unknown = {"requests": None, "usd": None, "unknown": f"unknown until {missing[-1]} is made"}
        return dict.fromkeys(asking, unknown)
    found = estimate(settings)
    usd = "usd_batch" if settings.teacher_via == "batch" else "usd_requests"
    parts = {part["name"]: part for part in found["parts"]}
    return {
        artefact: {
            "requests": parts[str(artefact)]["to_ask"], "usd": parts[str(artefact)][usd] if found["paid"] else 0.0,
        }
        for artefact in asking
    }  # fmt: skip


def _seconds(lake: Lake, artefact: ArtefactId) -> float | None:
    """Seconds that an artefact took when it was made last."""
    manifest = lake.manifest(artefact)
    return manifest.provenance.get("seconds") if manifest else None


def _total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over what is known, and of how many artefacts the rest is not."""
    asking = [row for row in rows if "requests" in row]
    seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
    return {
        "artefacts": len(rows),
        "requests": sum(row["requests"] or 0 for row in asking),
        "usd": round(sum(row["usd"] or 0.0 for row in asking), 5),
        "requests_unknown": sum(row["requests"] is None for row in asking),
        "seconds": round(sum(seconds), 2),
        "seconds_unknown": len(rows) - len(seconds),
    }


def show(found: Mapping[str, Any], as_json: bool) -> None:
    """Print the list and its total."""
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = Table("artefact", title="A run would make")
    for name in ("requests", "$", "seconds last time"):
        table.add_column(name, justify="right")
    table.add_column("why")
    for row in found["artefacts"]:
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:,.1f}"
        table.add_row(Text(row["artefact"]), *_cells(row), seconds, Text(told_reasons(row["why"])))
    console, total = wide_console(), found["total"]
    if found["artefacts"]:
        console.print(table)
    unknown = {row["unknown"]: None for row in found["artefacts"] if "unknown" in row}
    for line in [*(f"? {reason}" for reason in unknown), *told_total(total, found["fresh"])]:
        console.print(Text(line), soft_wrap=True)


def _cells(row: Mapping[str, Any]) -> tuple[Text, Text]:
    """Requests and dollars as text; empty for what asks nothing."""
    if "requests" not in row:
        return Text(""), Text("")
    if row["requests"] is None:
        return Text("?"), Text("?")
    return Text(f"{row['requests']:,}"), Text(f"{row['usd']:,.4f}")


def told_total(total: Mapping[str, Any], fresh: int) -> list[str]:
    """Total in words."""
    if not total["artefacts"]:
        return [f"Nothing to do: all {fresh} artefacts follow from their inputs."]
    unknown = total["requests_unknown"]
    requests = f"{total['requests']:,} requests, ${total['usd']:,.4f}" + (
        f" (not counting {unknown} artefacts whose requests are unknown yet)" if unknown else ""
    )
    never = total["seconds_unknown"]
    seconds = f"{total['seconds']:,.0f} s last time" + (f" ({never} were never made)" if never else "")
    return [
        f"{total['artefacts']} artefacts to make, {fresh} fresh; {requests}; {seconds}. Nothing was made or sent.",
        "What follows from another artefact is made again only if that one comes out different.",
    ]
