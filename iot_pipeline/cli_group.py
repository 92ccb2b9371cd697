"""Shared parts of commands: `--json`, ports, and the end of one whose reader has gone (`| head -1`)."""

import errno
import os
import select
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from iot_pipeline.errors import UserError

AsJson = Annotated[bool, typer.Option("--json", help="Print only JSON.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")]
FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = 128 + signal.SIGPIPE  # exit code of any program whose reader has gone


class Commands(TyperGroup):
    """Commands that end with CLOSED, and without a word, where the reader of their output has gone.

    Typer would end them with 1, which is the verdict of `verify` on an altered lake. A full disk is a UserError.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and write out what it printed."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            if not _reader_has_gone():
                raise
            _drop_output()
            raise SystemExit(CLOSED) from None
        except OSError as error:
            if error.errno not in FULL or error.filename is not None:
                raise
            _drop_output()
            raise UserError(f"{error.strerror}: free some space, and start the command again") from None


def _drop_output() -> None:
    """Let nothing be written any more: Python would complain at its end about what is buffered."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reader_has_gone() -> bool:
    """Return True if nobody reads standard output any more; another pipe may have broken."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(flags & (select.POLLERR | select.POLLHUP) for _, flags in poll.poll(0))
