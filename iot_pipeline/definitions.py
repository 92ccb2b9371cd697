"""The entry point of the code location: loads `defs/`."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Every asset, check, job, sensor and resource of the project."""
    from iot_pipeline.defs.catalogue import complete

    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent).map_asset_specs(func=complete)
