"""Expressions of data set files: one scalar over columns, whatever else is written into them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.expression import parse_expression
from iot_pipeline.flows.source import read_source
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.sql import connect
from iot_pipeline_tests.quality.factories import made_spec

CONNECTION = connect()
COLUMNS = ['"a"', '"b.c"', '"d"']


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("0.0", []),
        ('"fwd.tot" + 20 * "pkts"', ["fwd.tot", "pkts"]),
        ("""CASE WHEN "proto" = 'say "x"' THEN 1 ELSE 0 END""", ["proto"]),
        ('coalesce(try_cast("a" AS DOUBLE), nullif("b", 0), ifnull("c", 1))', ["a", "b", "c"]),
        ("""replace(lower("a"), ',', '')::DOUBLE""", ["a"]),
        ('"a" IN (1, 2) AND NOT "b" BETWEEN 1 AND 2 OR "c" IS NULL', ["a", "b", "c"]),
        ('round(ln(greatest(abs("a"), 1e-9)), 3) -- the logarithm', ["a"]),
    ],
)
def test_a_scalar_is_taken_with_its_columns(text: str, columns: list[str]) -> None:
    assert list(parse_expression(text).columns) == columns


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1; SELECT 2", "not one expression"),
        ("1) AS x FROM cells; COPY (SELECT 1) TO 'x.csv'; SELECT (1", "syntax error"),
        ("1; COPY (SELECT 1) TO 'x.csv'", "a statement that is not a SELECT"),
        ("1, 2", "not one expression"),
        ("1 AS x", "not one expression"),
        ("1 FROM read_text('/etc/hostname')", "not one expression"),
        ("1 UNION SELECT 2", "not one expression"),
        ("1 ORDER BY 1", "not one expression"),
        ("(SELECT content FROM read_text('/etc/hostname'))", "a subquery"),
        ('"a" IN (SELECT 1)', "a subquery"),
        ("*", r"\* or COLUMNS"),
        ("COLUMNS('.*')", r"\* or COLUMNS"),
        ('sum("a")', "it calls sum"),
        ("row_number() OVER ()", "a window function"),
        ("list_transform([1], x -> x)", "it calls list_transform"),
        ("getenv('HOME')", "it calls getenv"),
        ("current_setting('threads')", "it calls current_setting"),
        ("random()", "it calls random"),
        ('abs(DISTINCT "a")', "with more than arguments"),
        ('main.abs("a")', "with more than arguments"),
        ("a.b", "put a column with a point in double quotes"),
        ('"a"::JSON', "casts to a type"),
        ("$1", "a parameter"),
        ("source_label", "a column of the pipeline's own"),
        ('"Source_Row"', "a column of the pipeline's own"),
        ("replace(replace('aa', 'a', 'aaaaaaaa'), 'a', 'aaaaaaaa')", "no longer than the other"),
        ("", "not DuckDB SQL"),
        ("1\0; DROP TABLE cells", "a character of no text"),
        ("'\ud800'", "a character of no text"),
        ("+".join(["1"] * 200), "nested more than 120 deep"),
        ("+".join(["1"] * 500), "nested too deeply"),
        ("+".join(["1"] * 1999), "depth limit"),
        ("1" * 5000, "at most 4,000"),
    ],
)
def test_anything_else_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        parse_expression(text)
    assert "\n" not in str(caught.value)


def scalars() -> st.SearchStrategy[str]:
    """Expressions of what is allowed."""
    numbers = st.one_of(
        st.integers(0, 10**12).map(str), st.floats(0, 1e12).map(repr), st.decimals(0, 9, places=5).map(str)
    )
    return st.recursive(
        st.one_of(numbers, st.sampled_from(COLUMNS)),
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "%"]), inner).map(" ".join),
            inner.map(lambda one: f"({one})"),
            inner.map(lambda one: f"abs(- {one})"),
            st.tuples(inner, inner).map(lambda two: f"CASE WHEN {two[0]} > {two[1]} THEN {two[0]} END"),
            st.tuples(inner, inner).map(lambda two: f"coalesce({two[0]}, {two[1]})"),
        ),
        max_leaves=8,
    )


@settings(max_examples=60, deadline=None)
@given(scalars())
def test_what_runs_has_the_value_of_what_is_written(text: str) -> None:
    row = 'FROM (SELECT 3.5::DOUBLE AS "a", -2::DOUBLE AS "b.c", 1e9::DOUBLE AS "d")'
    written, run = (
        str(CONNECTION.execute(f"SELECT TRY(TRY_CAST({sql} AS DOUBLE)) {row}").fetchall())
        for sql in (text, parse_expression(text).sql)
    )
    assert run == written


PIECES = [
    "1",
    '"a"',
    ")",
    "(",
    ";",
    ",",
    "--",
    "/*",
    "*/",
    "'",
    '"',
    "$$",
    "\n",
    " AS x ",
    " AS DOUBLE) AS e0 FROM cells",
    "COPY (SELECT 1) TO 'WRITTEN.txt'",
    "ATTACH 'WRITTEN.db'",
    "(SELECT content FROM read_text('secret.txt'))",
    "FROM read_csv('secret.txt')",
    "SELECT ",
    "UNION ALL ",
    "getenv('HOME')",
    "INSTALL httpfs",
    "SET threads = 1",
    "CREATE OR REPLACE TEMP TABLE featured AS SELECT 1",
    "EXPORT DATABASE 'WRITTEN'",
    "PRAGMA x",
    "source_label",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), min_size=1, max_size=8).map("".join))
def test_a_hostile_expression_touches_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text("secret")
    try:
        found = parse_expression(text)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        # What is taken reads columns alone, and its text is taken again as it was printed.
        assert parse_expression(found.sql).sql == found.sql
        assert not {"source_label", "source_row"} & {column.lower() for column in found.columns}
    assert [path.name for path in tmp_path.iterdir()] == ["secret.txt"]


def test_a_connection_opens_what_it_is_given_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "given.csv").write_text("x\n1\n")
    (tmp_path / "other.csv").write_text("x\n2\n")
    with connect(tmp_path / "given.csv") as connection:
        assert connection.execute(f"SELECT x FROM read_csv('{tmp_path}/given.csv')").fetchall() == [(1,)]
        for query in (
            f"SELECT * FROM read_csv('{tmp_path}/other.csv')", f"COPY (SELECT 1) TO '{tmp_path}/given.csv'",
            f"COPY (SELECT 1) TO '{tmp_path}/new.csv'", f"ATTACH '{tmp_path}/new.db'", "SELECT * FROM glob('/*')",
            "SET enable_external_access = true", "SET allowed_paths = ['/']", "INSTALL httpfs", "LOAD httpfs",
        ):  # fmt: skip
            with pytest.raises(Exception, match=r"disabled (by|through) configuration|has been locked"):
                connection.execute(query).fetchall()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.csv", "other.csv"]


def test_folders_that_look_like_partitions_and_names_like_patterns_change_nothing(tmp_path: Path) -> None:
    spec = load_spec("farm_flow")
    folder = tmp_path / "run=3" / "it's[1]"
    folder.mkdir(parents=True)
    row = ["0.5"] * len(spec.feature_names)
    (folder / "t*[a].csv").write_text(f"{','.join(spec.feature_names)},traffic\n{','.join(row)},0\n")
    assert "run" not in read_source(spec, str(folder / "t*[a].csv"), folder / "raw.parquet").columns
    assert build_flows(spec, folder / "raw.parquet", folder / "flows.parquet").rows_kept == 1


def test_a_copy_of_the_label_is_no_feature(tmp_path: Path) -> None:
    import pandas as pd

    from iot_pipeline.errors import UserError

    raw = pd.DataFrame({"is_attack": [0, 1, 1, 0], "a": [1, 2, 3, 4], "kind": [0, 1, 2, 0]})
    raw.to_parquet(tmp_path / "raw.parquet")
    features = [{"name": "e", "unit": "", "meaning": "m", "expression": '"a" + "is_attack"'}]
    with pytest.raises(UserError, match="feature e of data set made reads is_attack, which is the label kind in other"):
        build_flows(made_spec(features=features), tmp_path / "raw.parquet", tmp_path / "flows.parquet")
    raw.assign(is_attack=[0, 1, 0, 1]).to_parquet(tmp_path / "raw.parquet")
    assert build_flows(made_spec(features=features), tmp_path / "raw.parquet", tmp_path / "f").rows_kept == 4
