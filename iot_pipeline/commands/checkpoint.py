"""Lookup of a trained student in the lake: base, adapter and their data versions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.vocabulary import CONTROLS, Trained, staged


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint of a student with its base.

    `base`: folder or hub id; `name`: the base by its own name; `made_of`: data versions of base and adapter; `labels`:
    parts that are not real (simulated flows, embedded teacher, tiny base).
    """

    artefact: ArtefactId
    base: str
    name: str
    adapter: Path
    made_of: dict[str, str]
    labels: list[str]


def find(lake: Lake, stage: str, trained: Trained) -> Checkpoint:
    """Find the checkpoint of a stage, training seed and track.

    Raises UserError if it or its base is missing, a file of one was altered, or it is a control's.
    """
    if trained.track in CONTROLS:
        raise UserError(f"{trained.track} is a control of the study: it does not serve; take a track")
    base, adapter = ArtefactId("base_model"), ArtefactId(staged("lora_checkpoint", stage), trained.key)
    versions: dict[str, str] = {}
    provenance: dict[str, Any] = {}
    for artefact in (base, adapter):
        manifest = lake.manifest(artefact)
        if manifest is None:
            raise UserError(f"{artefact} has not been made; `iot-pipeline run --stages {stage}` makes it")
        lake.verified(artefact)
        versions[str(artefact)], provenance = manifest.data_version, manifest.provenance
    named = json.loads((lake.folder(base) / "base.json").read_text())
    location = str(named["name"]) if named["kind"] == "given" else str(lake.folder(base) / "model")
    return Checkpoint(adapter, location, named["name"], lake.folder(adapter), versions, provenance.get("labels", []))
