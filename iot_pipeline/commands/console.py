"""Plain tables and facts for the terminal, or JSON.

Everything that is not a literal of this project is printed as rich's `Text`: in a plain string, rich would read the
brackets of `prompt[original]` as markup.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from iot_pipeline.errors import printable


class Output(Console):
    """Console on standard output whose reader may go away: `Commands` (cli_group.py) ends the command then."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; the words of a table that is wider than the terminal are broken, where rich would cut them off."""
        for column in (column for table in objects if isinstance(table, Table) for column in table.columns):
            column.overflow, column.no_wrap = "fold", False
        super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that is being handled; rich would end with the exit code of an altered lake."""
        raise


class SilentOnceClosed(Console):
    """Console of progress: once its reader has gone it prints nothing, and the work goes on."""

    def on_broken_pipe(self) -> None:
        """Fall silent."""
        self.quiet = True


def rows(found: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print a table with one line per mapping."""
    if as_json:
        print(json.dumps(found, indent=1, allow_nan=False))
        return
    table = Table(*(found[0] if found else ()))
    for row in found:
        table.add_row(*(Text(printable(_text(value))) for value in row.values()))
    Output().print(table)


def facts(found: Mapping[str, Any], as_json: bool) -> None:
    """Print one line per fact; none for a fact that is None."""
    if as_json:
        print(json.dumps(found, indent=1, allow_nan=False))
        return
    Output().print(table_of(found))


def table_of(found: Mapping[str, Any]) -> Table:
    """Return a table of one line per fact; none for a fact that is None."""
    table = Table(show_header=False, box=None)
    for name, value in found.items():
        if value is not None:
            table.add_row(Text(name.replace("_", " ")), Text(printable(_text(value))))
    return table


@contextlib.contextmanager
def working(verb: str) -> Iterator[Callable[[str], None]]:
    """Show the current activity on standard error, on a terminal only; call the result with its object."""
    with Console(stderr=True).status(verb) as status:
        yield lambda what: status.update(Text(f"{verb} {what}"))


def progress_line(message: str) -> None:
    """Print a line of progress on standard error."""
    print(printable(message), file=sys.stderr, flush=True)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list):
        # Sentences get a line each.
        return ("\n" if any(" " in str(item) for item in value) else ", ").join(map(str, value)) or "none"
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
