"""Entry point: handles SIGINT and SIGTERM before anything else is imported."""

import contextlib
import sys

from iot_pipeline.interrupts import stopping_promptly

STOPPED = "stopped; what is made stays, and `iot-pipeline run` goes on from here"


def main() -> None:
    """Run the command line; a stopped `run` ends within 10 s with exit code 130 and a sentence."""
    with stopping_promptly(STOPPED) if sys.argv[1:2] == ["run"] else contextlib.nullcontext():
        from iot_pipeline.cli import command

        command()


if __name__ == "__main__":
    main()
