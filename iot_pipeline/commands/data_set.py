"""Data set of a lake: its spec with the classes that the flows have, and the writer of its flow texts."""

from __future__ import annotations

from iot_pipeline.flows.rare import with_kept_classes
from iot_pipeline.flows.spec import DatasetSpec, load_spec
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import Settings


def spec_of(lake: Lake, settings: Settings) -> DatasetSpec:
    """Return the spec of the settings' data set, with the classes that the lake's flows have."""
    return with_kept_classes(load_spec(settings.data.dataset), lake.folder(ArtefactId("flows")))


def writer_of(lake: Lake, settings: Settings) -> FlowTextWriter:
    """Return the writer of the lake's flow texts; UserError if there are none, or they were altered."""
    return FlowTextWriter.load(lake.verified(ArtefactId("flow_texts")), spec_of(lake, settings))
