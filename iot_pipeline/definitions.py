"""The entry point of the code location: loads `defs/`."""

import os
from functools import lru_cache

import dagster as dg

from iot_pipeline.env_file import ONLY_WANTED
from iot_pipeline.settings import settings


@dg.definitions
def defs() -> dg.Definitions:
    """Every asset, check, job, schedule, sensor and resource of the project."""
    return _loaded(settings().model_dump_json(), os.environ.get(ONLY_WANTED, ""))


@lru_cache(maxsize=1)
def _loaded(chosen: str, only_wanted: str) -> dg.Definitions:
    """Load the definitions once for these settings: Dagster asks for them three times in the process of a run."""
    from iot_pipeline.defs.catalogue import load

    return load()
