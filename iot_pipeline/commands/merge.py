"""`iot-pipeline merge`: base and adapter of a checkpoint as one model, for programs that know no adapters.

Belongs here: finding the checkpoint, writing the folder. Does not belong here: the merging (inference/student.py).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import write_json
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import Settings


def merge(settings: Settings, stage: str, track: str, out: Path, dtype: str) -> dict[str, Any]:
    """Write `out`: weights (safetensors), tokenizer, merged.json with what it is made of, which is returned.

    UserError where the checkpoint has not been made, or `out` is there already.
    """
    from iot_pipeline.inference.student import Student

    lake = Lake(settings.lake_path)
    base, adapter = ArtefactId("base_model"), ArtefactId(f"lora_checkpoint/{stage}", f"{stage}|{track}")
    versions = {}
    for artefact in (base, adapter):
        manifest = lake.manifest(artefact)
        if manifest is None:
            raise UserError(f"{artefact} has not been made; `iot-pipeline run --stages {stage}` makes it")
        versions[str(artefact)] = manifest.data_version
    if out.exists():
        raise UserError(f"{out} is there already; name a new folder")
    named = json.loads((lake.folder(base) / "base.json").read_text())
    location = lake.folder(base) / named["name"] if named["kind"] == "tiny" else named["name"]
    student = Student.load(location, lake.folder(adapter), device="cpu", dtype=dtype)
    staging = out.with_name(f".{out.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    student.save(staging)
    facts = {"made_of": versions, "base": named["name"], "dtype": dtype}
    write_json(staging / "merged.json", facts)
    staging.rename(out)
    return {"folder": str(out), **facts}
