"""Facts that sinks get: the making of an artefact, and the artefact once it is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iot_pipeline.lake.store import ArtefactId, Manifest

TIMEOUT_S = 5.0  # of one request


@dataclass(frozen=True)
class Making:
    """One making of an artefact: within which Dagster run, for which lake, and where its manifest is shown."""

    artefact: ArtefactId
    run_id: str
    job: str
    lake: str
    link: str


@dataclass(frozen=True)
class Made:
    """Finished artefact: its manifest and folder; of a table also columns (name, type) and what each is made from.

    sources: column -> (asset, column) of each input column.
    """

    manifest: Manifest
    folder: Path
    columns: Sequence[tuple[str, str]] = ()
    sources: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return the settings that the artefact read, by name, without folders of the machine and credentials."""
        from iot_pipeline.bundle.contents import public
        from iot_pipeline.reporting.gather import placeless

        found = {k.removeprefix("setting "): v for k, v in self.manifest.settings.items() if k.startswith("setting ")}
        return {name: public(str(placeless(value))) for name, value in found.items() if value is not None}
