"""The guide to clusters is held to the results and settings that it speaks of."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest

from iot_pipeline.settings import DESCRIPTIONS, PROJECT_ROOT
from iot_pipeline_tests.deploy.test_deploy import OF_COMPOSE

GUIDE = (PROJECT_ROOT / "docs" / "cluster.md").read_text()


@pytest.fixture(scope="module")
def estimate() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "cluster_estimate", PROJECT_ROOT / "benchmarks" / "cluster_estimate.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_tables_are_what_the_results_say(estimate: ModuleType) -> None:
    assert estimate.filled(GUIDE) == GUIDE, "run benchmarks/cluster_estimate.py"


def test_a_number_that_was_edited_by_hand_is_noticed(estimate: ModuleType) -> None:
    edited = re.sub(r"(\| GPU-hours held \| )\d+", r"\g<1>1", GUIDE)
    assert edited != GUIDE and estimate.filled(edited) == GUIDE


def test_more_gpus_are_never_slower_and_are_held_no_less(estimate: ModuleType) -> None:
    facts = estimate.Facts()
    walls = [facts.wall_hours(gpus)[0] for gpus in range(1, 300)]
    assert walls == sorted(walls, reverse=True)
    work = 15 * facts.chain_hours(facts.rows) + facts.evaluation_hours()
    assert all(gpus * wall >= work * 0.999 for gpus, wall in enumerate(walls, 1))


def test_every_file_and_setting_that_it_names_exists() -> None:
    named = set(re.findall(r"IOT_[A-Z_]*[A-Z]", GUIDE))
    assert named <= {f"IOT_{name.upper()}" for name in DESCRIPTIONS} | OF_COMPOSE | {"IOT_BATCH"}
    for path in set(re.findall(r"`((?:deploy|benchmarks|iot_pipeline)/[\w./-]*(?:\.\w+|/))`", GUIDE)):
        assert (PROJECT_ROOT / path.rstrip("/")).exists(), path
    for name in re.findall(r"`(\w+\.json)`", GUIDE):
        assert (PROJECT_ROOT / "benchmarks" / "results" / name).exists() or name == "teacher_faults.json"
