"""A worker of a training on Ray: the same payload as on one machine, with reports to the job."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LINE, ERROR = "line", "error"  # kinds of reports


class Relay:
    """Reports of the workers until the job takes them; an actor beside the job."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, str]] = []

    def put(self, kind: str, text: str) -> None:
        """Add a report."""
        self.reports.append((kind, text))

    def take(self) -> list[tuple[str, str]]:
        """Return the reports since the last call."""
        taken, self.reports = self.reports, []
        return taken


def work(given: dict[str, Any]) -> None:
    """Train by each configuration as one of the workers, whose ranks and process group Ray has set.

    A worker that replaces a lost one finds finished trainings, and the last checkpoint of the current one, in the
    folders of the trainings. Args: given: `configs` as JSON values, and `relay`, the actor that takes reports.
    """
    import ray

    from iot_pipeline.errors import UserError
    from iot_pipeline.training.config import TrainConfig
    from iot_pipeline.training.reporter import no_room
    from iot_pipeline.training.train import run

    choose_device()
    relay, out = given["relay"], Path()
    pipes = SimpleNamespace(log=SimpleNamespace(info=lambda text: relay.put.remote(LINE, text)))
    try:
        for values in given["configs"]:
            config = TrainConfig.model_validate(values)
            out = config.out
            run(config, pipes)
    except Exception as error:
        told = error if isinstance(error, UserError) else no_room(error, out)
        if told is not None:
            ray.get(relay.put.remote(ERROR, str(told)))
        raise


def choose_device() -> None:
    """Name the GPU that Ray gave this worker as torchrun would: by LOCAL_RANK, its index among those visible."""
    from ray.train.torch import get_device

    device = get_device()
    if device.type == "cuda":
        os.environ["LOCAL_RANK"] = str(device.index or 0)
