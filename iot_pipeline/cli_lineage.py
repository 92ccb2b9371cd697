"""Command line of `iot-pipeline verify` and `trace`."""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def register(app: typer.Typer, configure: Callable[[], Any], definitions: Callable[[], Any]) -> None:
    """Add the commands to the application; `configure` returns the present settings, `definitions` Dagster's."""

    def code_versions() -> dict[str, str]:
        """Return the present code version of every asset."""
        specs = definitions().resolve_all_asset_specs()
        return {spec.key.to_user_string(): spec.code_version or "" for spec in specs}

    @app.command(epilog="Example: iot-pipeline verify --json | jq '.mismatches'")
    def verify(
        replay: Annotated[
            list[str] | None,
            typer.Option(
                "--replay",
                metavar="ASSET[PARTITION]",
                help="Make this artefact again in a scratch lake, asking nobody, and compare; may be repeated.",
            ),
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Prove the lake: files, inputs and figures of the report by its manifests, settings and prompts as they are.

        Exit code 1 if something was altered, 3 if something is only stale (a setting, prompt or code changed since).
        """
        chosen = configure()
        if replay:
            from iot_pipeline.commands.replay import replayed
            from iot_pipeline.commands.replay import show as show_replayed

            sys.exit(show_replayed(replayed(definitions(), chosen, replay), as_json))
        from iot_pipeline.commands.verify import exit_code, show
        from iot_pipeline.defs.verification import examine

        found = examine(chosen, code_versions)
        show(found, as_json)
        sys.exit(exit_code(found))

    @app.command(
        epilog="Example: iot-pipeline trace table-3; iot-pipeline trace row 17 --stage 10K --track paraphrased"
    )
    def trace(
        what: Annotated[
            list[str],
            typer.Argument(
                metavar="ID | ARTEFACT | row N",
                help="An id of the report (table-3, figure-2, number-1), an artefact (original[10K]), or `row N`.",
            ),
        ],
        stage: Annotated[str | None, typer.Option("--stage", help="Stage of a training row, such as 10K.")] = None,
        track: Annotated[str | None, typer.Option("--track", help="Track of a training row.")] = None,
        as_json: AsJson = False,
    ) -> None:
        """Print where something comes from: files, artefacts, prompts, settings, seed, commit and cost, to the source.

        Of a training row (numbered from 1, as training reads them): flow, source row, request, prompt, answer, price.
        """
        from iot_pipeline.commands.trace import show
        from iot_pipeline.commands.trace import trace as find

        show(find(configure(), what, stage, track), as_json)
