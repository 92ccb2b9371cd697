"""Reading sources: every way of storing the same table gives the same table, bad ones one clear error."""

import gzip
import zipfile
from pathlib import Path

import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.source import read_source
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.simulator.simulate import simulate_farm_flow
from iot_pipeline_tests.shared import NO_RT_IOT2022, RT_IOT2022

SPEC = load_spec("farm_flow")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one table of 200 flows as .csv, .zip, .gz, .parquet and as two halves."""
    folder = tmp_path_factory.mktemp("good")
    simulate_farm_flow(folder / "t.parquet", rows=200)
    pa_csv.write_csv(pq.read_table(folder / "t.parquet"), folder / "t.csv")
    text = (folder / "t.csv").read_text()
    with zipfile.ZipFile(folder / "t.zip", "w") as archive:
        archive.write(folder / "t.csv", "inside.csv")
    (folder / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "bom.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    lines = text.splitlines(keepends=True)
    (folder / "half1.csv").write_text("".join(lines[:101]))
    (folder / "half2.csv").write_text(lines[0] + "".join(lines[101:]))
    (folder / "semicolon.csv").write_text(text.replace(",", ";"))
    return folder


@pytest.mark.parametrize("name", ["t.csv", "t.zip", "t.csv.gz", "t.parquet", "bom.csv", "half?.csv", "semicolon.csv"])
def test_every_form_gives_the_same_table(good: Path, tmp_path: Path, name: str) -> None:
    report = read_source(SPEC, str(good / name), tmp_path / "raw.parquet")
    assert (report.rows, report.columns) == (200, [*SPEC.feature_names, "is_attack", "traffic"])
    assert all("/" not in file["name"] and len(file["sha256"]) == 64 for file in report.files)
    found = pq.read_table(tmp_path / "raw.parquet").to_pandas().astype(float)
    assert found.equals(pq.read_table(good / "t.parquet").to_pandas())


def test_columns_that_the_spec_does_not_know_are_kept_in_raw_and_change_no_flow(good: Path, tmp_path: Path) -> None:
    lines = (good / "t.csv").read_text().splitlines()
    wider = [f"note,{lines[0]},uid", *(f"n{n},{line},C{n}" for n, line in enumerate(lines[1:]))]
    (tmp_path / "wider.csv").write_text("\n".join(wider) + "\n")
    for name, source in (("a", good / "t.csv"), ("b", tmp_path / "wider.csv")):
        report = read_source(SPEC, str(source), tmp_path / f"raw_{name}")
        build_flows(SPEC, tmp_path / f"raw_{name}", tmp_path / f"flows_{name}")
    assert report.columns == ["note", *SPEC.feature_names, "is_attack", "traffic", "uid"]
    assert (tmp_path / "flows_a").read_bytes() == (tmp_path / "flows_b").read_bytes()


def test_the_same_source_gives_the_same_bytes(good: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        read_source(SPEC, str(good / "t.csv"), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def damaged(text: str, how: str) -> bytes:
    """The good CSV, damaged in a named way."""
    lines = text.splitlines()
    head = lines[0].split(",")
    if how == "empty":
        return b""
    if how == "header only":
        return (lines[0] + "\n").encode()
    if how == "missing column":
        return text.replace('"orig_pkts"', '"orig_packets"').encode()
    if how == "column twice":
        return text.replace(head[2], head[1], 1).encode()
    if how == "short row":
        return "\n".join([*lines[:3], lines[3].rsplit(",", 2)[0], *lines[4:]]).encode()
    if how == "wrong encoding":
        return "\n".join([*lines[:3], lines[3] + "é"]).encode("latin-1")
    if how == "binary":
        return bytes(range(256)) * 20
    if how == "title above":
        return f"# exported by a tool\n\n{text}".encode()
    if how == "blanks between":
        return text.replace(",", " ").encode()
    assert how == "not a table"
    return b"hello\nworld\n"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty", "is empty"),
        ("header only", "no rows"),
        ("missing column", "lacks 1 of the columns .* orig_pkts"),
        ("column twice", "'orig_pkts' twice"),
        ("wrong encoding", "line"),
        ("binary", "not a"),
        ("not a table", "single column, 'hello'\\."),
        ("title above", "single column, '# exported by a tool'; remove the lines above the column names"),
        ("blanks between", "single column.*write commas or tabs"),
    ],
)
def test_a_damaged_file_is_one_clear_error(good: Path, tmp_path: Path, how: str, message: str) -> None:
    (tmp_path / "bad.csv").write_bytes(damaged((good / "t.csv").read_text(), how))
    with pytest.raises(UserError, match=message) as caught:
        read_source(SPEC, str(tmp_path / "bad.csv"), tmp_path / "raw.parquet")
    assert "bad.csv" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "raw.parquet").exists()


def test_a_missing_source_and_a_damaged_archive_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_source(SPEC, str(tmp_path / "no.csv"), tmp_path / "raw.parquet")
    for name in ("a.zip", "a.csv.gz"):
        (tmp_path / name).write_bytes(b"PK not an archive")
        with pytest.raises(UserError, match="cannot be unpacked"):
            read_source(SPEC, str(tmp_path / name), tmp_path / "raw.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not parquet")
    with pytest.raises(UserError, match="damaged Parquet"):
        read_source(SPEC, str(tmp_path / "a.parquet"), tmp_path / "raw.parquet")


@pytest.mark.skipif(not RT_IOT2022.is_file(), reason=NO_RT_IOT2022)
def test_real_rt_iot2022_has_the_known_duplicates(tmp_path: Path) -> None:
    spec = load_spec("rt_iot2022")
    assert read_source(spec, str(RT_IOT2022), tmp_path / "raw.parquet").rows == 123_117
    report = build_flows(spec, tmp_path / "raw.parquet", tmp_path / "flows.parquet")
    assert report.rows_by_class == spec.facts["class_rows"]
    flows = pq.read_table(tmp_path / "flows.parquet").select(spec.feature_names)
    assert flows.group_by(flows.column_names).aggregate([]).num_rows == 18_086


def test_lines_that_are_no_rows_are_counted_with_reason_and_place(good: Path, tmp_path: Path) -> None:
    lines = (good / "t.csv").read_bytes().split(b"\n")
    lines[3], lines[7], lines[9] = lines[3].rsplit(b",", 4)[0], lines[7] + b",1", b"\xff" + lines[9][1:]
    (tmp_path / "bad.csv").write_bytes(b"\n".join(lines))
    report = read_source(SPEC, str(tmp_path / "bad.csv"), tmp_path / "raw.parquet", max_rejected_share=0.02)
    assert (report.rows, sum(report.rejected.values())) == (197, 3)
    assert [(line["file"], line["line"], line["reason"]) for line in report.examples] == [
        ("bad.csv", 4, "too few columns"),
        ("bad.csv", 8, "too many columns"),
        ("bad.csv", 10, "not UTF-8"),
    ]
    assert pq.read_table(tmp_path / "raw.parquet").num_rows == 197
    with pytest.raises(UserError, match=r"3 of 200 lines .* allowed 1.00%; .* first in bad.csv, line 4"):
        read_source(SPEC, str(tmp_path / "bad.csv"), tmp_path / "none.parquet")
    assert not (tmp_path / "none.parquet").exists()


def test_a_quote_that_is_never_closed_is_an_error_not_a_lost_half(good: Path, tmp_path: Path) -> None:
    lines = (good / "t.csv").read_text().split("\n")
    lines[100] = '"' + lines[100]
    (tmp_path / "bad.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match="line 101, has a quote that is never closed"):
        read_source(SPEC, str(tmp_path / "bad.csv"), tmp_path / "raw.parquet")


def test_a_file_that_is_named_twice_is_read_once_and_a_copy_of_it_is_told(good: Path, tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(good / "half1.csv")
    named = f"{good / 'half2.csv'},{good / 'half*.csv'},{tmp_path / 'link.csv'},{good}/../{good.name}/half2.csv"
    report = read_source(SPEC, named, tmp_path / "raw.parquet")
    assert (report.rows, [file["name"] for file in report.files]) == (200, ["half2.csv", "half1.csv"])
    (tmp_path / "half1 (1).csv").write_bytes((good / "half1.csv").read_bytes())
    report = read_source(SPEC, f"{good / 'half*.csv'},{tmp_path / 'half*.csv'}", tmp_path / "raw.parquet")
    assert report.rows == 300
    assert report.notes == ["half1 (1).csv is half1.csv again, to the byte: its rows are read twice."]


@pytest.mark.parametrize(("given", "name"), [("t.zip", "T.ZIP"), ("t.zip", "content"), ("t.csv.gz", "content"),
                                             ("t.csv.gz", "t.csv"), ("t.parquet", "content")])  # fmt: skip
def test_what_a_file_is_follows_from_its_bytes_not_its_name(good: Path, tmp_path: Path, given: str, name: str) -> None:
    (tmp_path / name).write_bytes((good / given).read_bytes())
    assert read_source(SPEC, str(tmp_path / name), tmp_path / "raw.parquet").rows == 200


def test_what_is_no_table_in_a_zip_is_left_out_with_a_note(good: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("README.txt", "Cite us.\n")
        archive.write(good / "half1.csv", "data/half1.CSV")
        archive.write(good / "half2.csv", "data/half2.csv")
        archive.writestr("licence", "free")
        archive.writestr("__MACOSX/._half1.csv", "x")
        archive.writestr("data/._half1.csv", "x")
    said: list[str] = []
    report = read_source(SPEC, str(tmp_path / "t.zip"), tmp_path / "raw.parquet", said.append)
    assert (report.rows, report.skipped) == (200, ["t.zip/README.txt", "t.zip/licence"])
    assert "left out, no table by its name: t.zip/README.txt" in said


def test_a_zip_whose_only_file_has_another_ending_is_read(good: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.write(good / "t.csv", "KDDTrain+.txt")
    report = read_source(SPEC, str(tmp_path / "t.zip"), tmp_path / "raw.parquet")
    assert (report.rows, report.skipped) == (200, [])


def test_a_file_of_rejected_lines_only_says_why_they_are(good: Path, tmp_path: Path) -> None:
    lines = (good / "t.csv").read_text().splitlines()
    (tmp_path / "bad.csv").write_text("\n".join([lines[0], *(line.rsplit(",", 3)[0] for line in lines[1:])]) + "\n")
    with pytest.raises(UserError, match=r"bad.csv has no row: .* most often: too few columns \(200 lines\), .* line 2"):
        read_source(SPEC, str(tmp_path / "bad.csv"), tmp_path / "raw.parquet")
