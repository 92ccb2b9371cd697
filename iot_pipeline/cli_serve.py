"""Command line of `iot-pipeline serve`."""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from iot_pipeline.cli_group import Port


def register(app: typer.Typer, configure: Callable[[], Any], quiet: Callable[[], None]) -> None:
    """Add the command to the application; `configure` returns the settings, `quiet` suppresses useless warnings."""

    @app.command(
        epilog="Example: iot-pipeline serve --stage 10K --track original --port 8000; then open http://127.0.0.1:8000, "
        "or curl 127.0.0.1:8000/v1/classify --json @flows.json. docs/serve.md has endpoints, limits and clients."
    )
    def serve(
        stage: Annotated[
            str | None, typer.Option(help="Stage of the checkpoint; default: the largest one made.")
        ] = None,
        track: Annotated[
            str | None, typer.Option(help="Track of the checkpoint; default: original, or the first one made.")
        ] = None,
        host: Annotated[
            str, typer.Option(help="Address to bind; if others can reach it, set a token in IOT_SERVE_TOKEN.")
        ] = "127.0.0.1",
        port: Port = 8000,
        allow_host: Annotated[
            list[str] | None,
            typer.Option(help="Another host name that clients use, such as a proxy's; may be repeated."),
        ] = None,
        units: Annotated[
            str | None,
            typer.Option(help="Units of flows if a request states none: raw or scaled; default: as published."),
        ] = None,
        cache: Annotated[bool, typer.Option(help="Cache verdicts in the lake.")] = True,
    ) -> None:
        """Serve a trained student over HTTP: classes and explanations, OpenAI's API, Prometheus, a page for people."""
        from iot_pipeline.commands.console import progress_line
        from iot_pipeline.commands.serve import serve as run
        from iot_pipeline.machine import bound_shape_caches

        bound_shape_caches()
        chosen = configure()
        quiet()
        sys.exit(run(chosen, stage, track, host, port, allow_host or [], units, cache, progress_line))
