"""Recipe of a training, as the settings have it."""

from typing import Any

from iot_pipeline.defs.recording import Step
from iot_pipeline.defs.resources import work_folder
from iot_pipeline.setting_sections import RunSettings, StudentSettings
from iot_pipeline.training.config import TrainConfig


def recipe_of(step: Step, seed: int) -> dict[str, Any]:
    """Return the training recipe: the seed, and the settings that TrainConfig has a field of the same name for."""
    names = TrainConfig.model_fields.keys()
    recipe = {name: getattr(step.settings.student, name) for name in names & StudentSettings.model_fields.keys()}
    carried_out = {name: getattr(step.settings.run, name) for name in names & RunSettings.model_fields.keys()}
    return recipe | carried_out | {"seed": seed}


def config_in_work_folder(step: Step, values: dict[str, Any]) -> TrainConfig:
    """Return the config of a training whose `out` is the artefact's work folder.

    The folder's name depends only on what a checkpoint must agree with: a training that was killed goes on from its
    checkpoint with another number of threads or rows a pass, too.
    """
    config = TrainConfig(**values, out=step.lake.root)
    return config.model_copy(update={"out": work_folder(step, step.data_versions, config.steering())})
