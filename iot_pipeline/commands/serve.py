"""`iot-pipeline serve`: a trained student behind HTTP."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, cast
from urllib.parse import unquote

from iot_pipeline.commands.checkpoint import newest, open_classifier, words
from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import Settings, serve_token

Log = Callable[[str], None]
VERDICTS = "verdicts.sqlite"  # in the lake, as of `classify`


def serve(
    settings: Settings,
    stage: str | None,
    track: str | None,
    host: str,
    port: int,
    allowed: Sequence[str],
    units: str | None,
    cache: bool,
    log: Log,
) -> int:
    """Serve a student until a signal, and return the exit code.

    The address is bound before the student is loaded, so that a taken port is told at once; it listens afterwards.

    Args:
        settings: The present settings.
        stage: Stage of the checkpoint; None: the largest that was made.
        track: Track of the checkpoint; None: `original`, or the first that was made.
        host: Address to bind.
        port: Port to bind; 0: any free one.
        allowed: Further host names by which a server on loopback is asked.
        units: Units of flows whose request states none; None: as the data set is published.
        cache: True to keep verdicts in the lake, and to look up those that are there.
        log: Called with each line of progress.

    Raises:
        UserError: The address cannot be used, has no token though others can reach it, the units cannot be given, or
            there is no such student.
    """
    from iot_pipeline.serving.cache import VerdictCache, cache_key
    from iot_pipeline.serving.server.run import access_of, bind, url_of
    from iot_pipeline.serving.server.run import serve as run
    from iot_pipeline.serving.server.service import Service, StudentTokens
    from iot_pipeline.serving.units import UNITS, Unit

    if units not in (None, *UNITS):
        raise UserError(f"--units {units}: use one of {', '.join(UNITS)}")
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        signal.signal(number, _exiting(code))  # while the student is loaded; the server has handlers of its own
    token = serve_token()
    access = access_of(host, token.get_secret_value() if token is not None else None, allowed)
    with bind(host, port) as listener:
        stage, track = newest(settings, stage, track)
        log(f"loading {stage} {track}")
        classifier = open_classifier(settings, stage, track, log)
        known = VerdictCache(settings.lake_path / VERDICTS, cache_key(classifier)) if cache else None
        tokens, shown = StudentTokens(classifier.student.tokenizer), example(settings, classifier.spec)
        given = cast(Unit | None, units)
        service = Service(classifier, tokens, cache=known, words=words(settings), shown=shown, given=given)
        service.units.check(service.default_units)

        def ready() -> None:
            for label in classifier.origin.labels:
                log(f"note: {label}")
            with_token = ", with a token" if access.token is not None else ""
            print(f"{service.model_id} on {url_of(listener)}{with_token} (stop with Ctrl-C)", flush=True)

        return run(service, access, listener, ready)


def example(settings: Settings, spec: DatasetSpec) -> dict[str, Any]:
    """Return the first flow of the lake by its features, as the data set is published."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(Lake(settings.lake_path).folder(ArtefactId("flows")) / "flows.parquet") as flows:
        (row,) = next(flows.iter_batches(1, columns=spec.feature_names)).to_pylist()
    words = set(spec.category_names)
    return {name: unquote(row[name]) if name in words else row[name] for name in spec.feature_names}


def _exiting(code: int) -> Callable[[int, FrameType | None], Any]:
    def leave(_number: int, _frame: FrameType | None) -> None:
        sys.exit(code)

    return leave
