"""Progress of a training process for people, Dagster and `progress.jsonl`, from rank 0 only."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Reporter:
    """Reporter of rank 0: live lines go to Dagster if it listens, else to the terminal; facts to `progress.jsonl`."""

    pipes: Any | None
    out: Path
    first: bool

    def line(self, text: str) -> None:
        """Report one line of text."""
        if self.first:
            if self.pipes is not None:
                self.pipes.log.info(text)
            else:
                print(text, flush=True)

    def progress(self, **facts: Any) -> None:
        """Append one line of facts to `progress.jsonl`."""
        if self.first:
            with (self.out / "progress.jsonl").open("a") as file:
                file.write(json.dumps(facts) + "\n")

    def final(self, facts: dict[str, Any]) -> None:
        """Send the result to Dagster, if it started the run."""
        if self.first and self.pipes is not None:
            self.pipes.report_custom_message(facts)


def complain(error: Exception) -> None:
    """Write the one-line error with which a training process ends.

    It is a single write: `print` writes the newline separately, and processes that fail together share one output, in
    which their lines would run into each other.
    """
    sys.stderr.write(f"error: {error}\n")
    sys.stderr.flush()


def describe_progress(facts: dict[str, Any]) -> str:
    """Describe one line of progress.jsonl in words."""
    parts = [f"step {facts['step']} of {facts['steps']}", f"loss {facts['loss']:.4f}"]
    if facts.get("tokens_per_second"):
        parts.append(f"{facts['tokens_per_second']:,.0f} tokens/s")
    if facts.get("mfu") is not None:
        parts.append(f"MFU {facts['mfu']:.1%}")
    if facts.get("memory_gib"):
        parts.append(f"{facts['memory_gib']:.1f} GiB")
    if facts.get("learning_rate") is not None:
        parts.append(f"learning rate {facts['learning_rate']:.2e}")
    if facts.get("seconds_left") is not None:
        parts.append(f"{facts['seconds_left']:.0f} s left")
    return ", ".join(parts)


@contextlib.contextmanager
def dagster_pipes() -> Iterator[Any | None]:
    """Open Dagster Pipes on rank 0 of a run that Dagster started; else yield None."""
    if "DAGSTER_PIPES_CONTEXT" not in os.environ or os.environ.get("RANK", "0") != "0":
        yield None
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        yield pipes
