"""Recipe of a training, as the settings have it."""

from typing import Any

from iot_pipeline.defs.recording import Step
from iot_pipeline.setting_sections import RunSettings, StudentSettings
from iot_pipeline.training.config import TrainConfig


def recipe_of(step: Step, seed: int) -> dict[str, Any]:
    """Return the training recipe: the seed, and the settings that TrainConfig has a field of the same name for."""
    names = TrainConfig.model_fields.keys()
    recipe = {name: getattr(step.settings.student, name) for name in names & StudentSettings.model_fields.keys()}
    carried_out = {name: getattr(step.settings.run, name) for name in names & RunSettings.model_fields.keys()}
    return recipe | carried_out | {"seed": seed}
