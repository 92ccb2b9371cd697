"""Command line of the pipeline."""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from iot_pipeline import __version__, cli_classify, cli_export, cli_lineage, cli_serve, cli_teacher
from iot_pipeline.cli_group import AsJson, Commands
from iot_pipeline.errors import UserError, printable
from iot_pipeline.interrupts import raise_if_told

app = typer.Typer(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train, evaluate and serve a small language model that names the attack in IoT network flows and says why. "
    "Settings: IOT_* variables or .env; `iot-pipeline doctor` lists them.",
)

StageOption = Annotated[
    str | None, typer.Option("--stages", metavar="10K,30K,..", help="Stages to make; overrides IOT_STAGES.")
]
TrackOption = Annotated[
    str | None, typer.Option("--tracks", metavar="original,..", help="Tracks to make; overrides IOT_TRACKS.")
]


def command() -> NoReturn:
    """Run the command: a UserError becomes one line on standard error and exit code 2; an interrupt is 130.

    So does an error of the system on a file that it names (a full disk, no permission).
    """
    # Set before torch is loaded: spinning threads slow down every process on the machine, up to ten times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app(standalone_mode=True)
    except UserError as error:
        raise_if_told()
        _fail(str(error))
    except OSError as error:
        if error.filename is None:  # no file of the user's: a fault of ours
            raise
        _fail(f"{error.filename}: {error.strerror or error}")
    sys.exit(0)


def _fail(sentence: str) -> NoReturn:
    print(f"error: {printable(sentence)}", file=sys.stderr)
    sys.exit(2)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def _configure(stages: str | None, tracks: str | None) -> Any:
    """Load this process's settings; put the options and all file names into the environment for subprocesses."""
    from iot_pipeline.settings import PATHS, settings

    for name, value in (("IOT_STAGES", stages), ("IOT_TRACKS", tracks)):
        if value:
            os.environ[name] = value
    settings.cache_clear()
    try:
        chosen = settings()
    except UserError as error:
        told = str(error)
        for option, value in (("stages", stages), ("tracks", tracks)):
            told = told.replace(f"IOT_{option.upper()}:", f"--{option}:") if value else told
        raise UserError(told) from None
    os.environ.update({f"IOT_{name.upper()}": str(path) for name in PATHS if (path := chosen.value(name))})
    return chosen


def _quiet() -> None:
    """Suppress warnings that a user cannot act on."""
    import warnings

    import dagster as dg

    # Two-axis partition mappings are marked beta and parts of Pipes preview; tests cover what is used of them.
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    # peft uses a transformers name that changes in version 6; users cannot fix that.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")


def _definitions() -> Any:
    _quiet()
    from iot_pipeline.definitions import defs

    return defs()


@app.command(epilog="Example: iot-pipeline run --stages 10K,30K --tracks paraphrased")
def run(
    stages: StageOption = None,
    tracks: TrackOption = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="ASSET", help="Make only this asset and what it is made of.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make everything again, even if fresh.")] = False,
    accept_code: Annotated[
        bool, typer.Option("--accept-code", help="Keep artefacts made by another version of the code.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be made, why, and its cost.")
    ] = False,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="BUNDLE", help="Rebuild a bundle's lake offline with its settings, and compare."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make every artefact that is missing or stale, then print the results."""
    if bundle is not None:
        cli_lineage.use(bundle, stages=stages, tracks=tracks, until=until)
    chosen = _configure(stages, tracks)
    if bundle is not None and not dry_run:
        cli_lineage.bring(chosen, bundle)
    definitions = _definitions()
    from iot_pipeline.defs import plan

    if dry_run:
        from iot_pipeline.commands.dry_run import dry_run as forecast
        from iot_pipeline.commands.dry_run import show

        show(forecast(chosen, plan.wanted(definitions, chosen, until), force, accept_code), as_json)
        return
    from iot_pipeline.commands.show import Progress, results
    from iot_pipeline.defs import execute
    from iot_pipeline.defs.home import locked

    planned = plan.wanted(definitions, chosen, until)  # before the lock, which begins a lake
    with locked(chosen):
        with Progress(planned, quiet=as_json):
            told = {"until": until, "stages": stages, "tracks": tracks}
            tags = {f"iot_pipeline/{name}": value for name, value in told.items() if value}
            outcome = execute.execute_command(definitions, chosen, planned, tags, force=force, accept_code=accept_code)
    raise_if_told()  # an interrupted step is not a failure
    unfinished = bool(outcome.failed or outcome.left)
    compared = cli_lineage.compared(chosen, bundle) if bundle is not None and not unfinished else None
    results(chosen, outcome, as_json, compared)
    if unfinished or (compared is not None and not compared.kept):
        sys.exit(1)


@app.command(epilog="Example: iot-pipeline run --until flow_texts && iot-pipeline estimate --stages 30K")
def estimate(stages: StageOption = None, tracks: TrackOption = None, as_json: AsJson = False) -> None:
    """Estimate teacher requests (and how many are already answered), tokens, dollars and time. Sends nothing."""
    chosen = _configure(stages, tracks)
    _quiet()
    from iot_pipeline.commands.console import working
    from iot_pipeline.commands.estimate import estimate as reckon
    from iot_pipeline.commands.estimate import show

    with working("counting") as say:
        found = reckon(chosen, say)
    show(found, as_json)


@app.command(epilog="Example: iot-pipeline status --json | jq '.[] | select(.state != \"fresh\")'")
def status(stages: StageOption = None, tracks: TrackOption = None, as_json: AsJson = False) -> None:
    """Show every artefact: fresh, stale (and why) or missing, with build date and duration."""
    chosen = _configure(stages, tracks)
    from iot_pipeline.commands.show import status as show

    show(_definitions(), chosen, as_json)


@app.command(epilog="Example: iot-pipeline doctor --json")
def doctor(as_json: AsJson = False) -> None:
    """Check machine, packages, settings, source, lake, teacher and base model before money is spent."""
    from iot_pipeline.commands.doctor import examine, show, told_settings

    chosen = _configure(None, None)
    findings = examine(chosen)
    if as_json:
        settings = {name: value for name, value, _ in told_settings(chosen)}
        found = {"findings": [vars(finding) for finding in findings], "settings": settings}
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        show(findings, chosen)
    if any(finding.state == "error" for finding in findings):
        sys.exit(1)


@app.command(epilog="Example: iot-pipeline ui --port 3001")
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 3000,
    host: Annotated[
        str, typer.Option(help="Loopback address to bind. The UI has no password; from another machine use ssh -L.")
    ] = "127.0.0.1",
) -> None:
    """Open the Dagster UI (web server and daemon) on the lake of the current settings, for this machine alone."""
    chosen = _configure(None, None)
    from iot_pipeline.commands.ui import serve

    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(serve(chosen, host, port))


datasets = typer.Typer(
    no_args_is_help=True, help="List and show data sets, draft a spec from files, check a spec against files."
)
app.add_typer(datasets, name="datasets")


@datasets.command("list", epilog="Example: iot-pipeline datasets list")
def datasets_list(as_json: AsJson = False) -> None:
    """List the data sets that come with the project; docs/datasets.md says where to get them."""
    from iot_pipeline.commands.console import rows
    from iot_pipeline.commands.datasets import known

    rows(known(), as_json)


@datasets.command("show", epilog="Example: iot-pipeline datasets show cicids2017")
def datasets_show(
    spec: Annotated[str, typer.Argument(help="Name of a data set, or path of a spec.")], as_json: AsJson = False
) -> None:
    """Describe a data set: source, licence, classes with their published rows, features, known faults."""
    from iot_pipeline.commands.console import facts
    from iot_pipeline.commands.datasets import show

    facts(show(spec), as_json)


@datasets.command("new", epilog="Example: iot-pipeline datasets new 'flows/*.csv' --label Attack_type --out mine.yaml")
def datasets_new(
    file: Annotated[str, typer.Argument(help="File of flows, a glob, or several separated by commas; all are read.")],
    name: Annotated[str | None, typer.Option(help="Name of the data set; default: from the file name.")] = None,
    label: Annotated[str | None, typer.Option(help="Label column; default: the most likely one.")] = None,
    out: Annotated[Path | None, typer.Option(help="YAML file to write; default: <name>.yaml.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="Column names of files without a header, separated by commas.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draft a data set spec from files; complete it, then set IOT_DATASET to its path."""
    from iot_pipeline.commands.console import facts
    from iot_pipeline.commands.datasets import new

    chosen = _configure(None, None).data.serialisation
    facts(new(file, name, label, out, columns, chosen), as_json)


@datasets.command("check", epilog="Example: iot-pipeline datasets check my_flows.yaml flows.csv")
def datasets_check(
    spec: Annotated[str, typer.Argument(help="Name of a data set, or path of a spec.")],
    file: Annotated[str, typer.Argument(help="File, glob, or several separated by commas.")],
    as_json: AsJson = False,
) -> None:
    """Read files with a spec and compare them with published facts. Exit code 1 if a class has too few rows."""
    from iot_pipeline.commands.console import facts
    from iot_pipeline.commands.datasets import check

    found = check(spec, file, _configure(None, None).data.max_rejected_share)
    facts(found, as_json)
    if found["classes_without_rows"] or found["rare_classes_undecided"]:
        sys.exit(1)


@app.command(epilog="Example: iot-pipeline explain 30K paraphrased new_flows.csv answers.jsonl")
def explain(
    stage: Annotated[str, typer.Argument(help="Stage of the checkpoint, such as 10K.")],
    track: Annotated[str, typer.Argument(help="Track of the checkpoint.")],
    flows: Annotated[
        str, typer.Argument(help="Flows with the data set's columns, labels optional; formats as for IOT_SOURCE.")
    ],
    out: Annotated[Path, typer.Argument(help="New JSON lines file, one line for each row.")],
    classes_only: Annotated[bool, typer.Option("--classes-only", help="Write no explanations; much faster.")] = False,
    as_json: AsJson = False,
) -> None:
    """Classify and explain each flow of a file with a trained student (see also `classify --explain all`)."""
    chosen = _configure(None, None)
    _quiet()
    from iot_pipeline.commands.console import facts, working
    from iot_pipeline.commands.explain import explain as answer

    with working("explain:") as say:
        told = answer(chosen, stage, track, flows, out, classes_only, say)
    facts(told, as_json)


cli_lineage.register(app, lambda: _configure(None, None), _definitions)
cli_classify.register(app, lambda: _configure(None, None), _quiet)
cli_serve.register(app, lambda: _configure(None, None), _quiet)
cli_export.register(app, lambda: _configure(None, None), _quiet)
cli_teacher.register(app, lambda: _configure(None, None))


@app.command(epilog="Example: iot-pipeline grammar new_flows.csv --row 3 --form gbnf > flow_3.gbnf")
def grammar(
    flows: Annotated[
        str, typer.Argument(help="Flows with the data set's columns, labels optional; formats as for IOT_SOURCE.")
    ],
    row: Annotated[int, typer.Option(help="Row of the file, counted from 1.")] = 1,
    form: Annotated[str, typer.Option(help="lark (llguidance, vLLM, SGLang) or gbnf (llama.cpp).")] = "lark",
) -> None:
    """Print the grammar of the answers to one flow (with marked facts), for engines with constrained decoding."""
    chosen = _configure(None, None)
    from iot_pipeline.commands.grammar import grammar_of

    print(grammar_of(chosen, flows, row, form), end="")


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)
