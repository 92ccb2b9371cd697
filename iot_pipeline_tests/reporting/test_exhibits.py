"""Exhibits of the report: each has a number, an anchor, a source and files; hostile text makes none."""

import csv
import json
import re
from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.reporting import markdown
from iot_pipeline.reporting.exhibits import Exhibit, Numbering, exhibit_named, read_exhibits, write_exhibits
from iot_pipeline.reporting.latex import latex_table
from iot_pipeline.reporting.report import written
from iot_pipeline_tests.reporting.example_facts import make_facts
from iot_pipeline_tests.reporting.test_report import no_plots

__all__ = ["no_plots"]
LINE = "| a | b |\n| --- | ---: |\n| x<br>y | 0.5 |\n"


def numbered(text: str, *artefacts: ArtefactId) -> tuple[str, list[Exhibit]]:
    numbering = Numbering([], artefacts)
    return numbering.chapter("data", text), numbering.exhibits


def test_every_table_and_figure_of_the_report_tells_its_asset_and_is_numbered_in_order() -> None:
    _, chapters, numbering = written(make_facts())
    text = "\n".join(chapters.values())
    for kind in ("table", "figure", "number"):
        numbers = [one.number for one in numbering.exhibits if one.kind == kind]
        assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 4
        assert [int(n) for n in re.findall(rf'<a id="{kind}-(\d+)">', text)] == numbers
    assert len(re.findall(r"^\| --- ", text, re.MULTILINE)) + len(re.findall(r"^\| ---: ", text, re.MULTILINE)) == sum(
        one.kind == "table" for one in numbering.exhibits
    )
    assert [one.id for one in numbering.exhibits if not one.assets] == []
    assert [one.id for one in numbering.exhibits if not one.title] == []


def test_a_caption_gets_number_anchor_and_links_to_lineage() -> None:
    text, (made,) = numbered(f"Rows, by side. Assets: flows, raw_flows.\n\n{LINE}", ArtefactId("flows"))
    first = text.splitlines()[0]
    assert first == ('<a id="table-1"></a>**Table 1.** Rows, by side. Assets: [flows](#lineage-flows), raw_flows.')
    assert made == Exhibit("table", 1, "data", "Rows, by side.", ["flows", "raw_flows"], ["a", "b"], [["x y", "0.5"]])


def test_a_figure_keeps_the_words_of_who_cannot_see_it() -> None:
    shown = markdown.figure({"images": (images := [])}, b"", "the group's <majority>", "Rows.", "flows")  # type: ignore[arg-type]
    text = Numbering([b""], []).chapter("data", str(shown))
    assert "the group&#x27;s &lt;majority&gt;" in text and "&amp;" not in text and len(images) == 1


def test_a_partition_is_linked_to_its_own_line() -> None:
    students = [ArtefactId("eval_metrics_10K", f"2027|{track}") for track in ("original", "paraphrased")]
    cited = markdown.escape(students[1])
    text, (made,) = numbered(f"By class. Asset: {cited}.\n\n{LINE}", *students)
    assert "](#lineage-eval_metrics_10K-2027-paraphrased)" in text
    assert made.assets == [str(students[1])] and made.cites(students[1]) and not made.cites(students[0])
    assert 'href="#lineage-eval_metrics_10K-2027-paraphrased"' in markdown.to_html(text)


def test_a_table_without_a_caption_is_numbered_all_the_same() -> None:
    text, (made,) = numbered(f"## Data\n\n{LINE}")
    assert "**Table 1.**\n\n| a | b |" in text and made.assets == []


def test_text_from_data_makes_no_anchor_and_no_exhibit() -> None:
    hostile = markdown.escape('<a id="table-1"></a> | a | b | ![x](drawing:0) * **1** Asset: flows.')
    text, made = numbered(f"{hostile}\n\n> | a |\n> | --- |\n")
    assert "<a id" not in text and made == []
    assert '<a id="table-1">' not in markdown.to_html(str(hostile))


def test_tables_are_written_as_csv_and_latex(tmp_path: Path) -> None:
    made = Exhibit("table", 1, "data", "50 % of a_b.", ["flows"], ["name", "of", "of"], [["=1+1", "0.5", "–"]])
    write_exhibits([made], {}, tmp_path)
    assert read_exhibits(tmp_path) == [made]
    with (tmp_path / "tables" / "table-1.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["name", "of", "of"], ["'=1+1", "0.5", "–"]]
    tex = (tmp_path / "tables" / "table-1.tex").read_text()
    assert r"\caption{50 \% of a\_b.}" in tex and r"\label{tab:table-1}" in tex and r"\begin{tabular}{lrr}" in tex
    assert json.loads((tmp_path / "exhibits.json").read_text())[0]["id"] == "table-1"


def test_latex_prints_hostile_text_as_it_is() -> None:
    tex = latex_table("t", r"\input{/etc/passwd}", ["a"], [["$x_1$ & \x1b[0m"]])
    assert r"\textbackslash{}input\{/etc/passwd\}" in tex and r"\$x\_1\$ \& [0m" in tex


@pytest.mark.parametrize("name", ["table-2", "Table 2", "#table-2", "tab. 2", " TABLE-2 "])
def test_an_exhibit_is_found_by_any_of_its_names(name: str) -> None:
    exhibits = [Exhibit("figure", 2, "data", ""), Exhibit("table", 2, "data", "")]
    assert exhibit_named(exhibits, name) == exhibits[1]
    assert exhibit_named(exhibits, "table-3") is None and exhibit_named(exhibits, "original") is None
    assert exhibit_named(exhibits, f"table-{'9' * 5000}") is None  # int() takes 4,300 digits at most


@pytest.mark.parametrize("content", ["[", "3", '["table"]', '[{"kind": "table", "seen": 1}]'])
def test_a_list_of_exhibits_by_other_code_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "exhibits.json").write_text(content)
    with pytest.raises(UserError, match="is no list of exhibits"):
        read_exhibits(tmp_path)
