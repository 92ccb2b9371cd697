"""Feature expressions: SQL from a data set file, checked to be one scalar over source columns.

DuckDB's own parser reads the text, so the checked expression is the one that runs: queries use DuckDB's rendering of
the checked tree, never the text of the file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from iot_pipeline.flows.sql import connect

if TYPE_CHECKING:
    import duckdb

MOST_CHARACTERS = 4_000
# Depth of nested operators; a sum of 100 columns reaches 100.
MOST_DEPTH = 120
# Column names that the evaluating query reserves.
OWN_COLUMNS = {"source_row", "source_label", "file_row_number"}
OPERATORS = {"+", "-", "*", "/", "//", "%", "^", "**", "||", "~~", "!~~", "~~*", "!~~*"}
FUNCTIONS = {
    "abs", "ceil", "ceiling", "floor", "round", "trunc", "sign", "sqrt", "cbrt", "exp", "ln", "log", "log2", "log10",
    "pow", "power", "mod", "add", "subtract", "multiply", "divide", "greatest", "least", "nullif", "isnan", "isinf",
    "isfinite", "length", "strlen", "lower", "upper", "trim", "ltrim", "rtrim", "left", "right", "substr", "substring",
    "position", "strpos", "instr", "replace", "contains", "starts_with", "prefix", "ends_with", "suffix", "split_part",
    "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "pi",
}  # fmt: skip
TYPES = {
    "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
    "FLOAT", "DOUBLE", "DECIMAL", "VARCHAR",
}  # fmt: skip
# Node classes allowed besides functions, columns and casts.
PLAIN_NODES = {"CONSTANT", "COMPARISON", "CONJUNCTION", "CASE", "BETWEEN"}
PLAIN_OPERATORS = {
    "OPERATOR_NOT", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE", "COMPARE_IN", "COMPARE_NOT_IN",
}  # fmt: skip
REFUSED = {
    "SUBQUERY": "a subquery", "STAR": "* or COLUMNS", "WINDOW": "a window function", "LAMBDA": "a lambda",
    "PARAMETER": "a parameter", "POSITIONAL_REFERENCE": "a column by its number", "COLLATE": "COLLATE",
}  # fmt: skip
# A column alone needs no parser, which takes 10 ms: the data sets that come with the project have hundreds of them.
COLUMN_ALONE = re.compile(r'"([^"\0\ud800-\udfff]+)"')
Node = dict[str, Any]


@dataclass(frozen=True)
class Expression:
    """A checked expression: its SQL, and the source columns that it reads, in order of first use."""

    sql: str
    columns: tuple[str, ...]


@cache
def parse_expression(text: str) -> Expression:
    """Parse and check an expression; ValueError says in one clause why it is not a scalar over columns."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters; an expression has at most {MOST_CHARACTERS:,}")
    if alone := COLUMN_ALONE.fullmatch(text):
        _check_column(alone[1])
        return Expression(text, (alone[1],))
    tree, printed = _parse(text)
    query = tree["statements"][0]["node"] if len(tree["statements"]) == 1 else {}
    chosen = query.get("select_list", [])
    if len(chosen) != 1 or chosen[0]["alias"] or not _is_bare(query):
        raise ValueError("it is not one expression: a comma, an alias, a clause or a statement follows")
    nodes = list(_nodes(chosen[0]))
    for node in nodes:
        _check(node)
    columns = dict.fromkeys(node["column_names"][0] for node in nodes if node["class"] == "COLUMN_REF")
    return Expression(printed, tuple(columns))


@cache
def _parser(process: int) -> duckdb.DuckDBPyConnection:
    """Return this process's connection for parsing; opening one takes 80 ms."""
    return connect()


def _parse(text: str) -> tuple[Node, str]:
    """Parse `SELECT text`; return DuckDB's tree and its rendering of the text without SELECT."""
    import duckdb

    if re.search("[\0\ud800-\udfff]", text):
        raise ValueError("it holds a character of no text")
    try:
        with _parser(os.getpid()).cursor() as connection:
            written = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT {text}"]).fetchall()[0][0]
            tree = json.loads(written)
            if tree["error"]:
                if tree["error_type"] == "not implemented":
                    raise ValueError("it holds a statement that is not a SELECT")
                raise ValueError(f"it is not DuckDB SQL: {tree['error_message'].splitlines()[0]}")
            printed = connection.execute("SELECT json_deserialize_sql(?)", [written]).fetchall()[0][0]
    except (duckdb.Error, RecursionError) as error:
        raise ValueError("DuckDB cannot parse it: it is nested too deeply or holds characters of no SQL") from error
    return tree, printed.removeprefix("SELECT ")


def _is_bare(query: Node) -> bool:
    """Return True if a query has a select list and nothing else."""
    further = ("modifiers", "where_clause", "group_expressions", "group_sets", "having", "qualify", "sample")
    return (
        query["type"] == "SELECT_NODE" and query["from_table"]["type"] == "EMPTY" and not query["cte_map"]["map"]
        and not any(query[name] for name in further)
    )  # fmt: skip


def _nodes(tree: Any, depth: int = 0) -> Iterator[Node]:
    """Yield every expression node of a tree."""
    if isinstance(tree, dict):
        if "class" in tree:
            depth += 1
            if depth > MOST_DEPTH:
                raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
            yield tree
        for part in tree.values():
            yield from _nodes(part, depth)
    elif isinstance(tree, list):
        for part in tree:
            yield from _nodes(part, depth)


def _check(node: Node) -> None:
    """Raise ValueError for a node that is not on the lists above."""
    kind = node["class"]
    if node["alias"]:
        raise ValueError(f"it names an argument or a part: {node['alias']}")
    if kind == "COLUMN_REF":
        if len(node["column_names"]) != 1:
            raise ValueError(f"it names {'.'.join(node['column_names'])}: put a column with a point in double quotes")
        _check_column(node["column_names"][0])
    elif kind == "FUNCTION":
        _check_function(node)
    elif kind == "CAST":
        if node["cast_type"]["id"] not in TYPES:
            raise ValueError("it casts to a type other than a number, BOOLEAN or VARCHAR")
    elif kind == "OPERATOR":
        if node["type"] not in PLAIN_OPERATORS:
            raise ValueError(f"it uses {node['type'].replace('_', ' ').lower()}")
    elif kind not in PLAIN_NODES:
        raise ValueError(f"it holds {REFUSED.get(kind, kind.replace('_', ' ').lower())}")


def _check_column(name: str) -> None:
    """Raise ValueError for a column that the evaluating query reserves."""
    if name.lower() in OWN_COLUMNS:
        raise ValueError(f"it reads {name}, a column of the pipeline's own")


def _check_function(node: Node) -> None:
    """Raise ValueError for a function that is not listed, or a call with extra clauses (FILTER, DISTINCT, ...)."""
    name = node["function_name"]
    if name.lower() not in (OPERATORS if node["is_operator"] else FUNCTIONS):
        raise ValueError(f"it calls {name}; use arithmetic, CASE, CAST and {', '.join(sorted(FUNCTIONS))}")
    if node["filter"] or node["order_bys"]["orders"] or node["distinct"] or node["schema"] or node["catalog"]:
        raise ValueError(f"it calls {name} with more than arguments")
    if name.lower() == "replace" and not _shortens(node["children"]):
        raise ValueError("the last two arguments of replace must be texts, the last one no longer than the other")


def _shortens(arguments: list[Node]) -> bool:
    """Return True if a call of replace cannot lengthen a text: nested calls that do could fill the memory."""
    texts = [argument["value"]["value"] for argument in arguments[1:] if argument["class"] == "CONSTANT"]
    return len(texts) == 2 and all(isinstance(text, str) for text in texts) and len(texts[1]) <= len(texts[0])
