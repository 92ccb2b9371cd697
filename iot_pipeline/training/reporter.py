"""Progress of a training process for people, Dagster and `progress.jsonl`, from rank 0 only."""

import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OS_ERROR = re.compile(r"\(os error (\d+)\)")


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


def complain(error: Exception) -> None:
    """Write the one-line error with which a training process ends.

    It is a single write: `print` writes the newline separately, and processes that fail together share one output, in
    which their lines would run into each other.
    """
    with contextlib.suppress(OSError):  # its output may be on a disk that is full
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()


def no_room(error: Exception, out: Path) -> UserError | None:
    """Return the error to tell if one says that a disk or quota is full, or a file as large as the system allows.

    safetensors writes in Rust, and its errors have the number in their words alone: `(os error 28)`.
    """
    in_words = OS_ERROR.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(in_words[1]) if in_words else None
    if number not in NO_ROOM:
        return None
    told = os.strerror(int(number)).lower()
    return UserError(f"{out} cannot be written ({told}); make room and run again: it goes on from its last checkpoint")


# Facts of a line of progress.jsonl, and the words for each; a fact that is missing or None is left out.
WORDS = {
    "tokens_per_second": "{:,.0f} tokens/s",
    "mfu": "MFU {:.1%}",
    "memory_gib": "{:.1f} GiB",
    "learning_rate": "learning rate {:.2e}",
    "seconds_left": "{:.0f} s left",
}


def describe_progress(facts: dict[str, Any]) -> str:
    """Describe one line of progress.jsonl in words."""
    told = [words.format(facts[name]) for name, words in WORDS.items() if facts.get(name) is not None]
    return ", ".join([f"step {facts['step']} of {facts['steps']}", f"loss {facts['loss']:.4f}", *told])


@contextlib.contextmanager
def dagster_pipes() -> Iterator[Any | None]:
    """Open Dagster Pipes on rank 0 of a run that Dagster started; else yield None."""
    if "DAGSTER_PIPES_CONTEXT" not in os.environ or os.environ.get("RANK", "0") != "0":
        yield None
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        yield pipes
