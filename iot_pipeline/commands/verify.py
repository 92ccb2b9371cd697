"""`iot-pipeline verify`: one line per mismatch or stale artefact in the lake, and a summary."""

import json
import sys
from dataclasses import asdict

from iot_pipeline.errors import printable
from iot_pipeline.lake.verify import Verification

CLEAN, MISMATCHES, STALE = 0, 1, 3  # exit codes; 2 is a UserError


def exit_code(found: Verification) -> int:
    """Return 1 where something is not as written, 3 where something is only stale, else 0."""
    return MISMATCHES if found.mismatches else STALE if found.stale else CLEAN


def show(found: Verification, as_json: bool) -> None:
    """Print mismatches, stale artefacts and summary."""
    if as_json:
        print(json.dumps(asdict(found), indent=1))
        return
    for mismatch in found.mismatches:
        print(printable(str(mismatch)))
    for stale in found.stale:
        print(printable(f"stale: {stale}"))
    for note in found.notes:
        print(printable(f"note: {note}"))
    counted = (
        f"{found.artefacts} artefacts, {found.files} files as written, {found.bytes:,} bytes, {found.exhibits} tables, "
        "figures and numbers of the report"
    )
    stale = f"; {len(found.stale)} stale: `iot-pipeline run` makes them again" if found.stale else ""
    if found.mismatches:
        print(f"{counted}; {len(found.mismatches)} mismatches{stale}", file=sys.stderr)
        return
    print(f"{counted}: all as their manifests say{stale}")
    if found.unsealed:
        print(
            f"{found.unsealed} manifests were written by an earlier version, without a digest of themselves: an edit "
            "of what they say beside files and versions cannot be seen"
        )
