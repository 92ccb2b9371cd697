"""`iot-pipeline classify` at a terminal: progress and summary on standard error, exit codes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from iot_pipeline.commands.classify import classify, stop_signals
from iot_pipeline.commands.classify_options import STDIN, Options
from iot_pipeline.commands.console import table_of, working
from iot_pipeline.errors import UserError
from iot_pipeline.settings import Settings


def run_command(settings: Settings, options: Options, as_json: bool) -> int:
    """Run the command; return its exit code."""
    with stop_signals(options.follow) as stopped:
        try:
            with working("classify:") as say:
                told = classify(settings, options, say, lambda: stopped() is not None)
            show(told, as_json, options.out is not None)
        except BrokenPipeError:
            raise  # the reader of the events has gone, which ends any command (cli_group.py)
        except OSError as error:  # a full disk, a folder that may not be written
            where = f"{error.filename}: " if error.filename else ""
            raise UserError(f"cannot read the flows or write the events: {where}{error.strerror or error}") from error
        except KeyboardInterrupt:
            stays = "; what is written stays" if options.out else ""
            goes_on = ", and the same command resumes here" if options.out and STDIN not in options.inputs else ""
            print(f"stopped{stays}{goes_on}", file=sys.stderr)
            return 128 + (stopped() or signal.SIGINT)
        return 128 + number if (number := stopped()) is not None else 0


def show(told: Mapping[str, Any], as_json: bool, to_output: bool) -> None:
    """Print the summary: for people on standard error; as JSON on standard output, if no events went there."""
    if as_json:
        print(json.dumps(told, indent=1, allow_nan=False), file=sys.stdout if to_output else sys.stderr)
        return
    Console(stderr=True).print(table_of({name: value for name, value in told.items() if value not in ({}, [])}))
