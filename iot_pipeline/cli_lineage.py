"""Command line of `iot-pipeline verify`, `trace` and `export-bundle`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from iot_pipeline.cli_group import AsJson
from iot_pipeline.errors import UserError


def use(bundle: Path, **options: str | None) -> None:
    """Let the settings of this process be those of a bundle; UserError if an option asks for less than all of it."""
    from iot_pipeline.bundle.rerun import use_bundle

    if given := [name for name, value in options.items() if value]:
        raise UserError(f"--from makes all that its bundle was made of: leave out --{given[0]}")
    use_bundle(bundle)


def bring(chosen: Any, bundle: Path) -> None:
    """Bring the answers of a bundle into the lake's store."""
    from iot_pipeline.bundle.rerun import bring_answers

    bring_answers(chosen, bundle)


def compared(chosen: Any, bundle: Path) -> Any:
    """Compare the lake with the bundle that it was made from."""
    from iot_pipeline.bundle.rerun import compare

    return compare(chosen, bundle)


def register(app: typer.Typer, configure: Callable[[], Any], definitions: Callable[[], Any]) -> None:
    """Add the commands to the application; `configure` returns the present settings, `definitions` Dagster's."""

    def code_versions() -> dict[str, str]:
        """Return the present code version of every asset."""
        specs = definitions().resolve_all_asset_specs()
        return {spec.key.to_user_string(): spec.code_version or "" for spec in specs}

    @app.command(epilog="Example: iot-pipeline verify --json | jq '.mismatches'; iot-pipeline verify reviewer_bundle")
    def verify(
        bundle: Annotated[
            Path | None, typer.Argument(metavar="BUNDLE", help="Folder of a bundle to verify instead of the lake.")
        ] = None,
        key: Annotated[
            Path | None, typer.Option("--key", help="Public key to check the bundle's signature with.")
        ] = None,
        replay: Annotated[
            list[str] | None,
            typer.Option(
                "--replay",
                metavar="ASSET[PARTITION]",
                help="Make this artefact again in a scratch lake from stored answers, and compare; may be repeated.",
            ),
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Verify the lake: files, inputs and the report's figures against manifests, settings, prompts and code.

        Exit code 1 if something was altered, 3 if something is only stale: a setting, prompt or code changed since, or
        a blocking check did not pass.
        """
        if bundle is not None and replay:
            raise UserError("--replay makes artefacts of the lake again; those of a bundle: `iot-pipeline run --from`")
        if bundle is None and key is not None:
            raise UserError("--key checks the signature of a bundle: name its folder too")
        if bundle is not None:
            from iot_pipeline.commands.bundle import show_check, verified

            sys.exit(show_check(verified(bundle, key), as_json))
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

    @app.command("export-bundle", epilog="Example: iot-pipeline export-bundle reviewer_bundle --sign key.pem")
    def export_bundle(
        folder: Annotated[Path, typer.Argument(help="New folder.")],
        key: Annotated[
            Path | None,
            typer.Option("--sign", metavar="KEY", help="Private EC key (PEM) to sign with; needs the extra `bundle`."),
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Write all a reviewer needs: report, tables, figures, prompts, answers, settings, lineage, cards, forms.

        `iot-pipeline verify FOLDER` checks it, `iot-pipeline run --from FOLDER` rebuilds it offline.
        """
        from iot_pipeline.commands.bundle import export
        from iot_pipeline.commands.console import facts

        facts(export(configure(), folder, key), as_json)

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
        """Print where a result comes from: files, artefacts, prompts, settings, seed, commit and cost, to the source.

        For a training row (numbered from 1, as training reads them): flow, source row, request, prompt, answer, price.
        """
        from iot_pipeline.commands.trace import show
        from iot_pipeline.commands.trace import trace as find

        show(find(configure(), what, stage, track), as_json)
