"""Check of the report on demand: the lake is as its manifests say, and every figure follows from the file it cites."""

import dagster as dg

from iot_pipeline.defs.catalogue import version_of
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.defs.verification import examine
from iot_pipeline.errors import UserError
from iot_pipeline.escaping import fenced
from iot_pipeline.lake.verify import Verification
from iot_pipeline.settings import settings

SHOWN = 20  # mismatches and stale artefacts
CODE = "iot_pipeline.defs.report.assets"


@dg.asset_check(asset="paper_report")
def follows_from_its_files(lake: LakeResource) -> dg.AssetCheckResult:
    """Verify the lake as `iot-pipeline verify` does: it fails if something was altered, and warns of what is stale."""
    try:
        found = examine(settings(), lambda: {"paper_report": version_of(CODE)}, lake.folder)
    except UserError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    return dg.AssetCheckResult(
        passed=not found.mismatches,
        severity=dg.AssetCheckSeverity.ERROR,
        description=advice(found),
        metadata={
            "artefacts": found.artefacts,
            "files": found.files,
            "exhibits": found.exhibits,
            "mismatches": listed([str(one) for one in found.mismatches]),
            "stale": listed(found.stale),
            "not compared": listed(found.notes),
        },
    )


def advice(found: Verification) -> str:
    """Say what is wrong and what to do."""
    if found.mismatches:
        return f"{found.mismatches[0]}; delete the artefact's folder and run again"
    if found.stale:
        return f"as written, but {len(found.stale)} artefacts are stale, first {found.stale[0]}; run again"
    return "every file, input and figure is as written"


def listed(sentences: list[str]) -> dg.MarkdownMetadataValue:
    """List sentences in a Markdown block, in which no text of a lake is obeyed."""
    more = [f"and {len(sentences) - SHOWN} more"] if len(sentences) > SHOWN else []
    lines = "\n".join([*sentences[:SHOWN], *more]) or "none"
    return dg.MetadataValue.md(fenced(lines))
