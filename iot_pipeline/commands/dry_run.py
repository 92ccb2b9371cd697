"""`iot-pipeline run --dry-run`: artefacts that a run would materialise, with reason, requests, dollars and seconds.

Nothing is materialised, sent or written. Artefacts downstream of a stale one are listed, although a run leaves them
alone if the content upstream stays equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from rich.table import Table
from rich.text import Text

from iot_pipeline.commands.estimate import DATA, ZERO_SHOT_ASSET, estimate
from iot_pipeline.commands.show import told_reasons, wide_console
from iot_pipeline.defs import plan
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import Settings
from iot_pipeline.vocabulary import TRACKS

# Inputs of the teacher's requests besides prompt files, in the order of materialisation.
SOURCES = ("raw_flows", "flows", "evaluation_split", DATA)
ASKING = ("validation_answers", *TRACKS)


def dry_run(settings: Settings, planned: list[plan.Planned], force: bool, accept_code: bool) -> dict[str, Any]:
    """List the artefacts that a run would materialise, with totals.

    Args:
        settings: The present settings.
        planned: The plan, upstream first.
        force: True if everything is rematerialised.
        accept_code: True if artefacts of another code version are accepted.

    Returns:
        `artefacts` (one each, in order: artefact, group, why, requests and usd of those that ask the teacher, seconds
        of last time), `fresh` (their number) and `total`. Requests and usd that cannot be counted yet are None, and
        `unknown` says until when. An artefact that was never materialised has the mean seconds of the asset's other
        partitions and is `seconds_estimated`; its seconds are None if there are none.
    """
    lake = Lake(settings.lake_path, read_only=True)
    reasons = plan.forecast(lake, settings, planned, accept_code)
    todo = [p for p in planned if force or reasons[p.artefact]]
    stale = {artefact.asset for artefact, why in reasons.items() if why}
    asked = _requests(settings, [p.artefact for p in todo], stale)
    last = _last_seconds(lake)
    rows = [
        {
            "artefact": str(p.artefact), "group": p.group, "why": reasons[p.artefact] or ["--force"],
            **asked.get(p.artefact, {}), **_seconds(p.artefact, last.get(p.artefact.asset, {})),
        }
        for p in todo
    ]  # fmt: skip
    return {"artefacts": rows, "fresh": len(planned) - len(todo), "total": _total(rows)}


def _last_seconds(lake: Lake) -> dict[str, dict[str, float]]:
    """Return by asset and partition the seconds that each artefact of the lake took."""
    found: dict[str, dict[str, float]] = {}
    for artefact in lake.artefacts():
        manifest = lake.manifest(artefact)
        if manifest and (seconds := manifest.provenance.get("seconds")) is not None:
            found.setdefault(artefact.asset, {})[artefact.partition] = seconds
    return found


def _seconds(artefact: ArtefactId, partitions: Mapping[str, float]) -> dict[str, Any]:
    """Return the seconds of last time, or of a new partition the mean of its asset's other ones."""
    if artefact.partition in partitions or not partitions:
        return {"seconds": partitions.get(artefact.partition), "seconds_estimated": False}
    return {"seconds": round(fmean(partitions.values()), 2), "seconds_estimated": True}


def _requests(settings: Settings, todo: list[ArtefactId], stale: set[str]) -> dict[ArtefactId, dict[str, Any]]:
    """Return requests and dollars of each artefact that asks the teacher, as `estimate` counts them."""
    names = [*ASKING, *([ZERO_SHOT_ASSET] if settings.evaluation.zero_shot_flows else [])]
    asking = [artefact for artefact in todo if artefact.asset in names]
    if not asking:
        return {}
    if missing := [name for name in SOURCES if name in stale]:
        unknown = {"requests": None, "usd": None, "unknown": f"unknown until {missing[-1]} is made"}
        return dict.fromkeys(asking, unknown)
    found = estimate(settings)
    usd = "usd_batch" if settings.run.teacher_via == "batch" else "usd_requests"
    parts = {part["name"]: part for part in found["parts"]}
    return {
        artefact: {
            "requests": parts[str(artefact)]["to_ask"], "usd": parts[str(artefact)][usd] if found["paid"] else 0.0,
        }
        for artefact in asking
    }  # fmt: skip


def _total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum the known requests, dollars and seconds, and count the artefacts without them."""
    asking = [row for row in rows if "requests" in row]
    seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
    return {
        "artefacts": len(rows),
        "requests": sum(row["requests"] or 0 for row in asking),
        "usd": round(sum(row["usd"] or 0.0 for row in asking), 5),
        "requests_unknown": sum(row["requests"] is None for row in asking),
        "seconds": round(sum(seconds), 2),
        "seconds_estimated": sum(row["seconds_estimated"] for row in rows),
        "seconds_unknown": len(rows) - len(seconds),
    }


def show(found: Mapping[str, Any], as_json: bool) -> None:
    """Print the artefacts and their total."""
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = Table("artefact", title="A run would make")
    for name in ("requests", "$", "seconds last time"):
        table.add_column(name, justify="right")
    table.add_column("why")
    for row in found["artefacts"]:
        seconds = "-" if row["seconds"] is None else f"{'~' * row['seconds_estimated']}{row['seconds']:,.1f}"
        asked = (Text(""), Text(""))
        if "requests" in row:
            known = row["requests"] is not None
            asked = (Text(f"{row['requests']:,}"), Text(f"{row['usd']:,.4f}")) if known else (Text("?"), Text("?"))
        table.add_row(Text(row["artefact"]), *asked, seconds, Text(told_reasons(row["why"])))
    console, total = wide_console(), found["total"]
    if found["artefacts"]:
        console.print(table)
    unknown = {row["unknown"]: None for row in found["artefacts"] if "unknown" in row}
    for line in [*(f"? {reason}" for reason in unknown), *told_total(total, found["fresh"])]:
        console.print(Text(line), soft_wrap=True)


def told_total(total: Mapping[str, Any], fresh: int) -> list[str]:
    """Describe the total in words."""
    if not total["artefacts"]:
        return [f"Nothing to do: all {fresh} artefacts follow from their inputs."]
    unknown = total["requests_unknown"]
    requests = f"{total['requests']:,} requests, ${total['usd']:,.4f}" + (
        f" (not counting {unknown} artefacts whose requests are unknown yet)" if unknown else ""
    )
    unsure = [f"{n} with ~ by the asset's other partitions"] if (n := total["seconds_estimated"]) else []
    unsure += [f"{n} never made and not counted"] if (n := total["seconds_unknown"]) else []
    seconds = f"{total['seconds']:,.0f} s last time" + (f" ({', '.join(unsure)})" if unsure else "")
    return [
        f"{total['artefacts']} artefacts to make, {fresh} fresh; {requests}; {seconds}. Nothing was made or sent.",
        "What follows from another artefact is made again only if that one comes out different.",
    ]
