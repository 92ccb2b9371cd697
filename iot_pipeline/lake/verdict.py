"""Verdict of the last `verify`, kept in the lake so that `status` and the UI can show it."""

import contextlib
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from iot_pipeline.lake.atomic import read_json, write_json
from iot_pipeline.lake.store import VERIFIED, Lake
from iot_pipeline.lake.verify import Verification

FILE = "verdict.json"


@dataclass(frozen=True)
class Verdict:
    """When a lake was verified, what was counted, what was wrong, and the data version of each artefact then.

    `mismatches` and `stale` are sentences.
    """

    at: str
    files: int
    exhibits: int
    mismatches: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def sentence(self, lake: Lake) -> str:
        """Return the verdict in one sentence, with what was made since."""
        counted = f"{len(self.versions)} artefacts, {self.files:,} files, {self.exhibits} exhibits of the report"
        bad = f"{len(self.mismatches)} mismatches, first {self.mismatches[0]}" if self.mismatches else "as written"
        stale = f"; {len(self.stale)} were stale" if self.stale else ""
        made = ((str(one), lake.manifest(one)) for one in lake.artefacts())
        since = sum(manifest is None or self.versions.get(name) != manifest.data_version for name, manifest in made)
        more = f"; not verified since: {since} artefacts" if since else ""
        return f"verified {self.at}: {counted}: {bad}{stale}{more}"


def keep_verdict(lake: Lake, found: Verification) -> None:
    """Write the verdict into the lake, if the lake can be written."""
    told = Verdict(
        at=datetime.now(UTC).isoformat(" ", "seconds").replace("+00:00", " UTC"),
        files=found.files,
        exhibits=found.exhibits,
        mismatches=[str(one) for one in found.mismatches],
        stale=list(found.stale),
        versions=found.versions,
    )
    with contextlib.suppress(OSError):
        write_json(lake.root / VERIFIED / FILE, asdict(told))


def last_verdict(lake: Lake) -> Verdict | None:
    """Return the last verdict on a lake; None if it was never verified or the file cannot be read."""
    try:
        return Verdict(**read_json(lake.root / VERIFIED / FILE))
    except (OSError, ValueError, TypeError):
        return None
