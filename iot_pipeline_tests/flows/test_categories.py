"""Categories: what a value may be, and its way from the table into texts and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.commands.datasets import check
from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import FlowsReport, build_flows
from iot_pipeline.flows.categories import printed_category
from iot_pipeline.flows.distance import printed_codes
from iot_pipeline.flows.scaling import fit_scaling
from iot_pipeline.flows.serialise import SERIALISATIONS, group_id, parse_text, serialisation_of
from iot_pipeline.flows.source import read_source
from iot_pipeline.flows.spec import DatasetSpec, load_spec
from iot_pipeline.flows.split import split_by_group
from iot_pipeline.flows.texts import FlowTextWriter, RankTable, fit_ranks
from iot_pipeline_tests.flows.category_table import NUMBERS, connections, loaded, write_spec

CELLS = st.text(min_size=1, max_size=12).filter(lambda text: text.strip() != "")
HOSTILE = st.sampled_from(["-", "no info", "a: b", "</s>", "[INST]", "`x` = 1", "x.", ".5", "+6", "6", "p97", "83%"])


def with_features(*more: dict[str, object]) -> list[object]:
    return [*({"name": name, "unit": "", "meaning": ""} for name in NUMBERS), *more]


def category(name: str = "proto", **keys: object) -> dict[str, object]:
    return {"name": name, "kind": "category", "unit": "", "meaning": "m", **keys}


def build(folder: Path, spec: DatasetSpec, cells: dict[str, object], share: float = 0.0) -> FlowsReport:
    """Build flows.parquet from a table that has the given columns beside zeros."""
    rows = len(next(iter(cells.values())))  # type: ignore[call-overload]
    columns = {name: [0] * rows for name in NUMBERS} | {"label": ["normal", "smurf"] * (rows // 2 + 1)} | cells
    columns["label"] = columns["label"][:rows]
    pq.write_table(pa.table(columns), folder / "raw.parquet")
    return build_flows(spec, folder / "raw.parquet", folder / "flows.parquet", max_rejected_share=share)


@settings(max_examples=200, deadline=None)
@given(CELLS | HOSTILE)
def test_a_value_is_one_word_that_can_be_turned_back(cell: str) -> None:
    word = printed_category(cell)
    assert unquote(word) == cell
    assert not set(word) & set(" \t\n:;,()'\"`<>[]|=*?!") and not word.startswith(".") and not word.endswith(".")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS | HOSTILE, CELLS | HOSTILE), min_size=1, max_size=5), st.data())
def test_every_serialisation_is_read_back(pairs: list[tuple[str, str]], data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(SERIALISATIONS))
    features = [category("conn.a"), *with_features(), category("conn.b")]
    spec = connections(features=features)
    numbers = data.draw(st.lists(st.integers(-999, 999), min_size=len(NUMBERS), max_size=len(NUMBERS)))
    counts = {"conn.a": {printed_category(a): 1 for a, _ in pairs}, "conn.b": {}}
    ranks = RankTable(len(pairs), {name: [0.0] for name in NUMBERS}, {name: [len(pairs)] for name in NUMBERS}, counts)
    for a, b in pairs:
        words = printed_category(a), printed_category(b)
        text = FlowTextWriter(spec, kind, ranks).text([words[0], *numbers, words[1]])
        read = parse_text(text)
        assert serialisation_of(text) == kind
        assert [name for name, _, _ in read] == spec.feature_names
        assert (read[0][1], read[-1][1]) == words
        assert [float(value) for _, value, _ in read[1:-1]] == numbers
        if kind == "ranked":
            assert read[0][2] == ranks.place("conn.a", words[0]) and read[-1][2] == "0%"


def test_a_table_goes_through_to_texts(tmp_path: Path) -> None:
    spec, file = loaded(tmp_path, 200)
    raw, flows, records = (tmp_path / f"{name}.parquet" for name in ("raw", "flows", "records"))
    read_source(spec, str(file), raw)
    report = build_flows(spec, raw, flows)
    assert report.rows_kept == 200 and report.rejected == {}
    split_by_group(flows, records)
    ranks = fit_ranks(spec, flows, records)
    assert sum(ranks.counts["proto"].values()) == ranks.rows
    assert set(ranks.counts["service"]) <= {"http", "dns", "-", "private", "ecr_i", "other", "x11/6", "3pc"}
    table = pq.read_table(flows).to_pandas()
    values = FlowTextWriter(spec, "values").texts(table)
    assert [group_id(text) for text in values] == table["flow_group"].tolist()
    ranked = FlowTextWriter(spec, "ranked", ranks)
    assert ranked.texts(table)[0] == ranked.text(table.loc[0, spec.feature_names].tolist())
    assert ranked.texts(table)[0].startswith(
        f"proto = {table['proto'][0]} {ranks.share('proto', table['proto'][0])}%\n"
    )
    ranked.save(tmp_path)
    assert FlowTextWriter.load(tmp_path, spec).texts(table) == ranked.texts(table)
    (codes,) = printed_codes(spec, table)
    assert (codes[:, 0] == codes[0, 0]).tolist() == (table["proto"] == table["proto"][0]).tolist()


def test_scales_are_fitted_on_numbers_alone(tmp_path: Path) -> None:
    spec, file = loaded(tmp_path, 80, scaling="train_pool")
    raw, flows, records = (tmp_path / f"{name}.parquet" for name in ("raw", "flows", "records"))
    read_source(spec, str(file), raw)
    build_flows(spec, raw, flows)
    split_by_group(flows, records)
    fitted = fit_scaling(spec, flows, records)
    assert set(fitted.fitted_scales) == set(NUMBERS)
    text = FlowTextWriter(fitted, "compact").texts(pq.read_table(flows))[0]
    assert parse_text(text)[0][1] == pq.read_table(flows)["proto"][0].as_py()


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["6", "17", " 6 "], ["6", "17", "6"]),
        (["6.0", "007", "6"], ["6.0", "007", "6"]),  # a text is a text
        ([6.0, 17.5, 1.0], ["6", "17.5", "1"]),
        ([6, 17, 6], ["6", "17", "6"]),
        ([True, False, True], ["true", "false", "true"]),
        (["no info", "Ünï.é", "a:b"], ["no%20info", "Ünï.é", "a%3Ab"]),
    ],
)
def test_cells_are_printed_as_given(tmp_path: Path, cells: list[object], words: list[str]) -> None:
    spec = connections(features=with_features(category()))
    build(tmp_path, spec, {"proto": cells})
    assert pq.read_table(tmp_path / "flows.parquet")["proto"].to_pylist() == words


def test_a_csv_keeps_the_spelling_of_numbers_in_a_category(tmp_path: Path) -> None:
    spec = connections(
        features=with_features(category(), {"name": "next", "unit": "", "meaning": "", "expression": '"proto" + 1'})
    )
    lines = [",".join([*NUMBERS, "proto", "label"])]
    lines += [",".join(["0"] * len(NUMBERS) + [code, label]) for code, label in (("06", "normal"), ("17", "smurf"))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    read_source(spec, str(tmp_path / "t.csv"), tmp_path / "raw.parquet")
    build_flows(spec, tmp_path / "raw.parquet", tmp_path / "flows.parquet")
    flows = pq.read_table(tmp_path / "flows.parquet")
    assert flows["proto"].to_pylist() == ["06", "17"] and flows["next"].to_pylist() == [7.0, 18.0]


def test_an_expression_gives_the_text(tmp_path: Path) -> None:
    kind = category(
        "kind", expression="""CASE WHEN "code" = 6 THEN 'tcp' WHEN "code" = 17 THEN 'udp' END""", blank="other"
    )
    build(
        tmp_path,
        connections(features=with_features(kind, category("code", expression='"code"'))),
        {"code": [6.0, 17.0, 1.0]},
    )
    flows = pq.read_table(tmp_path / "flows.parquet")
    assert flows["kind"].to_pylist() == ["tcp", "udp", "other"] and flows["code"].to_pylist() == ["6", "17", "1"]


@pytest.mark.parametrize("blank", [None, " ", ""])
def test_a_blank_is_a_value_only_if_the_spec_names_one(tmp_path: Path, blank: str | None) -> None:
    cells = {"proto": ["tcp", blank, "-", "udp"]}
    spec = connections(features=with_features(category()))
    with pytest.raises(UserError, match=r"missing value in proto \(1 rows\), first in data row 2"):
        build(tmp_path, spec, cells)
    assert build(tmp_path, spec, cells, share=0.5).rejected == {"missing value in proto": 1}
    report = build(tmp_path, connections(features=with_features(category(blank="none"))), cells)
    assert report.rejected == {}
    assert pq.read_table(tmp_path / "flows.parquet")["proto"].to_pylist() == ["tcp", "none", "-", "udp"]


def test_a_number_that_is_missing_is_told_whatever_the_categories_are(tmp_path: Path) -> None:
    spec = connections(features=with_features(category(blank="none")))
    cells = {"proto": ["tcp", None, "udp"], "count": ["1", "x", "2"]}
    with pytest.raises(UserError, match="not a number in count"):
        build(tmp_path, spec, cells)


def test_too_many_values_and_too_long_ones_are_refused(tmp_path: Path) -> None:
    spec = connections(features=with_features(category()))
    with pytest.raises(UserError, match="category proto of data set connections has 1,001 different values"):
        build(tmp_path, spec, {"proto": [f"v{n}" for n in range(1001)]})
    with pytest.raises(UserError, match=r"category proto: the value 'x+'\.\.\. in data row 2 has 65 characters"):
        build(tmp_path, spec, {"proto": ["tcp", "x" * 65]})


@pytest.mark.parametrize(
    ("feature", "why"),
    [
        (category(scale={"kind": "zscore", "mean": 0, "std": 1}), "is a category, which has no scale"),
        ({"name": "x", "unit": "", "meaning": "", "blank": "none"}, "only a category has a value for blanks"),
        (category(kind="text"), "'number' or 'category'"),
        (category(blank=" "), "at least 1 character"),
        (category(expression='"label"'), "the label column"),
    ],
)
def test_a_wrong_category_is_an_error_of_the_spec(tmp_path: Path, feature: dict[str, object], why: str) -> None:
    file = write_spec(tmp_path / "s.yaml", features=[*with_features(), category("a"), category("b"), feature])
    with pytest.raises(UserError, match=why):
        load_spec(file)


@pytest.mark.parametrize(
    ("evidence", "why"),
    [
        ({"feature": "proto", "value": "tcp", "why": "w"}, ""),
        ({"feature": "proto", "direction": "above", "why": "w"}, "proto is a category: its evidence is a value"),
        ({"feature": "count", "value": "tcp", "why": "w"}, "count is a number: its evidence is a direction"),
        ({"feature": "count", "why": "w"}, "either direction"),
    ],
)
def test_the_evidence_of_a_category_is_a_value(evidence: dict[str, str], why: str) -> None:
    make: Callable[[], DatasetSpec] = lambda: connections(expected_evidence={"smurf": [evidence]})  # noqa: E731
    if not why:
        assert make().expected_evidence["smurf"][0].value == "tcp"
        return
    with pytest.raises(ValueError, match=why):
        make()


def test_a_file_adds_features_to_those_it_inherits(tmp_path: Path) -> None:
    write_spec(tmp_path / "base.yaml")
    child = tmp_path / "child.yaml"
    more = "[{name: state, kind: category, unit: '', meaning: m}]"
    child.write_text(f"extends: {tmp_path / 'base.yaml'}\nname: child\nmore_features: {more}\n")
    assert load_spec(child).feature_names == [*connections().feature_names, "state"]
    child.write_text(f"extends: {tmp_path / 'base.yaml'}\nname: child\nmore_features: {more}\nfeatures: []\n")
    with pytest.raises(UserError, match="more_features must be a list, and stand without features"):
        load_spec(child)


def test_datasets_check_counts_the_values_of_categories(tmp_path: Path) -> None:
    _, file = loaded(tmp_path, 120)
    told = check(str(tmp_path / "connections.yaml"), str(file), 0.0)
    assert told["values_of_categories"] == {"proto": 3, "service": 8, "flag": 4}
