"""Marks in numbers: a decimal comma is read and announced, thousands separators are refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.rules import ReadingRules
from iot_pipeline_tests.flows.reading.tables import NAMES, TEXT, read

NEEDED = ReadingRules(needed=tuple(NAMES), label="label", texts=frozenset({"proto"}))


def table(*cells: str, other: str = "1", mark: str = ";") -> str:
    """A table whose column `a` has these cells."""
    rows = "".join(f'"{cell}"{mark}{other}{mark}{("x", "y")[n % 2]}\n' for n, cell in enumerate(cells))
    return f"a{mark}b{mark}label\n{rows}"


def rules(decimal: str | None = None) -> ReadingRules:
    """Rules of a data set that needs all three columns."""
    return ReadingRules(needed=("a", "b", "label"), label="label", decimal=decimal)


def test_a_decimal_comma_is_found_and_announced(tmp_path: Path) -> None:
    text = TEXT.replace(",", ";").replace(".", ",")
    for given_rules in (ReadingRules(), NEEDED):
        found, report = read(tmp_path, text, given_rules)
        pd.testing.assert_frame_equal(found, read(tmp_path, TEXT)[0])
        assert report.notes == ["numbers have a decimal comma, such as '0,0', and are read so: column dur."]


def test_a_file_of_decimal_commas_without_a_header_keeps_its_delimiter(tmp_path: Path) -> None:
    text = "\n".join(TEXT.replace(",", ";").replace(".", ",").splitlines()[1:]) + "\n"
    found, _ = read(tmp_path, text, ReadingRules(needed=tuple(NAMES), label="label", column_names=tuple(NAMES)))
    pd.testing.assert_frame_equal(found, read(tmp_path, TEXT)[0])


@pytest.mark.parametrize(
    ("cells", "other", "decimal", "message"),
    [
        (("1,234", "5,678"), "1", None, r"column a, data row 1: '1,234' may be two numbers: set decimal: ','"),
        (("12", "1,234"), "1", None, r"column a, data row 2: '1,234' may be two numbers"),
        (("0,5", "1.234,5"), "1", None, r"column a, data row 2: '1.234,5' has thousands separators"),
        (("1", "1,234,567"), "1", None, r"data row 2: '1,234,567' has thousands separators"),
        (("1", "12 345"), "1", None, r"data row 2: '12 345' has thousands separators"),
        (("1", "12'345.5"), "1", ",", r"data row 2: .*12'345.5.* has thousands separators"),
        (("1,234", "2"), "1", ".", r"data row 1: '1,234' may be two numbers"),
        (
            ("0,5", "1,5"),
            "1.5",
            None,
            r"column a has decimal commas \('0,5'\) and column b points \('1.5' in data row 1\)",
        ),
    ],
)
def test_marks_that_cannot_be_told_are_refused(
    tmp_path: Path, cells: tuple[str, ...], other: str, decimal: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, table(*cells, other=other), rules(decimal))


def test_the_data_set_may_say_what_a_comma_is(tmp_path: Path) -> None:
    found, _ = read(tmp_path, table("1,234", "5,678", "2"), rules(","))
    assert found["a"].tolist() == [1.234, 5.678, 2.0]


def test_a_point_where_the_data_set_says_comma_is_told(tmp_path: Path) -> None:
    found, report = read(tmp_path, table("1.234", "2"), rules(","))
    assert found["a"].tolist() == [1.234, 2.0]
    (told,) = report.notes
    assert told.startswith("decimal is ',' and column a has a point ('1.234' in data row 1): it is read as a decimal")
    assert read(tmp_path, table("1", "2"), rules(","))[1].notes == []


def test_words_beside_decimal_commas_stay_what_they_are(tmp_path: Path) -> None:
    found, _ = read(tmp_path, table("0,5", "n/a", "-", "Infinity", "7"), rules())
    assert found["a"].tolist() == ["0.5", "n/a", "-", "Infinity", "7"]


def test_a_damaged_cell_among_points_costs_no_more_than_its_row(tmp_path: Path) -> None:
    found, report = read(tmp_path, table(*["0.5"] * 30, "0,5"), rules())
    assert (found["a"].tolist()[-1], report.notes) == ("0,5", [])


def test_lists_of_ports_among_words_are_no_numbers_of_a_draft(tmp_path: Path) -> None:
    found, report = read(tmp_path, table("80,443", "any", "22,80,443"))
    assert (found["a"].tolist(), report.notes) == (["80,443", "any", "22,80,443"], [])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(-10_000, 10_000).map(lambda n: n / 8), min_size=3, max_size=8))
def test_a_comma_for_a_point_changes_no_number(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    cells = [f"{value:.4f}".replace(".", ",") for value in values]  # four decimals are no thousands
    found, _ = read(tmp_path_factory.mktemp("t"), table(*cells), rules())
    assert found["a"].tolist() == values
