"""Progress of artefacts as log records: the command line shows them by a handler on this logger."""

import logging

from iot_pipeline.lake.store import ArtefactId

logger = logging.getLogger("iot_pipeline.progress")
logger.setLevel(logging.INFO)
logger.propagate = False
logger.addHandler(logging.NullHandler())


def announce(artefact: ArtefactId, event: str, text: str = "") -> None:
    """Log an artefact's event: fresh, waiting, started, progress, done or failed."""
    logger.info("%s", text, extra={"artefact": artefact, "event": event})
