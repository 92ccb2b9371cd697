"""The publisher's own test side: found by file or column, never trained on, with what is left out counted."""

import gzip
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.population import describe_population
from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.dataset import count_split_texts
from iot_pipeline.flows.publisher import TEST_ROWS
from iot_pipeline.flows.scaling import fit_scaling, keep_prompts_apart
from iot_pipeline.flows.source import SOURCE_FILE, read_source
from iot_pipeline.flows.spec import DatasetSpec, PublisherSplit, list_specs, load_spec
from iot_pipeline.flows.split import DROPPED, order_training, rows_out_of_pool, split_by_group, split_report
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.quality.leakage import leakage_report
from iot_pipeline_tests.quality.factories import CLASSES, made_spec

FILES = made_spec(publisher_split={"test_files": "*_Test_*"})
COLUMN = made_spec(publisher_split={"column": "part", "test": ["test", 2]})
Row = tuple[int, int, bool]  # flow, class, test row


def table(rows: list[Row]) -> pd.DataFrame:
    """Source rows: a flow is its first value, the class a code."""
    frame = pd.DataFrame(rows, columns=["pkts", "kind", "part"]).assign(**{"iat.avg": 0.5})
    return frame.assign(part=["test" if part else "train" for part in frame["part"]])


def built(folder: Path, rows: list[Row], spec: DatasetSpec = COLUMN) -> Path:
    """flows.parquet with the publisher's test rows beside it."""
    table(rows).to_parquet(folder / "raw.parquet")
    build_flows(spec, folder / "raw.parquet", folder / "flows.parquet", test_rows=folder / TEST_ROWS)
    return folder / "flows.parquet"


def split(folder: Path, rows: list[Row], spec: DatasetSpec = COLUMN) -> tuple[Path, Path, Path]:
    """flows.parquet, records.parquet and the rows that are left out."""
    flows, records = built(folder, rows, spec), folder / "records.parquet"
    split_by_group(flows, records, seed=7, test_rows=folder / TEST_ROWS)
    return flows, records, folder / DROPPED


def files(folder: Path, rows: list[Row]) -> dict[bool, Path]:
    """Train and test rows as two CSV files named as publishers name them."""
    paths = {False: folder / "Flow_Train_Multi.csv", True: folder / "Flow_Test_Multi.csv"}
    for is_test, path in paths.items():
        table([row for row in rows if row[2] == is_test]).drop(columns="part").to_csv(path, index=False)
    return paths


def held_out(folder: Path) -> list[int]:
    return pd.read_parquet(folder / TEST_ROWS)["row_id"].tolist()


ROWS: list[Row] = [(1, 0, False), (2, 1, False), (3, 2, False), (2, 1, True), (4, 0, True)]


@pytest.mark.parametrize("form", ["csv", "zip", "gz", "parquet"])
def test_test_rows_are_known_by_the_name_of_their_file(tmp_path: Path, form: str) -> None:
    paths = files(tmp_path, ROWS)
    source = ",".join(str(path) for path in paths.values())
    if form == "zip":
        source = str(tmp_path / "t.zip")
        with zipfile.ZipFile(source, "w") as archive:
            for path in paths.values():
                archive.write(path, f"inside/{path.name}")
    elif form == "gz":
        for path in paths.values():
            Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        source = f"{tmp_path}/Flow_Train_*.gz,{tmp_path}/Flow_Test_*.gz"
    elif form == "parquet":
        for path in paths.values():
            pd.read_csv(path).to_parquet(path.with_suffix(".parquet"))
        source = ",".join(str(path.with_suffix(".parquet")) for path in paths.values())
    report = read_source(FILES, source, tmp_path / "raw", with_files=True)
    assert SOURCE_FILE not in report.columns and report.rows == 5
    build_flows(FILES, tmp_path / "raw", tmp_path / "flows", test_rows=tmp_path / TEST_ROWS)
    # A zip is read in the order of its members, other files in the order given: train first.
    assert held_out(tmp_path) == [3, 4]


def test_rejected_rows_and_row_numbers_do_not_shift_the_test_rows(tmp_path: Path) -> None:
    rows = table([(n, 0, n >= 190) for n in range(200)])
    rows["pkts"] = rows["pkts"].astype(float)
    rows.loc[3, "pkts"] = float("nan")
    rows.to_parquet(tmp_path / "raw")
    build_flows(COLUMN, tmp_path / "raw", tmp_path / "flows", test_rows=tmp_path / TEST_ROWS)
    flows = pd.read_parquet(tmp_path / "flows").set_index("row_id")
    assert flows.loc[held_out(tmp_path), "pkts"].tolist() == list(range(190, 200))


@pytest.mark.parametrize("values", [["train", "test", "x"], [1, 2, 3], [1.0, 2.0, 3.0], ["1", "2", "3.0"]])
def test_a_column_marks_test_rows_however_its_values_are_stored(tmp_path: Path, values: list[Any]) -> None:
    frame = table([(n, 0, False) for n in range(3)]).assign(part=values)
    frame.to_parquet(tmp_path / "raw")
    build_flows(COLUMN, tmp_path / "raw", tmp_path / "flows", test_rows=tmp_path / TEST_ROWS)
    assert held_out(tmp_path) == [1]


def test_a_build_that_is_not_asked_for_test_rows_writes_what_it_always_did(tmp_path: Path) -> None:
    flows = built(tmp_path, ROWS)
    build_flows(made_spec(), tmp_path / "raw.parquet", tmp_path / "plain")
    assert flows.read_bytes() == (tmp_path / "plain").read_bytes()
    paths = files(tmp_path, ROWS)
    read_source(FILES, str(paths[False]), tmp_path / "raw")
    assert SOURCE_FILE not in pd.read_parquet(tmp_path / "raw").columns


@pytest.mark.parametrize(
    ("spec", "rows", "message"),
    [
        (made_spec(), ROWS, "^IOT_SPLIT=publisher: data set made has no key publisher_split"),
        (FILES, ROWS, f"^IOT_SPLIT=publisher: the source has no column '{SOURCE_FILE}'"),
        (COLUMN, [(1, 0, False), (2, 0, False)], "^IOT_SPLIT=publisher: no usable row .*column: part.*: train. Name"),
        (COLUMN, [(1, 0, True), (2, 0, True)], "^IOT_SPLIT=publisher: every usable row .*found in the source: test."),
    ],
)
def test_a_split_that_cannot_be_told_is_one_clear_error(
    tmp_path: Path, spec: DatasetSpec, rows: list[Row], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        built(tmp_path, rows, spec)


def test_a_source_without_a_test_file_names_the_files_and_the_key(tmp_path: Path) -> None:
    paths = files(tmp_path, ROWS)
    read_source(FILES, str(paths[False]), tmp_path / "raw", with_files=True)
    with pytest.raises(UserError, match=r"\(test_files: \*_Test_\*\); found in the source: Flow_Train_Multi.csv\. "):
        build_flows(FILES, tmp_path / "raw", tmp_path / "flows", test_rows=tmp_path / TEST_ROWS)


@pytest.mark.parametrize("content", [{}, {"column": "a"}, {"test": ["b"]}, {"test_files": "a", "column": "b"}])
def test_a_spec_gives_one_whole_rule(content: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either test_files, or column and test"):
        PublisherSplit.model_validate(content)


def test_farm_flow_has_its_publishers_file_names_in_every_edition() -> None:
    for name in (name for name in list_specs() if name.startswith("farm_flow")):
        rule = load_spec(name).publisher_split
        assert rule is not None
        for edition in ("Binary", "Multiclass"):
            assert rule.is_test(f"farm.zip/Farm-Flow_Test_{edition}.csv")
            assert not rule.is_test(f"Farm-Flow_Train_{edition}.csv")


MANY = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 2), st.booleans()), min_size=1, max_size=150)


@settings(max_examples=15, deadline=None)
@given(MANY)
def test_no_group_is_on_two_sides_and_every_row_is_accounted_for(rows: list[Row]) -> None:
    # One train flow and one test flow that nothing repeats: without them there is nothing to split.
    rows = [*rows, (100, 0, False), (101, 0, True)]
    with TemporaryDirectory() as name:
        flows, path, dropped_path = split(Path(name), rows)
        records, dropped = pd.read_parquet(path), pd.read_parquet(dropped_path)
        assert records.groupby("flow_group").side.nunique().max() == 1
        assert records.groupby("flow_group").row_id.nunique().max() == 1
        assert (records.groupby("flow_group").rows.transform("sum") == records.group_rows).all()
        assert records.rows.sum() + dropped.rows.sum() == len(rows)
        test = records[records.side == "test"]
        frame = pd.DataFrame(rows, columns=["flow", "kind", "test"])
        expected = frame[frame.test].groupby("kind").size().rename(index=dict(enumerate(CLASSES)))
        assert test.groupby("label").rows.sum().to_dict() == expected.to_dict()
        tested = set(frame[frame.test].flow)
        assert dropped.rows.sum() == (frame.flow.isin(tested) & ~frame.test).sum()
        assert set(dropped.flow_group) <= set(test.flow_group)
        assert set(test.row_id) <= set(held_out(Path(name)))

        order = Path(name) / "order.parquet"
        report = order_training(flows, path, order, seed=7)
        assert not any(rows_out_of_pool(order, path).values())
        assert not set(pd.read_parquet(order).row_id) & set(held_out(Path(name)))
        verdict = leakage_report(flows, path, COLUMN, 5, with_model=False, dropped=dropped_path)
        assert verdict["passed"] and verdict["leak_free"]["shared_groups"] == 0
        own = verdict["publisher"]
        assert (own["test_rows"], own["train_rows"]) == (frame.test.sum(), (~frame.test).sum())
        assert own["dropped_rows"] == dropped.rows.sum()
        seen = frame[frame.test].flow.isin(set(frame[~frame.test].flow))
        assert own["shared_test_rows"] == seen.sum() and own["shared_test_share"] == pytest.approx(seen.mean())
        found = describe_population(path, order, report.rows, dropped_path)
        assert found["rows"] == len(rows)


def test_the_other_sides_share_the_train_flows_in_proportion(tmp_path: Path) -> None:
    rows = [(n, n % 3, False) for n in range(1800)] + [(5000 + n, n % 3, True) for n in range(50)]
    _, records, dropped = split(tmp_path, rows)
    expected = {"train": 1600, "validation": 100, "calibration": 100, "test": 50}
    assert split_report(records, 7).rows == pytest.approx(expected, abs=2)
    assert pd.read_parquet(dropped).empty


def test_a_small_class_is_on_every_drawn_side_and_a_class_may_be_absent_from_the_test_side(tmp_path: Path) -> None:
    rows = [(n, 0, False) for n in range(40)] + [(100, 1, False), (101, 1, False), (102, 1, False), (200, 0, True)]
    _, records, _ = split(tmp_path, rows)
    by_class = split_report(records, 7).by_class
    assert {side: CLASSES[1] in found for side, found in by_class.items()} == {
        "train": True, "validation": True, "calibration": True, "test": False
    }  # fmt: skip


def test_a_label_that_a_test_flow_has_only_among_train_rows_is_no_conflict_of_the_test_side(tmp_path: Path) -> None:
    rows = [(n, 0, False) for n in range(20)] + [(50, 0, False), (50, 0, False), (50, 1, True)]
    flows, path, dropped = split(tmp_path, rows)
    records = pd.read_parquet(path)
    test = records[records.side == "test"]
    assert test[["label", "rows", "group_rows"]].values.tolist() == [[CLASSES[1], 1, 1]]
    assert leakage_report(flows, path, COLUMN, 5, with_model=False, dropped=dropped)["passed"]
    # Without the account of what is left out those rows are missing, and the report says so.
    assert leakage_report(flows, path, COLUMN, 5, with_model=False)["rows_without_side"] == 2


def test_a_train_side_that_only_repeats_the_test_side_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^IOT_SPLIT=publisher: every train row of the publisher repeats a test flow"):
        split(tmp_path, [(1, 0, False), (2, 1, False), (1, 0, True), (2, 1, True)])


def test_flows_that_fitted_scales_make_alike_never_take_a_row_from_the_test_side(tmp_path: Path) -> None:
    features = [{"name": name, "unit": "s", "meaning": "made"} for name in ("pkts", "iat.avg")]
    spec = made_spec(features=features, scaling="train_pool", publisher_split={"column": "part", "test": ["test"]})
    # Under the scale of a far value the near ones read alike: the train flows among them repeat test flows as text.
    rows = [(n, 0, n % 4 == 0) for n in range(100)] + [(10**9 * n, 1, False) for n in range(1, 30)]
    flows, records, dropped = split(tmp_path, rows, spec)
    before = pd.read_parquet(records)
    fitted = fit_scaling(spec, flows, records)
    keep_prompts_apart(fitted, flows, records, dropped)
    after, gone = pd.read_parquet(records), pd.read_parquet(dropped)
    pd.testing.assert_frame_equal(
        *(frame[frame.side == "test"].reset_index(drop=True) for frame in (before, after)), check_exact=True
    )
    assert after.rows.sum() + gone.rows.sum() == len(rows) and gone.rows.sum() == 75
    FlowTextWriter(fitted, "values").write_texts(flows, records, tmp_path / "texts")
    order_training(flows, records, tmp_path / "order")
    assert not any(count_split_texts(tmp_path / "texts", records, tmp_path / "order").values())
    assert leakage_report(flows, records, spec, 5, with_model=False, dropped=dropped)["passed"]
