"""Command line of `iot-pipeline teacher` and `cache`: the embedded teacher as a server, and the store of answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from iot_pipeline.cli_group import AsJson, Port
from iot_pipeline.errors import UserError

teacher = typer.Typer(invoke_without_command=True)
cache = typer.Typer(no_args_is_help=True, help="Export the teacher's answers to a file, or import them from one.")


def register(app: typer.Typer, configure: Callable[[], Any]) -> None:
    """Add the commands to the application; `configure` returns the present settings."""
    app.add_typer(teacher, name="teacher")
    app.add_typer(cache, name="cache")
    _add_store(configure)


@teacher.callback(epilog="Example: iot-pipeline teacher --port 8100 --faults rate_limit=0.1,drop=0.02")
def teacher_serve(
    context: typer.Context,
    port: Port = 8100,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    faults: Annotated[str, typer.Option(help="Inject faults: kind=probability,... (`help` lists the kinds).")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the faults.")] = 0,
    answer_seconds: Annotated[float, typer.Option(min=0, help="Seconds that each answer takes.")] = 0.0,
    hang_seconds: Annotated[float, typer.Option(min=0, help="Seconds that the fault `timeout` hangs.")] = 600.0,
    batch_seconds: Annotated[float, typer.Option(min=0, help="Least seconds that a batch takes.")] = 0.0,
    rpm: Annotated[int | None, typer.Option(min=1, help="Limit of requests a minute; default: none.")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="Limit of tokens a minute; default: none.")] = None,
    enqueued_tokens: Annotated[
        int | None, typer.Option(min=1, help="Limit of tokens in open batches; default: none.")
    ] = None,
    json_schema: Annotated[bool, typer.Option(help="Support answers in the form of a JSON schema.")] = True,
) -> None:
    """Run the embedded OpenAI-compatible teacher, with faults on demand; `retry` is for quarantined answers."""
    if context.invoked_subcommand:
        _refuse_options_before(context)
        return
    from iot_pipeline.embedded_teacher.faults import FAULTS, FaultPlan, parse_faults
    from iot_pipeline.embedded_teacher.server import ServerOptions, serve

    if faults == "help":
        print("\n".join(FAULTS))
        return

    def announce(url: str) -> None:
        print(f"Embedded teacher on {url} (stop with Ctrl-C)\nUse it: IOT_TEACHER={url} iot-pipeline run", flush=True)

    options = ServerOptions(answer_seconds, hang_seconds, batch_seconds, rpm, tpm, enqueued_tokens, int(json_schema))
    serve(host, port, FaultPlan(parse_faults(faults), seed), options, announce)


def _refuse_options_before(context: typer.Context) -> None:
    """Raise UserError for options of the server in front of a subcommand, which starts none."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise UserError(
            f"{option} is an option of the server, which `teacher {context.invoked_subcommand}` does not start"
        )


def _add_store(configure: Callable[[], Any]) -> None:
    @teacher.command(
        "retry", epilog="Example: iot-pipeline teacher retry --reason mislabelled --track original --dry-run"
    )
    def teacher_retry(
        reason: Annotated[str | None, typer.Option(help="Kind of reason, such as refused; default: all.")] = None,
        track: Annotated[str | None, typer.Option(help="Track of the requests; default: all.")] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them by reason.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Withdraw the verdicts on quarantined answers, so that the next run asks them again."""
        from iot_pipeline.commands.retry import retry, sentences

        told = retry(configure(), reason, track, dry_run)
        print(json.dumps(told, indent=1) if as_json else "\n".join(sentences(told)))

    @cache.command("export", epilog="Example: iot-pipeline cache export answers.parquet")
    def cache_export(
        file: Annotated[Path, typer.Argument(help="Parquet file to write.")], as_json: AsJson = False
    ) -> None:
        """Write every stored answer to a Parquet file."""
        from iot_pipeline.commands.console import facts
        from iot_pipeline.teacher.archive import export_answers
        from iot_pipeline.teacher_factory import store_of

        facts({"file": str(file), "answers": export_answers(store_of(configure()), file)}, as_json)

    @cache.command(
        "import", epilog="Example: iot-pipeline cache import answers.parquet && IOT_TEACHER=replay iot-pipeline run"
    )
    def cache_import(
        file: Annotated[Path, typer.Argument(help="Parquet file to read.")], as_json: AsJson = False
    ) -> None:
        """Add the answers of a Parquet file to the store after checking each; stored answers are kept.

        The checks cover facts; the wording of the file is trusted. Exit code 1 if all answers are refused.
        """
        from iot_pipeline.augmentation.ask import check_imported
        from iot_pipeline.commands.console import facts
        from iot_pipeline.teacher.archive import import_answers
        from iot_pipeline.teacher_factory import store_of

        found = import_answers(store_of(configure()), file, check_imported)
        refused = dict(found.refused.most_common())
        costs = {"usd_at_list_prices": round(found.usd, 4), "usd_told_by_the_file": round(found.told_usd, 4)}
        facts({"file": str(file), "added": found.added, "kept": found.kept, "refused": refused, **costs}, as_json)
        if refused and not found.added + found.kept:
            raise typer.Exit(1)
