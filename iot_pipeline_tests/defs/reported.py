"""A lake of few flows with two tracks and a report on them, made once for all tests that read or copy it."""

from pathlib import Path

import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.defs.augmentation import assets as augmentation
from iot_pipeline.defs.flows import assets as flows
from iot_pipeline.defs.prompts import assets as prompts
from iot_pipeline.defs.quality import assets as quality
from iot_pipeline.defs.report import assets as report
from iot_pipeline.defs.splits import assets as splits
from iot_pipeline_tests.defs.sides import make

VALUES = {"IOT_ROWS": "300", "IOT_TRACKS": "original,paraphrased"}


def make_reported(root: Path) -> None:
    """Make the lake in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (VALUES | {"IOT_LAKE": str(root)}).items():
            patch.setenv(name, value)
        settings_module.settings.cache_clear()
        make(flows.raw_flows, flows.flows, splits.evaluation_split, splits.training_order, splits.flow_texts)
        for track in ("original", "paraphrased"):
            make(prompts.prompt, partition=track)
        make(augmentation.original, augmentation.paraphrased, partition="10K")
        make(quality.dedup_report, quality.label_conflicts, report.cost_report, report.paper_report)
    settings_module.settings.cache_clear()
