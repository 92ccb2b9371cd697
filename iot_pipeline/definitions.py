"""The entry point of the code location: loads `defs/`."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Every asset, check, job, sensor and resource of the project."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
