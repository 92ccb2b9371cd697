"""Printing in Python and in SQL, ranks, and reading texts back."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.flows import texts as flow_texts
from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.serialise import (
    SERIALISATIONS,
    group_id,
    parse_text,
    printed,
    printed_sql,
    serialisation_of,
    shortened,
)
from iot_pipeline.flows.spec import DatasetSpec, Format, load_spec
from iot_pipeline.flows.split import split_by_group
from iot_pipeline.flows.texts import FlowTextWriter, RankTable, fit_ranks
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.simulator.simulate import simulate_farm_flow
from iot_pipeline_tests.tiny_model import NO_REAL, REAL

DECIMALS = Format(decimals=3)
SIGNIFICANT = Format(significant=4)
TIES = st.integers(-(10**7), 10**7).map(lambda n: n / 2000)
NUMBERS = st.lists(st.floats(allow_nan=False, allow_infinity=False) | TIES, min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("value", "decimals", "significant"),
    [
        (-0.0, "0.000", "0"),
        (-0.0004, "0.000", "-0.0004"),
        (-0.0678, "-0.068", "-0.0678"),
        (0.0005, "0.001", "0.0005"),
        (2.5e-5, "0.000", "2.5e-05"),
        (123456.0, "123456.000", "1.235e+05"),
        (1e-300, "0.000", "1e-300"),
        (1e300, "1.000000e+300", "1e+300"),
    ],
)
def test_values_print_as_the_format_says(value: float, decimals: str, significant: str) -> None:
    assert (printed(DECIMALS, value), printed(SIGNIFICANT, value)) == (decimals, significant)


@settings(max_examples=60, deadline=None)
@given(NUMBERS, st.sampled_from([DECIMALS, SIGNIFICANT, Format(decimals=0), Format(significant=1)]))
def test_sql_prints_what_python_prints(values: list[float], form: Format) -> None:
    table = pa.table({"x": pa.array([*values, 0.0, -0.0, 1e15, -1e15, 999999999999999.9], pa.float64())})
    with duckdb.connect() as connection:
        connection.register("given", table)
        found = connection.execute(f"SELECT x, {printed_sql(form, 'x')} FROM given").fetchall()
    assert [text for _, text in found] == [printed(form, value) for value, _ in found]


def test_the_text_of_a_flow_is_one_line_a_feature() -> None:
    spec = load_spec("farm_flow")
    write = FlowTextWriter(spec, "values").text
    text = write([0.0] * 28 + [-0.0004])
    assert text.split("\n")[0] == "missed_bytes: 0.000"
    assert text.split("\n")[28] == "data_pkts_difference: 0.000"
    assert len(group_id(text)) == 64
    assert group_id(text) == group_id(write([0.0004] * 29))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw, flows and records of 3,000 simulated rows."""
    folder = tmp_path_factory.mktemp("small")
    simulate_farm_flow(folder / "raw.parquet", rows=3_000)
    build_flows(load_spec("farm_flow"), folder / "raw.parquet", folder / "flows.parquet")
    split_by_group(folder / "flows.parquet", folder / "records.parquet")
    return folder


def test_ranks_come_from_the_train_side_alone_and_texts_agree(small: Path) -> None:
    spec = load_spec("farm_flow")
    ranks = fit_ranks(spec, small / "flows.parquet", small / "records.parquet")
    flows = duckdb.sql(f"SELECT * FROM '{small}/flows.parquet' ORDER BY row_id").df()
    train = duckdb.sql(f"SELECT flow_group FROM '{small}/records.parquet' WHERE side = 'train'").df()
    pool = flows[flows.flow_group.isin(train.flow_group)]
    assert ranks.rows == len(pool) < len(flows)
    column = pool["orig_ip_bytes"].map(lambda value: float(printed(spec.format, value)))
    for value in column.iloc[:20]:
        share = 100 * ((column < value).sum() + (column == value).sum() / 2) / len(column)
        assert abs(ranks.percentile("orig_ip_bytes", f"{value:.3f}") - share) <= 0.5
    rows = flows[spec.feature_names].to_numpy().tolist()
    for kind in SERIALISATIONS:
        writer = FlowTextWriter(spec, kind, ranks)
        assert writer.texts(flows) == list(map(writer.text, rows))
    assert list(map(group_id, FlowTextWriter(spec, "values").texts(flows))) == flows.flow_group.tolist()


@pytest.mark.parametrize("kind", SERIALISATIONS)
def test_the_texts_of_all_flows_are_written_part_by_part_with_what_writes_others(
    small: Path, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, flows, records = load_spec("farm_flow"), small / "flows.parquet", small / "records.parquet"
    writer = FlowTextWriter(spec, kind, fit_ranks(spec, flows, records))
    writer.save(tmp_path)
    assert FlowTextWriter.load(tmp_path, spec) == writer
    monkeypatch.setattr(flow_texts, "ROW_GROUP", 100)
    count = writer.write_texts(flows, records, tmp_path / "texts.parquet")
    table = duckdb.sql(f"SELECT * FROM '{flows}'").df()
    written = duckdb.sql(f"SELECT * FROM '{tmp_path}/texts.parquet'").df()
    assert count == len(written) == table["flow_group"].nunique() and written["flow_group"].is_monotonic_increasing
    # One text for all rows of a group, whichever row stands for it.
    texts = dict(zip(written["flow_group"], written["text"], strict=True))
    assert writer.texts(table) == [texts[group] for group in table["flow_group"]]


def test_an_unseen_value_stands_between_its_neighbours() -> None:
    ranks = RankTable(rows=10, values={"a": [1.0, 3.0]}, cumulative={"a": [4, 10]})
    assert [ranks.percentile("a", text) for text in ("0.5", "1", "2", "3", "9")] == [0, 20, 40, 70, 100]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=29, max_size=29))
def test_texts_read_back(values: list[float]) -> None:
    spec = load_spec("farm_flow")
    expected = [(name, printed(spec.format, value)) for name, value in zip(spec.feature_names, values, strict=True)]
    names = spec.feature_names
    ranks = RankTable(1, {name: [0.0] for name in names}, {name: [1] for name in names})
    assert parse_text(FlowTextWriter(spec, "values").text(values)) == [(name, text, None) for name, text in expected]
    ranked = parse_text(FlowTextWriter(spec, "ranked", ranks).text(values))
    assert [(name, text) for name, text, _ in ranked] == expected
    assert {rank for _, _, rank in ranked} <= {0, 50, 100}


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("-0.117", "-.117"),
        ("0.000", "0"),
        ("1.500", "1.5"),
        ("-1.000", "-1"),
        ("100.000", "100"),
        ("100", "100"),
        ("0", "0"),
        ("10.010", "10.01"),
        ("2.5e-05", "2.5e-5"),
        ("1.000000e+300", "1e300"),
        ("1e+10", "1e10"),
        ("8.809e+05", "880900"),
        ("-1.235e+04", "-12350"),
        ("1.049e+06", "1049000"),
        ("1.049e+07", "1.049e7"),
        ("1.000000e+15", "1e15"),
    ],
)
def test_a_value_is_written_in_few_characters(text: str, short: str) -> None:
    assert shortened(text) == short
    assert float(short) == float(text)


def test_compact_puts_a_family_in_a_line() -> None:
    spec = load_spec("farm_flow")
    values = [-0.03, 1.826, 41.836, *[0.0] * 18, -0.1171, -0.199, *[0.0] * 6]
    lines = FlowTextWriter(spec, "compact").text(values).split("\n")
    assert lines[:3] == ["missed_bytes -.03", "orig_pkts 1.826 ip_bytes 41.836", "resp_pkts 0 ip_bytes 0"]
    assert "fwd_header_size_tot 0 min 0 max 0" in lines and "fwd_iat tot -.117 avg -.199" in lines
    assert lines[-2:] == ["pkts_difference 0", "data_pkts_difference 0"]


# Of one word, alike but for their end, beginning with another one's stem, numbers, ending with a separator.
NAMES = ("a", "ab", "a_b", "a_c", "a_", "a_b.c", "a_b.d", "a_b.", "a.1", "a.2", "1", "7_2", "7_30", "e_5", "e_")


def named(names: list[str], form: Format = SIGNIFICANT) -> DatasetSpec:
    """A data set whose features have these names."""
    spec = load_spec("farm_flow")
    features = [spec.features[0].model_copy(update={"name": name}) for name in names]
    return spec.model_copy(update={"features": features, "format": form})


@st.composite
def flows_of_one_spec(draw: st.DrawFn) -> tuple[DatasetSpec, list[float], list[float]]:
    """A data set of any names and format, and two of its flows, which often differ in a last digit or not at all."""
    form = draw(st.sampled_from([DECIMALS, SIGNIFICANT, Format(decimals=0)]))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    number = st.floats(allow_nan=False, allow_infinity=False) | TIES | st.sampled_from([0.0, 0.1, 1.0, 10.0, 1e15])
    one = draw(st.lists(number, min_size=len(names), max_size=len(names)))
    other = [draw(st.sampled_from([x, x, x * (1 + 1e-3), x * 10, x + 0.001, -x])) for x in one]
    finite = [x if abs(y) == float("inf") else y for x, y in zip(one, other, strict=True)]
    return named(names, form), one, finite


@settings(max_examples=60, deadline=None)
@given(flows_of_one_spec())
@example((named(["a_b.", "a_b.c", "a_b.d"]), [1.0, 2.0, 3.0], [1.0, 2.0, 4.0]))
@example((named(["a.1", "a.2", "1", "7_2", "7_30"]), [1.0, 2e7, 3.0, 12345.0, 5.0], [1.0, 2e7, 3.0, 12350.0, 5.0]))
def test_compact_says_what_values_says(given_flows: tuple[DatasetSpec, list[float], list[float]]) -> None:
    spec, one, other = given_flows
    write, plain = (FlowTextWriter(spec, kind).text for kind in ("compact", "values"))
    for values in (one, other):
        short, long = parse_text(write(values)), parse_text(plain(values))
        assert [(name, float(text)) for name, text, _ in short] == [(name, float(text)) for name, text, _ in long]
        assert [text for _, text, _ in short] == [shortened(text) for _, text, _ in long]
    assert (write(one) == write(other)) == (plain(one) == plain(other))


def test_a_text_tells_its_serialisation() -> None:
    spec = load_spec("farm_flow")
    ranks = RankTable(1, {name: [0.0] for name in spec.feature_names}, {name: [1] for name in spec.feature_names})
    for kind in SERIALISATIONS:
        assert serialisation_of(FlowTextWriter(spec, kind, ranks).text([0.5] * 29)) == kind


@pytest.mark.skipif(not REAL.is_dir(), reason=NO_REAL)
def test_compact_takes_at_most_230_tokens_of_qwen(small: Path) -> None:
    spec = load_spec("farm_flow")
    flows = duckdb.sql(f"SELECT * FROM '{small}/flows.parquet' ORDER BY row_id LIMIT 300").df()
    tokenizer = load_tokenizer(str(REAL))
    counts = {
        kind: sum(map(len, tokenizer(FlowTextWriter(spec, kind).texts(flows))["input_ids"])) / 300
        for kind in ("values", "compact")
    }
    assert counts["compact"] <= 230 < 300 < counts["values"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "orig_pkts",
        "orig_pkts 3 4",
        "fwd_iat tot 3",
        "orig_pkts three",
        "orig_pkts: three",
        "orig_pkts: 3 p5 x",
        "orig_pkts: nan",
        "orig_pkts: 3 resp_pkts 4",
        "orig_pkts  3",
        "fwd_iat.tot 3 avg",
        " orig_pkts 3",
        "orig_pkts 3 ",
    ],
)
def test_text_that_is_no_flow_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="line 1"):
        parse_text(text)


def test_unknown_serialisation_and_missing_ranks_are_refused() -> None:
    with pytest.raises(UserError, match="values, ranked, compact"):
        FlowTextWriter(load_spec("farm_flow"), "json").texts({})
    with pytest.raises(UserError, match="rank table"):
        FlowTextWriter(load_spec("farm_flow"), "ranked").texts({})
