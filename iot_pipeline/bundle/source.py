"""Facts of a lake that a bundle is made from: the report's chain, settings, data set, students and their test set."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import DatasetSpec, spec_files
from iot_pipeline.lake.store import ArtefactId, Lake, Manifest
from iot_pipeline.lineage.report_check import REPORT, facts_of
from iot_pipeline.reporting.gather import Facts
from iot_pipeline.settings import Settings


@dataclass(frozen=True)
class Source:
    """A lake whose report is as written, with everything that it was made of."""

    lake: Lake
    settings: Settings
    spec: DatasetSpec
    manifests: Mapping[ArtefactId, Manifest]

    @cached_property
    def facts(self) -> Facts:
        """Facts that the report was rendered from."""
        return facts_of(self.lake, self.manifests[REPORT])

    @property
    def labels(self) -> list[str]:
        """Labels of what is not real."""
        return list(self.facts.labels)

    def folder(self, asset: str, partition: str = "") -> Path:
        """Return the folder of an artefact."""
        return self.lake.folder(ArtefactId(asset, partition))

    def of(self, asset: str) -> list[ArtefactId]:
        """List the artefacts of an asset, of any stage."""
        return [one for one in self.manifests if one.belongs_to(asset)]

    def setting(self, name: str) -> Any:
        """Return a setting as the artefacts recorded it, else as it is now."""
        found = (m.settings[f"setting {name}"] for m in self.manifests.values() if f"setting {name}" in m.settings)
        return next(found, self.settings.value(name))

    @property
    def spec_files(self) -> list[Path]:
        """Files of the data set's description, those that it extends included."""
        return list(spec_files(str(self.settings.data.dataset)))


def open_source(lake: Lake, settings: Settings, spec: DatasetSpec) -> Source:
    """Open a lake for a bundle: its report, the model cards and all that they were made of.

    Raises UserError if there is no report, or an artefact is not as written.
    """
    if lake.manifest(REPORT) is None:
        raise UserError(f"there is no report in {lake.address}; `iot-pipeline run` makes it")
    manifests: dict[ArtefactId, Manifest] = {}
    todo = [REPORT, ArtefactId("model_card")]
    while todo:
        artefact = todo.pop(0)
        if artefact in manifests or (artefact.asset == "model_card" and lake.manifest(artefact) is None):
            continue
        lake.verified(artefact)
        manifest = lake.manifest(artefact)
        assert manifest is not None  # it was just verified
        manifests[artefact] = manifest
        for upstream, version in manifest.upstream().items():
            made = lake.manifest(upstream)
            if made is None or made.data_version != version:
                raise UserError(f"{artefact} does not follow from {upstream} as it is now; `iot-pipeline run` first")
            todo.append(upstream)
    return Source(lake, settings, spec, dict(sorted(manifests.items())))
