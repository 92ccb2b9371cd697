"""`iot-pipeline export-bundle`, `verify BUNDLE` and `run --from BUNDLE`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from iot_pipeline.bundle.export import export_bundle
from iot_pipeline.bundle.rerun import Comparison
from iot_pipeline.bundle.seal import BundleCheck, check_bundle, files_of
from iot_pipeline.bundle.source import open_source
from iot_pipeline.commands.console import working
from iot_pipeline.commands.data_set import spec_of
from iot_pipeline.defs.reads import present_value
from iot_pipeline.env_file import expanded
from iot_pipeline.errors import UserError, printable
from iot_pipeline.lake.store import Lake
from iot_pipeline.lineage.report_check import REPORT
from iot_pipeline.settings import Settings

SHOWN = 20


def export(settings: Settings, out: Path, key: Path | None) -> dict[str, Any]:
    """Write a bundle of the present lake; return what was written.

    Raises UserError if there is no report, or it does not follow from the present settings, prompts and files.
    """
    lake = Lake(settings.lake_path, read_only=True)
    lake.check_exists()
    if broken := lake.broken_lineage(REPORT, present_value(lake, settings)):
        raise UserError(f"a bundle of this lake could not be run again ({broken}); `iot-pipeline run` first")
    with working("writing") as say:
        size = export_bundle(open_source(lake, settings, spec_of(lake, settings)), out, key, say)
    return {"bundle": str(out), "files": len(files_of(out)), "bytes": size, "signed": key is not None}


def verified(folder: Path, public_key: Path | None) -> BundleCheck:
    """Check a bundle."""
    return check_bundle(expanded(folder), public_key)


def show_check(found: BundleCheck, as_json: bool) -> int:
    """Print what is not as written, and return the exit code."""
    if as_json:
        print(json.dumps(asdict(found), indent=1))
    else:
        for line in found.mismatches:
            print(printable(line))
        end = f"{len(found.mismatches)} mismatches" if found.mismatches else "all as written"
        print(f"{found.files} files, {found.bytes:,} bytes: {end}; {printable(found.signed)}")
    return int(bool(found.mismatches))


def show_comparison(found: Comparison) -> None:
    """Print how a run compares with its bundle."""
    more = f", {len(found.unpromised)} differ and were not promised to be equal" if found.unpromised else ""
    print(f"From the bundle: {len(found.equal)} artefacts are equal to the byte{more}")
    for name, lines in (("differs though promised", found.broken), ("was not made", found.missing)):
        for line in lines[:SHOWN]:
            print(printable(f"{name}: {line}"))
    for line in found.cells[:SHOWN]:
        print(printable(f"report: {line}"))
    if str(REPORT) in found.missing:
        print("Report: not made, so no table and no number was compared")
    elif not found.cells:
        print("Report: every table and number is equal, times and last digits (0.1 %) apart")
