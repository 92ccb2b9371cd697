"""The simulated table at its published size, as flows: built once for the tests that measure it."""

from pathlib import Path

import pytest

from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.simulator.simulate import simulate_farm_flow
from iot_pipeline_tests.shared import built_once

SEED = 2027


def published_flows(factory: pytest.TempPathFactory) -> Path:
    """flows.parquet of the whole table, which no test may change."""
    return built_once(factory, "published", _build) / "flows.parquet"


def _build(folder: Path) -> None:
    simulate_farm_flow(folder / "raw.parquet", seed=SEED)
    build_flows(load_spec("farm_flow"), folder / "raw.parquet", folder / "flows.parquet")
