"""Telling of sinks: what they get, and the guard by which a sink that is down stops no run and is named once."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from iot_pipeline.errors import UserError
from iot_pipeline.settings import Settings
from iot_pipeline.sinks.making import Made, Making

PAUSE_S = 60.0  # for which a sink that failed is left alone, so that it costs a run at most a twelfth of its time
_paused: dict[tuple[str, str], float] = {}  # setting and address of a sink that failed -> when it is tried again


class Sink(Protocol):
    """Receiver of what is told; its methods may raise anything."""

    setting: str
    address: str

    def started(self, making: Making) -> None:
        """Tell that an artefact is being made."""

    def made(self, making: Making, made: Made) -> None:
        """Tell a finished artefact."""

    def failed(self, making: Making, kind: str) -> None:
        """Tell a failure by the kind of its error: messages may quote flows."""


def open_sinks(chosen: Settings) -> list[Sink]:
    """Return the sinks that the settings name. Raises UserError if a library is missing."""
    sinks: list[Sink] = []
    try:
        if url := chosen.run.openlineage_url:
            from iot_pipeline.sinks.openlineage import OpenLineageSink

            sinks.append(OpenLineageSink(url.get_secret_value()))
        if url := chosen.run.mlflow_uri:
            from iot_pipeline.sinks.mlflow import MlflowSink

            sinks.append(MlflowSink(url.get_secret_value()))
    except ImportError as error:
        raise UserError(
            f"IOT_OPENLINEAGE_URL and IOT_MLFLOW_URI need extras ({error.name} is missing): "
            "pip install -e '.[openlineage,mlflow]'"
        ) from None
    return sinks


def tell(sinks: Sequence[Sink], send: Callable[[Sink], None], say: Callable[[str], None]) -> None:
    """Send something to each sink.

    A sink that fails stops nothing: it is named once in the life of the process, and left alone for PAUSE_S.

    Args:
        sinks: The sinks.
        send: Sends it to one.
        say: Receives the sentence on a sink that fails for the first time.
    """
    for sink in sinks:
        key = sink.setting, sink.address
        if time.monotonic() < _paused.get(key, 0.0):
            continue
        try:
            send(sink)
        except Exception as error:
            if key not in _paused:
                say(
                    f"{sink.setting} does not take what it is told ({_reason(error)}): the run goes on, what happens "
                    f"meanwhile is not told again, and a try is made every {PAUSE_S:.0f} s"
                )
            _paused[key] = time.monotonic() + PAUSE_S


def _reason(error: Exception) -> str:
    """Return the kind of an error, and a server's status; messages repeat addresses, which may hold a key."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"status {status}" if status else type(error).__name__
