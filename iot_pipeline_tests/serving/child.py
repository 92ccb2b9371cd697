"""Run `iot-pipeline classify` as a process of its own, with the student of factories.py in place of a trained one.

    python -m iot_pipeline_tests.serving.child SLOWNESS ARGUMENTS...

Each batch takes SLOWNESS seconds longer, so that a kill has something to interrupt.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import iot_pipeline.commands.classify as command
import iot_pipeline.serving.run as run
from iot_pipeline import cli
from iot_pipeline_tests.serving.factories import HashStudent, classifier


def main() -> None:
    """Run the command line."""
    slowness = float(sys.argv.pop(1))
    score = HashStudent.score_labels

    def slowly(self: HashStudent, *arguments: Any, **named: Any) -> Any:
        time.sleep(slowness)
        return score(self, *arguments, **named)

    HashStudent.score_labels = slowly  # type: ignore[method-assign]
    run.BATCH = 64
    command.newest = lambda *_: ("10K", "original")  # type: ignore[assignment]
    command.open_classifier = lambda *_: classifier()  # type: ignore[assignment]
    command.words = lambda *_: frozenset()  # type: ignore[assignment]
    cli._quiet.__code__ = (lambda: None).__code__  # it loads Dagster
    cli.command()


if __name__ == "__main__":
    main()
