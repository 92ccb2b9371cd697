"""`iot-pipeline verify`: one line per mismatch in the lake, and a summary."""

import json
import sys
from dataclasses import asdict

from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import Lake
from iot_pipeline.lake.verify import Verification, verify
from iot_pipeline.settings import Settings


def examine(settings: Settings) -> Verification:
    """Verify the lake of the present settings. Raises UserError if there is none."""
    if not settings.lake_path.is_dir():
        raise UserError(f"no lake at {settings.lake_path}; `iot-pipeline run` makes one")
    return verify(Lake(settings.lake_path, read_only=True))


def show(found: Verification, as_json: bool) -> None:
    """Print mismatches and summary."""
    if as_json:
        print(json.dumps(asdict(found), indent=1))
        return
    for mismatch in found.mismatches:
        print(mismatch)
    counted = f"{found.artefacts} artefacts, {found.files} files as written, {found.bytes:,} bytes"
    if found.mismatches:
        print(f"{counted}; {len(found.mismatches)} mismatches", file=sys.stderr)
        return
    print(f"{counted}: all as their manifests say")
    if found.unsealed:
        print(
            f"{found.unsealed} manifests were written by an earlier version, without a digest of themselves: an edit "
            "of what they say beside files and versions cannot be seen"
        )
