"""A key that stands twice in an object hides a value from some readers: tables, logs and the service refuse it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.names import one_value_each
from iot_pipeline.flows.reading.rules import ReadingRules
from iot_pipeline.flows.rows import _text
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.serving.lines import Header
from iot_pipeline.serving.server.pasted import read_flows
from iot_pipeline_tests.flows.reading.tables import read

RULES = ReadingRules(needed=["rate", "proto"])
GOOD = [json.dumps({"rate": n / 4, "proto": "tcp", "note": {"a": n}}) for n in range(40)]
TWICE = {
    '{"rate": 1, "proto": "tcp", "rate": 2}': "the key 'rate' stands twice",
    '{"rate": 1, "proto": "tcp", "r\\u0061te": 1}': "the key 'rate' stands twice",
    '{"rate": 1, "proto": "tcp", "x": 1, "x": 2}': "a key stands twice",
}


@pytest.mark.parametrize(("line", "reason"), TWICE.items())
def test_a_line_that_names_a_key_twice_is_no_row(line: str, reason: str, tmp_path: Path) -> None:
    table, report = read(tmp_path, "\n".join([*GOOD[:3], line, *GOOD[3:]]), RULES, "t.jsonl", share=0.1)
    assert len(table) == len(GOOD) and report.rejected == {reason: 1}
    with pytest.raises(UserError, match=reason):
        read(tmp_path, line + "\n", RULES, "alone.jsonl", share=1.0)


def test_what_stands_twice_within_a_cell_is_the_cells_own_matter(tmp_path: Path) -> None:
    line = '{"rate": 1, "proto": "tcp", "note": {"a": 1, "a": 2}}'
    table, report = read(tmp_path, "\n".join([*GOOD, line]), RULES, "t.jsonl")
    assert len(table) == len(GOOD) + 1 and report.rejected == {}


def test_a_key_in_another_case_does_not_give_its_value(tmp_path: Path) -> None:
    lines = [json.dumps({"rate": n / 4, "proto": "tcp", "Rate": n, "a/b~c": n, "A/b~c": 2 * n}) for n in range(40)]
    table, _ = read(tmp_path, "\n".join(lines), RULES, "t.jsonl")
    assert table["rate"].tolist() == [n / 4 for n in range(40)] and table["Rate.1"].tolist() == list(range(40))
    assert table["A/b~c"].tolist() == list(range(0, 80, 2)) and table["a/b~c.1"].tolist() == list(range(40))
    either = "\n".join(json.dumps({"RATE": n, "proto": "tcp", "Rate": n + 1}) for n in range(40))
    with pytest.raises(UserError, match="the column 'rate' twice, with other values in 40 rows"):
        read(tmp_path, either, RULES, "either.jsonl")


def test_a_key_that_no_line_has_is_told_with_the_file(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"rate": n, "note": "x"}) for n in range(40))
    with pytest.raises(UserError, match=r"t\.jsonl lacks 1 of the columns that the data set needs: proto"):
        read(tmp_path, lines, RULES, "t.jsonl")


def test_a_category_is_a_word_in_a_table_as_it_is_in_a_row(tmp_path: Path) -> None:
    given = [6.0, 6, "6.0", -0.0, 1.5, 1e20, True, "tcp", 2**70, 1e-7]
    lines = "\n".join(json.dumps({"rate": 1, "proto": value}) for value in given)
    table, _ = read(tmp_path, lines, ReadingRules(needed=("rate", "proto"), texts=frozenset(["proto"])), "t.jsonl")
    assert table["proto"].tolist() == [_text(value) for value in given]


def test_a_comma_too_many_and_a_long_number_are_read_beside_a_broken_line(tmp_path: Path) -> None:
    odd = [
        '{"rate": 1, "proto": "tcp",}',
        '{"rate": 1, "proto": "tcp", "note": [1,]}',
        '{"rate": 1, "proto": "udp", "x": ',
    ]
    odd[2] += "9" * 5000 + "}"
    table, report = read(tmp_path, "\n".join([*GOOD, *odd, "{broken"]), RULES, "t.jsonl", share=0.1)
    assert len(table) == len(GOOD) + 3 and report.rejected == {"not an object of JSON": 1}


def test_a_line_of_a_log_is_not_joined_by_the_one_uid_and_read_by_the_other() -> None:
    conn = '{"uid": "C1", "id.orig_h": "10.0.0.1", "proto": "tcp", "conn_state": "SF"'
    header = Header("conn.log")
    whole, hidden = header.take(conn + "}", []), header.take(conn + ', "uid": "C2"}', [])
    assert whole and hidden and (whole.kind, hidden.kind) == ("conn", "")
    assert header.uid_of(whole) == "C1" and header.uid_of(hidden) is None


def test_what_is_pasted_is_refused_by_the_name_that_stands_twice() -> None:
    spec = load_spec("farm_flow")
    for text in (
        '{"orig_pkts": 1, "orig_pkts": 2}',
        '{"event": {"orig_pkts": 1}, "event": {"orig_pkts": 2}}',
        "What is this?\n" + '{"flows": [{"orig_pkts": 1, "orig\\u005fpkts": 1}]}',
    ):
        with pytest.raises(UserError, match=r"the key '(orig_pkts|event)' stands twice"):
            read_flows(text, spec)
    named = ",".join([*spec.feature_names, "orig_pkts"])
    cells = ["1"] * len(spec.feature_names)
    (row,) = read_flows(f"{named}\n{','.join([*cells, '1'])}\n", spec)
    assert row["orig_pkts"] == "1"
    with pytest.raises(UserError, match="the column 'orig_pkts' stands twice, with different cells"):
        read_flows(f"{named}\n{','.join([*cells, '2'])}\n", spec)


@pytest.mark.parametrize("pairs", [[], [("a", 1), ("A", 2)], [("a", {"b": 1}), ("b", {"b": 1})]])
def test_keys_that_stand_once_are_an_object(pairs: list[tuple[str, Any]]) -> None:
    assert one_value_each(pairs) == dict(pairs)
