"""The asset `lake_state`: what the manifests say of every artefact, fresh, stale (and why) or missing, in the UI.

Nothing makes it: each job and each `iot-pipeline run` reports it at its end. It alone has a freshness policy, which
knows only time: an artefact that is as old as its inputs is fresh, however long ago it was made.
"""

from datetime import timedelta

import dagster as dg

from iot_pipeline.defs import plan
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import Lake
from iot_pipeline.settings import Settings, settings

MOST_ROWS, MOST_REASONS = 200, 3
NOT_MADE = "not made yet"


def report_state(instance: dg.DagsterInstance, definitions: dg.Definitions, chosen: Settings) -> None:
    """Report the state of all artefacts that the settings ask for; a manifest that cannot be read is told in its place.

    The work that this follows is done, and must not fail for the sake of an artefact that it did not touch.
    """
    try:
        found = plan.forecast(Lake(chosen.lake_path), chosen, plan.wanted(definitions, chosen))
    except UserError as error:
        instance.report_runless_asset_event(dg.AssetMaterialization(plan.STATE, metadata={"problem": str(error)}))
        return
    missing = [artefact for artefact, why in found.items() if why == [NOT_MADE]]
    stale = {artefact: why for artefact, why in found.items() if why and artefact not in missing}
    rows = [
        *({"artefact": str(a), "state": "stale", "why": "; ".join(why[:MOST_REASONS])} for a, why in stale.items()),
        *({"artefact": str(a), "state": "missing", "why": NOT_MADE} for a in missing),
    ]
    metadata: dict[str, int | dg.MetadataValue] = {
        "fresh": len(found) - len(stale) - len(missing), "stale": len(stale), "missing": len(missing),
    }  # fmt: skip
    if rows:
        metadata["not_fresh"] = dg.MetadataValue.table([dg.TableRecord(row) for row in rows[:MOST_ROWS]])
    instance.report_runless_asset_event(dg.AssetMaterialization(plan.STATE, metadata=metadata))


def freshness(chosen: Settings) -> dg.FreshnessPolicy | None:
    """Return the policy that somebody has looked since the schedule's tick before the last; None where it is off."""
    if chosen.run.automation == "off":
        return None
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=50), warn_window=timedelta(hours=26))


@dg.definitions
def lake_state() -> dg.Definitions:
    """Return the asset, which cannot be materialised by a click."""
    spec = dg.AssetSpec(
        plan.STATE,
        group_name="report",
        description="State of every artefact that the settings ask for, by the manifests: fresh, stale (and why) or "
        "missing. Reported at the end of each job and each `iot-pipeline run`; `iot-pipeline status` tells it now. "
        "With IOT_AUTOMATION=on a freshness policy warns if nothing looked for 26 hours.",
        freshness_policy=freshness(settings()),
    )
    return dg.Definitions(assets=[spec])
