"""Verification of a lake as a whole: files, manifests, inputs, figures of the report, settings and prompts."""

from collections.abc import Callable, Mapping
from pathlib import Path

from iot_pipeline.defs.reads import present_value
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import Lake, Manifest
from iot_pipeline.lake.verdict import keep_verdict
from iot_pipeline.lake.verify import Verification, verify
from iot_pipeline.lineage.report_check import REPORT, check_report
from iot_pipeline.lineage.staleness import stale_roots
from iot_pipeline.machine import this_machine
from iot_pipeline.settings import Settings


def examine(settings: Settings, versions: Callable[[], Mapping[str, str]], folder: str = "") -> Verification:
    """Verify the lake of the present settings: files, manifests, inputs, figures of the report, settings and prompts.

    The verdict is kept in the lake, which stays as it is otherwise.

    Args:
        settings: The present settings.
        versions: Returns the present code version by asset.
        folder: The lake's folder; empty for that of the settings.

    Raises:
        UserError: There is no lake, or no artefact in it.
    """
    root = Path(folder) if folder else settings.lake_path
    lake = Lake(root, read_only=True)
    lake.check_exists()
    found = verify(lake)
    if not found.artefacts and not found.mismatches:
        raise UserError(
            f"{lake.address} holds no artefact, so there is nothing to verify; `iot-pipeline run` makes them"
        )
    if unreadable := [one for one in found.mismatches if one.expected == "a manifest"]:
        found.notes.append(f"figures and settings were not compared: {unreadable[0].artefact} has no manifest")
    else:
        present = versions()
        _compare_report(lake, found, present)
        try:
            found.stale = [str(one) for one in stale_roots(lake, present, present_value(lake, settings))]
        except UserError as error:  # an input whose name leads out of the lake, which is a mismatch already
            found.notes.append(f"settings and code were not compared: {error}")
    keep_verdict(lake, found)
    return found


def _compare_report(lake: Lake, found: Verification, versions: Mapping[str, str]) -> None:
    """Compare the figures of the report with the files that they cite, if these and the code are as they were."""
    manifest = lake.manifest(REPORT)
    if manifest is None:
        return
    made_of = {*map(str, manifest.upstream())}
    reasons = [str(one) for one in found.mismatches if one.artefact in made_of or one.file.startswith("input ")]
    if reasons:
        found.notes.append(f"figures of the report were not compared with their files, of which {reasons[0]}")
    elif versions.get(REPORT.asset, manifest.code_version) != manifest.code_version:
        found.notes.append("figures of the report were not compared with their files: other code rendered it")
    else:
        checked = check_report(lake, same_machine=_drawn_here(manifest))
        found.exhibits = checked.exhibits
        found.mismatches += checked.mismatches
        found.notes += checked.notes


def _drawn_here(manifest: Manifest) -> bool:
    """Return True if a report's pictures were drawn on a machine like this one."""
    return bool(manifest.provenance.get("machine") == this_machine())
