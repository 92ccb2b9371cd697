"""Command line of `iot-pipeline classify`."""

import sys
from collections.abc import Callable
from typing import Any

import typer

from iot_pipeline.commands import classify_options as take


def register(app: typer.Typer, configure: Callable[[], Any], quiet: Callable[[], None]) -> None:
    """Add the command to the application; `configure` returns the settings, `quiet` suppresses useless warnings."""

    @app.command(epilog=take.EXAMPLES)
    def classify(
        inputs: take.Inputs,
        stage: take.Stage = None,
        track: take.Track = None,
        to: take.To = "json",
        out: take.Out = None,
        explain: take.Explain = "none",
        follow: take.Follow = False,
        join_wait: take.JoinWait = 30.0,
        idle_exit: take.IdleExit = None,
        units: take.Units = "auto",
        invalid: take.Invalid = None,
        benign: take.Benign = None,
        cache: take.Cache = None,
        cache_size: take.CacheSize = None,
        replicas: take.Replicas = None,
        as_json: take.Summary = False,
    ) -> None:
        """Classify flows with a trained student: one event for each flow, on standard output or in a file.

        Progress and summary go to standard error; with --out and --json the summary goes to standard output.

        Ctrl-C ends --follow cleanly. Exit code 130 after Ctrl-C, 143 after SIGTERM.
        """
        from iot_pipeline.commands.classify_run import run_command
        from iot_pipeline.machine import bound_shape_caches

        options = take.Options(
            inputs, stage, track, to, out, explain, follow, join_wait, idle_exit, units, invalid, benign, cache,
            cache_size, replicas,
        )  # fmt: skip
        bound_shape_caches()
        chosen = configure()
        quiet()
        sys.exit(run_command(chosen, options, as_json))
