"""`iot-pipeline merge`: base and adapter of a checkpoint as one model, for programs without adapter support."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from iot_pipeline.commands.checkpoint import find
from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import write_json
from iot_pipeline.lake.store import Lake
from iot_pipeline.settings import Settings
from iot_pipeline.vocabulary import Trained


def merge(settings: Settings, stage: str, track: str, out: Path, dtype: str) -> dict[str, Any]:
    """Merge base and adapter of a checkpoint into the folder `out`: weights (safetensors), tokeniser, merged.json.

    Args:
        settings: The present settings.
        stage: Stage of the checkpoint.
        track: Track of the checkpoint.
        out: The new folder.
        dtype: Data type of the weights.

    Returns:
        The folder and the content of merged.json: data versions, base and dtype.

    Raises:
        UserError: The checkpoint does not exist, or `out` does.
    """
    from iot_pipeline.inference.student import Student

    found = find(Lake(settings.lake_path), stage, Trained(settings.seeds[0], track))
    if out.exists():
        raise UserError(f"{out} is there already; name a new folder")
    student = Student.load(found.base, found.adapter, device="cpu", dtype=dtype)
    staging = out.with_name(f".{out.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    student.save(staging)
    facts = {"made_of": found.made_of, "base": found.name, "dtype": dtype}
    write_json(staging / "merged.json", facts)
    staging.rename(out)
    return {"folder": str(out), **facts}
