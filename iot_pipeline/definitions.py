"""The entry point of the code location: loads `defs/`."""

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Every asset, check, job, schedule, sensor and resource of the project."""
    from iot_pipeline.defs.catalogue import load

    return load()
