"""Names of columns, by one rule for CSV, Parquet and Zeek logs.

Blanks around a name are no part of it. A name that differs from one that the data set needs in case only is that one.
Of equal names (ignoring case) the first keeps its name and the others get `.1`, `.2`, ..., as in pandas; where the data
set needs such a column, its copies must hold the same values. An object of JSON that names a key twice is refused:
readers of JSON differ in which of its values they take, so that the one that is judged may not be the one that is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iot_pipeline.errors import UserError, printable

MOST_COLUMNS = 2_000
SHOWN = 8
SHOWN_OF_KEY = 60  # characters
# Columns that are added while a table is read, built or drafted.
OWN = frozenset(("file_row_number", "iot_source_file", "iot_drafted_row"))
MOST_CHARACTERS = 300  # of a name
# Characters that copy and paste or an export leaves around a name.
AROUND = " \t\r\n\u00a0\ufeff\u200b"


def column_names(raw: Sequence[str], needed: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return a distinct name for each column, and numbered name -> name of which it is a copy.

    Args:
        raw: Names as they stand in the file.
        needed: Names that the data set needs.
    """
    names = [name.strip(AROUND) for name in raw]
    exact = {name: place for place, name in reversed(list(enumerate(names)))}
    # A needed name that stands there exactly is taken first; a match in all but case comes after.
    given: dict[int, str] = {exact[name.strip(AROUND)]: name for name in needed if name.strip(AROUND) in exact}
    taken = {name.lower() for name in given.values()}
    spelt = {name.strip(AROUND).lower(): name for name in reversed(needed)}
    copies: dict[str, str] = {}
    for place, name in enumerate(names):
        if place in given:
            continue
        wanted = name if name.lower() in taken else spelt.get(name.lower(), name)
        number = 0
        chosen = wanted
        while chosen.lower() in taken:
            number += 1
            chosen = f"{wanted}.{number}"
        if number:
            copies[chosen] = next((given[p] for p in sorted(given) if given[p].lower() == wanted.lower()), wanted)
        given[place] = chosen
        taken.add(chosen.lower())
    return [given[place] for place in range(len(names))], copies


def unclear_copies(raw: Sequence[str], columns: Sequence[str], copies: dict[str, str]) -> dict[str, str]:
    """Return the copies that may be meant as well as their originals.

    Beside a name that stands there exactly, one in another case is not meant.

    Args:
        raw: Names as they stand in the file.
        columns: Distinct name of each column.
        copies: Numbered name -> name of which it is a copy.
    """
    spelt = {column: name.strip(AROUND) for column, name in zip(columns, raw, strict=True)}
    bare = {original: original.strip(AROUND) for original in copies.values()}
    return {
        copy: original
        for copy, original in copies.items()
        if spelt[copy] == bare[original] or spelt[original] != bare[original]
    }


def repeated_key(pairs: Sequence[tuple[str, Any]]) -> str | None:
    """Return the first key that stands twice among those of an object of JSON; None if each stands once."""
    if len(dict(pairs)) == len(pairs):
        return None
    seen = set[str]()
    return next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]


def one_value_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON (as `object_pairs_hook`); UserError if it has a key twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UserError(f"{twice(str(repeated_key(pairs)))} in one object of JSON: give each key once")
    return found


def twice(key: str) -> str:
    """Tell that a key stands twice."""
    return f"the key {printable(key, '')[:SHOWN_OF_KEY]!r} stands twice"


def check_names(name: str, columns: Sequence[str]) -> None:
    """Raise UserError if a file has too many columns, or one without a name or with one that no message can show.

    Args:
        name: Display name of the file.
        columns: Names of its columns.
    """
    if len(columns) > MOST_COLUMNS:
        raise UserError(f"{name} has {len(columns):,} columns; at most {MOST_COLUMNS:,} are read.")
    if "" in columns:
        raise UserError(f"{name} has no name for column {list(columns).index('') + 1}.")
    for place, column in enumerate(columns, 1):
        if len(column) > MOST_CHARACTERS:
            raise UserError(f"{name}: the name of column {place} has {len(column):,} characters: shorten it.")
        if column.lower() in OWN:
            raise UserError(f"{name}: column {column!r} has a name that reading keeps for itself: rename it.")
        if not column.isprintable():
            raise UserError(f"{name}: the name of column {place}, {column!r}, has a control character: rename it.")


def check_needed(name: str, columns: Sequence[str], needed: Sequence[str], copies: dict[str, str]) -> None:
    """Raise UserError if a needed column is missing.

    Args:
        name: Display name of the file.
        columns: Names of its columns.
        needed: Names that the data set needs.
        copies: Numbered name -> name of which it is a copy.
    """
    missing = [column for column in needed if column not in columns]
    if not missing:
        return
    if twice := next((original for original in copies.values() if original in needed), None):
        raise UserError(f"{name} has the column {twice!r} twice: rename or remove one.")
    shown = ", ".join(missing[:SHOWN]) + (f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
    raise UserError(f"{name} lacks {len(missing)} of the columns that the data set needs: {shown}.")


def check_given_names(names: list[str]) -> list[str]:
    """Return the names of `column_names` without blanks around them; ValueError for an empty or repeated one."""
    plain = [name.strip(AROUND) for name in names]
    if "" in plain:
        raise ValueError(f"name {plain.index('') + 1} is empty")
    lowered = [name.lower() for name in plain]
    twice = next((name for name in plain if lowered.count(name.lower()) > 1), None)
    if twice is not None:
        raise ValueError(f"the name {twice!r} stands there twice")
    return plain


def copies_note(name: str, copies: dict[str, str]) -> str:
    """Describe the columns of a file that are copies of others by name."""
    told = ", ".join(f"{original!r} again as {copy!r}" for copy, original in list(copies.items())[:SHOWN])
    return f"{name} has equal column names, which are numbered: {told}."
