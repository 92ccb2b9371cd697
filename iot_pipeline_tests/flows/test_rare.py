"""Rare classes are grouped or left out as the spec says, told, and never silently on fewer sides than the others."""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import FlowsReport
from iot_pipeline.flows.rare import RARE, treat_rare, with_kept_classes
from iot_pipeline.flows.rare_rule import RareClasses
from iot_pipeline.flows.spec import DatasetSpec, load_spec
from iot_pipeline.flows.split import split_by_group
from iot_pipeline.vocabulary import SIDES
from iot_pipeline_tests.flows.test_split import flows_table

REPORT = FlowsReport(rows_in=0, rows_kept=0, rejected={}, left_out={}, rows_by_class={}, distinct_groups=0)


def spec_of(classes: str, rule: RareClasses | None = None) -> DatasetSpec:
    """A data set with one-letter classes."""
    return load_spec("rt_iot2022").model_copy(update={"classes": list(classes), "labels": {}, "rare_classes": rule})


def rows_of(**groups: int) -> list[tuple[int, str]]:
    """Rows (group, label): as many distinct flows of each class, each twice."""
    pairs = [(label, number) for label, many in groups.items() for number in range(many)]
    return [(place, label) for place, (label, _) in enumerate(pairs)] * 2


def test_a_rare_class_without_a_rule_is_one_error_that_names_counts_and_key(tmp_path: Path) -> None:
    flows = flows_table(tmp_path / "flows.parquet", rows_of(a=9, b=3, c=1))
    before = flows.read_bytes()
    with pytest.raises(
        UserError, match=r"2 classes have too few distinct flows.*b \(3 distinct of 6 rows\), c \(1 "
    ) as told:
        treat_rare(spec_of("abc"), flows, REPORT)
    assert "`rare_classes: {minimum: 1, then: group, into: Rare}`" in str(told.value)
    assert "\n" not in str(told.value) and flows.read_bytes() == before
    lines: list[str] = []
    _, outcome = treat_rare(spec_of("abc"), flows, REPORT, log=lines.append, tolerated=True)  # simulated flows
    assert outcome.classes == ["a", "b", "c"] and "were kept: b" in lines[0]


def test_a_table_without_rare_classes_stays_as_it_is(tmp_path: Path) -> None:
    flows = flows_table(tmp_path / "flows.parquet", rows_of(a=4, b=9))
    before = flows.read_bytes()
    assert treat_rare(spec_of("ab"), flows, REPORT)[0] is REPORT
    assert flows.read_bytes() == before and not (tmp_path / RARE).exists()


def test_grouped_classes_become_one_that_labels_lead_to(tmp_path: Path) -> None:
    rule = RareClasses(minimum=2, then="group", into="Rare")
    spec = spec_of("abcd", rule).model_copy(update={"labels": {3: "c"}})
    flows, lines = flows_table(tmp_path / "flows.parquet", rows_of(a=9, b=8, c=5, d=4)), list[str]()
    report, _ = treat_rare(spec, flows, REPORT, log=lines.append)
    assert report.rows_by_class == {"a": 18, "b": 16, "Rare": 18} and report.rows_kept == 52
    assert lines == [
        "Classes with too few distinct flows for every side of the split, 8 at least, were grouped into "
        "Rare: c (5 distinct of 10 rows), d (4 distinct of 8 rows)."
    ]
    kept = with_kept_classes(spec, tmp_path)
    assert kept.classes == ["a", "b", "Rare"]
    assert [kept.label_of(text) for text in ("a", "c", "d", 3)] == ["a", "Rare", "Rare", "Rare"]
    assert with_kept_classes(spec, tmp_path / "none") == spec


def test_classes_left_out_are_counted_and_their_labels_known_as_absent(tmp_path: Path) -> None:
    spec = spec_of("abcd", RareClasses(then="leave_out"))
    rows = [*rows_of(a=9, b=5, c=2), (0, "c")]  # the flow of group 0 is labelled c once
    report, _ = treat_rare(spec, flows_table(tmp_path / "flows.parquet", rows), REPORT)
    assert report.left_out == {"c": 5} and report.rows_by_class == {"a": 18, "b": 10}
    assert {item["name"]: item["rows"] for item in json.loads((tmp_path / RARE).read_text())["rare"]} == {
        "c": 5,
        "d": 0,
    }
    table = pd.read_parquet(tmp_path / "flows.parquet")
    assert table["row_id"].tolist() == list(range(28)) and table.groupby("flow_group")["occurrence"].min().max() == 0
    kept = with_kept_classes(spec, tmp_path)
    assert kept.classes == ["a", "b"] and kept.absent_classes[-2:] == ["c", "d"] and kept.label_of("c") == "c"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            RareClasses(minimum=2, then="group", into="Rare"),
            "grouped into Rare, the rare classes have 4 distinct flows",
        ),
        (RareClasses(minimum=3, then="leave_out"), "fewer than 2 classes have 12 distinct flows or more"),
    ],
)
def test_a_rule_that_leaves_nothing_usable_is_refused(tmp_path: Path, rule: RareClasses, message: str) -> None:
    flows = flows_table(tmp_path / "flows.parquet", rows_of(a=20, b=9, c=4))
    with pytest.raises(UserError, match=message):
        treat_rare(spec_of("abc", rule), flows, REPORT)


def test_a_publishers_test_side_counts_by_itself(tmp_path: Path) -> None:
    flows = flows_table(tmp_path / "flows.parquet", rows_of(a=9, b=9, c=9))
    tests = tmp_path / "test.parquet"
    pd.DataFrame({"row_id": [0, 10, 20]}).to_parquet(tests)  # a, b and c
    treat_rare(spec_of("abc"), flows, REPORT, tests)
    pd.DataFrame({"row_id": [0, 10]}).to_parquet(tests)
    with pytest.raises(UserError, match=r"a class has too few .*: c \(9 distinct"):
        treat_rare(spec_of("abc"), flows, REPORT, tests)
    treat_rare(spec_of("abc", RareClasses(then="leave_out")), flows, REPORT, tests)
    assert pd.read_parquet(tests)["row_id"].tolist() == [0, 10] and len(pd.read_parquet(flows)) == 36


def test_rows_that_repeat_a_publishers_test_flow_are_counted_as_left_out_with_their_class(tmp_path: Path) -> None:
    rows = [*rows_of(a=9, b=9), (50, "c"), (50, "c"), (50, "c"), (51, "c")]  # row 37 and 38 repeat the tested row 36
    flows, tests = flows_table(tmp_path / "flows.parquet", rows), tmp_path / "test.parquet"
    pd.DataFrame({"row_id": [0, 10, 36]}).to_parquet(tests)
    report, _ = treat_rare(spec_of("abc", RareClasses(then="leave_out")), flows, REPORT, tests)
    assert report.left_out == {"c": 4} and report.rows_kept == len(rows) - 4


ROWS = st.lists(st.tuples(st.integers(0, 40), st.sampled_from("aaabbbccdef")), min_size=40, max_size=200)


@settings(max_examples=8, deadline=None)
@given(ROWS, st.integers(1, 3), st.sampled_from(["group", "leave_out"]))
def test_every_class_kept_has_its_minimum_on_every_side(rows: list[tuple[int, str]], minimum: int, then: str) -> None:
    rule = RareClasses(minimum=minimum, then=then, into="Rare" if then == "group" else None)  # type: ignore[arg-type]
    with TemporaryDirectory() as name:
        flows = flows_table(Path(name) / "flows.parquet", rows)
        try:
            report, outcome = treat_rare(spec_of("abcdef", rule), flows, replace(REPORT, rows_in=len(rows)))
        except UserError:
            return
        split = split_by_group(flows, Path(name) / "records.parquet", seed=7, least=minimum)
        assert min(split.groups_by_class[side].get(label, 0) for side in SIDES for label in outcome.classes) >= minimum
        lost = len(rows) - len(pd.read_parquet(flows))
        assert lost == sum(report.left_out.values())
