"""The feature names of the control that shuffles them, alike in training and in evaluation."""

from iot_pipeline.defs.inputs import Reader
from iot_pipeline.sft.controls import ShuffledNames


def shuffled_names(step: Reader) -> ShuffledNames:
    """Return the feature names of this data set in other places."""
    spec, data = step.spec, step.settings.data
    return ShuffledNames(tuple(spec.feature_names), data.serialisation, data.seed, frozenset(spec.category_names))
