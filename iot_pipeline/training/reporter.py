"""What a training process tells: people, Dagster and `progress.jsonl`, from rank 0 only.

Belongs here: where lines go. Does not belong here: what they say (payload.py).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Reporter:
    """Where live lines go: Dagster when it listens, the terminal when not, `progress.jsonl` always (rank 0)."""

    pipes: Any | None
    out: Path
    first: bool

    def line(self, text: str) -> None:
        """One line for people."""
        if self.first:
            if self.pipes is not None:
                self.pipes.log.info(text)
            else:
                print(text, flush=True)

    def progress(self, **facts: Any) -> None:
        """One line of facts in `progress.jsonl`."""
        if self.first:
            with (self.out / "progress.jsonl").open("a") as file:
                file.write(json.dumps(facts) + "\n")

    def final(self, facts: dict[str, Any]) -> None:
        """The result, to whoever started the run."""
        if self.first and self.pipes is not None:
            self.pipes.report_custom_message(facts)


@contextlib.contextmanager
def dagster_pipes() -> Iterator[Any | None]:
    """Dagster's end of the line, on rank 0 of a run that Dagster started; else None."""
    if "DAGSTER_PIPES_CONTEXT" not in os.environ or os.environ.get("RANK", "0") != "0":
        yield None
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        yield pipes
