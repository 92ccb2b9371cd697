"""Drafts that a person can trust: the label by evidence, all files, what is told, giveaways, categories, meanings."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from iot_pipeline.commands.datasets import check, new
from iot_pipeline.errors import UserError
from iot_pipeline.flows.drafting.glossary import entries, known, plain
from iot_pipeline.flows.drafting.labels import name_points
from iot_pipeline.flows.infer_spec import Draft, draft_spec
from iot_pipeline.flows.spec import MOST_CLASSES, load_spec

KINDS = dict.fromkeys(["neptune", "smurf", "back"], "DoS") | dict.fromkeys(["satan", "ipsweep", "portsweep"], "Probe")
KINDS["normal"] = "normal"
Cell = Callable[[int, str, random.Random], object]
ATTACKS = ["normal", "neptune", "smurf", "satan", "ipsweep", "portsweep", "back"]


def table(path: Path, columns: dict[str, Cell], labels: Sequence[str], rows: int = 240) -> str:
    """A CSV whose cells are given by row number, label and random draws; three numbers come first."""
    draw = random.Random(5)
    numbers: dict[str, Cell] = {
        "duration": lambda row, label, draw: draw.randint(0, 40),
        "src_bytes": lambda row, label, draw: draw.randint(0, 900) + 300 * (label == labels[0]),
        "rate": lambda row, label, draw: round(draw.random(), 3),
    }
    every = numbers | columns
    lines = [",".join(every)]
    for row in range(rows):
        label = labels[draw.randrange(len(labels))]
        lines.append(",".join(str(cell(row, label, draw)) for cell in every.values()))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def the_label(row: int, label: str, draw: random.Random) -> str:
    return label


def binary(row: int, label: str, draw: random.Random) -> int:
    return int(label != "normal")


def one_of(*words: str) -> Cell:
    return lambda row, label, draw: draw.choice(words)


def drafted(path: Path, columns: dict[str, Cell], labels: Sequence[str] = ATTACKS, label: str | None = None) -> Draft:
    return draft_spec(table(path / "t.csv", columns, labels), "t", label)


def test_nsl_kdds_label_is_attack_and_its_difficulty_is_told(tmp_path: Path) -> None:
    draft = drafted(
        tmp_path,
        {
            "protocol_type": one_of("tcp", "udp", "icmp"),
            "service": one_of("http", "smtp", "private", "X11"),
            "attack": the_label,
            "difficulty": lambda row, label, draw: ATTACKS.index(label) * 3 + draw.randint(0, 4),
        },
    )
    assert draft.label == "attack" and draft.categories == ["protocol_type", "service"]
    assert draft.left_out == {"difficulty": "is named like an annotation of the label"}
    assert "right in" in draft.giveaways["difficulty"] and '# left out: "difficulty"' in draft.yaml


def test_a_binary_label_beside_a_kind_is_a_copy(tmp_path: Path) -> None:
    for label in ("label", "is_attack", "Attack_label"):
        draft = drafted(tmp_path, {"type": the_label, label: binary})
        assert draft.label == "type", label
        assert draft.left_out[label] == "follows from the label"


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"category": the_label, "attack_type": one_of(*ATTACKS)}, ("category", "attack_type")),
        ({"class": one_of("a", "b", "c"), "label": one_of("x", "y", "z")}, ("class", "label")),
        ({"Attack Name": the_label, "Attack Category": lambda r, label, d: KINDS[label]},
         ("Attack Name", "Attack Category")),
    ],
)  # fmt: skip
def test_two_that_are_close_are_both_named(tmp_path: Path, columns: dict[str, Cell], told: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="two columns that may be the label") as error:
        drafted(tmp_path, columns)
    assert all(name in str(error.value) for name in told) and "values such as" in str(error.value)
    assert "--label" in str(error.value)
    assert drafted(tmp_path, columns, label=told[0]).label == told[0]


@pytest.mark.parametrize("name", ["Label", "attack_type", "class"])
def test_a_named_column_of_too_many_values_is_told_and_not_passed_over(tmp_path: Path, name: str) -> None:
    kinds = [f"kind {place}" for place in range(MOST_CLASSES + 20)]
    columns: dict[str, Cell] = {"Protocol Type": one_of("6", "17"), "traffic": one_of("a", "b"), name: one_of(*kinds)}
    with pytest.raises(
        UserError, match=rf"column {name} is named like the label and has 1\d\d values; a data set has 2 to"
    ):
        draft_spec(table(tmp_path / "t.csv", columns, ATTACKS, rows=900), "t")


def test_a_single_value_asks_for_the_other_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"column Label .* has a single value; .* give all files"):
        drafted(tmp_path, {"Label": one_of("BENIGN")})


@pytest.mark.parametrize(
    "name", ["protocol_type", "Protocol Type", "mqtt.msgtype", "qtype_name", "conn_type", "ttl", "flag"]
)
def test_types_of_other_things_are_no_labels(name: str) -> None:
    assert name_points(name) == 0


def test_all_files_are_looked_at(tmp_path: Path) -> None:
    for day, label in (("mon", "BENIGN"), ("tue", "DoS"), ("wed", "Bot")):
        table(tmp_path / f"{day}.csv", {"Label": the_label}, [label], rows=40)
    draft = draft_spec(str(tmp_path / "*.csv"), "t")
    assert sorted(draft.labels) == ["BENIGN", "Bot", "DoS"]
    assert draft.notes[0] == "120 rows of 3 files were read."
    by_file = draft_spec(str(tmp_path / "*.csv"), "t", "iot_source_file")
    assert sorted(by_file.labels) == ["mon.csv", "tue.csv", "wed.csv"]


def test_a_draft_by_the_names_of_members_fits_its_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("benign.csv", "a/scan.csv", "b/scan.csv"):
            rows = "".join(f"{n % 7 + len(name)},{n % 3}.5\n" for n in range(60))
            archive.writestr(name, f"x,y\n{rows}")
    draft = draft_spec(str(tmp_path / "set.zip"), "t", "iot_source_file")
    assert sorted(draft.labels) == ["set.zip/a/scan.csv", "set.zip/b/scan.csv", "set.zip/benign.csv"]
    (tmp_path / "t.yaml").write_text(draft.yaml)
    report = check(str(tmp_path / "t.yaml"), str(tmp_path / "set.zip"), 0.01)
    assert report["rejected_rows"] == {} and set(report["rows_by_class"].values()) == {60} and draft.examples


def test_rejected_and_blank_rows_are_told(tmp_path: Path) -> None:
    file = table(tmp_path / "t.csv", {"attack_cat": lambda r, label, d: label if label != "normal" else ""}, ATTACKS)
    with Path(file).open("ab") as out:
        out.write(b"1,2\n3,4,0.5,caf\xe9,9,9\n")
    draft = draft_spec(file, "t", "attack_cat")
    blank = 240 - sum(1 for line in Path(file).read_bytes().split(b"\n")[1:241] if not line.endswith(b","))
    assert any(note.startswith(f"{blank} rows (") and "no label in attack_cat" in note for note in draft.notes)
    assert any("could not be read as rows" in note and "line 242" in note for note in draft.notes)
    assert '# "": Normal' in draft.yaml and f"# {draft.notes[-1]}" in draft.yaml


def test_a_copy_goes_and_a_merely_strong_column_stays_with_its_purity(tmp_path: Path) -> None:
    draft = drafted(
        tmp_path,
        {
            "attack_id": lambda row, label, draw: ATTACKS.index(label),
            "sttl": lambda row, label, draw: 10 * ATTACKS.index(label) + draw.randint(0, 3),
            "Record ID": lambda row, label, draw: row,
            "offset": lambda row, label, draw: row * 7 % 997,
            "severity": lambda row, label, draw: draw.randint(1, 5),
            "attack": the_label,
        },
    )
    assert draft.left_out["attack_id"] in ("follows from the label", "says who or when")
    assert draft.left_out["severity"] == "is named like an annotation of the label"
    assert "sttl" in draft.features and "tells the label" in draft.giveaways["sttl"]
    assert '# strong: "sttl"' in draft.yaml and "100.0% of the rows" in draft.giveaways["sttl"]
    assert "offset" not in draft.giveaways  # a number of its own for every row looks pure in its own rows


def test_texts_of_few_values_are_categories_and_others_are_left_out(tmp_path: Path) -> None:
    draft = drafted(
        tmp_path,
        {
            "state": lambda row, label, draw: draw.choice(["FIN", "CON", ""]),
            "uri": lambda row, label, draw: f"/a/{row}",
            "note": lambda row, label, draw: draw.choice(["x" * 80, "y"]),
            "mixed": lambda row, label, draw: "many" if row == 3 else row % 9,
            "gaps": lambda row, label, draw: "" if row % 3 else 4.5,
            "label": the_label,
        },
    )
    assert draft.categories == ["state"]
    assert draft.left_out["uri"] == "text with 240 values: a drafted category has 200 at most"
    assert draft.left_out["note"].startswith("text with values of 80 characters")
    assert draft.left_out["mixed"] == "not a number in 1 of 240 rows, first 'many'"
    assert draft.left_out["gaps"].startswith("blank or no finite number in 66.7% of the rows")
    assert "kind: category\n    blank: none" in draft.yaml
    assert any("state = FIN" in text or "state = none" in text for text in draft.examples)


def test_a_label_without_a_word_is_told(tmp_path: Path) -> None:
    """IoT-23 writes `-` for harmless flows: the drafted class is Class_-, which nobody would search for."""
    draft = drafted(
        tmp_path,
        {"a": lambda row, label, draw: draw.random(), "label": lambda row, label, draw: "-" if row % 2 else "C&C"},
    )
    assert "The label '-' has no word: name what it means" in draft.yaml
    assert "'C&C'" not in draft.yaml.split("name:")[0]


def test_numbers_with_a_unit_are_no_categories(tmp_path: Path) -> None:
    draft = drafted(
        tmp_path,
        {
            "loss": lambda row, label, draw: f"{draw.randint(0, 999) / 10}%",
            "took": lambda row, label, draw: f"{draw.randint(0, 99)} ms",
            "volume": lambda row, label, draw: f"{draw.randint(0, 99)}KB/s",
            "network": one_of("4G", "5G"),
            "label": the_label,
        },
    )
    assert draft.categories == ["network"]
    assert draft.left_out == dict.fromkeys(("loss", "took", "volume"), "numbers with a unit: write them without it")


def test_objects_and_lists_of_json_are_no_categories(tmp_path: Path) -> None:
    rows = [
        {"rate": row % 17 / 4, "flow": {"pkts": row % 7}, "flags": [row % 3], "label": ATTACKS[row % 3]}
        for row in range(120)
    ]
    (tmp_path / "eve.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
    draft = draft_spec(str(tmp_path / "eve.json"), "t")
    why = "objects or lists of JSON: write each of their parts as a column"
    assert draft.features == ["rate"] and draft.left_out == {"flow": why, "flags": why}


def test_a_boolean_of_parquet_is_a_category_as_its_words_are_in_csv(tmp_path: Path) -> None:
    rows = 120
    columns = {
        "rate": pa.array([row % 17 / 4 for row in range(rows)]),
        "encrypted": pa.array([row % 5 < 2 for row in range(rows)]),
        "label": pa.array([ATTACKS[row % 3] for row in range(rows)]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    pyarrow.csv.write_csv(pa.table(columns | {"label": columns["label"].dictionary_decode()}), tmp_path / "t.csv")
    for form in ("parquet", "csv"):
        told = new(str(tmp_path / f"t.{form}"), None, None, tmp_path / f"{form}.yaml")
        assert (told["features"], told["categories"]) == (["rate", "encrypted"], ["encrypted"])
        checked = check(str(tmp_path / f"{form}.yaml"), str(tmp_path / f"t.{form}"), 0.0)
        assert (checked["rows"], checked["values_of_categories"]) == (rows, {"encrypted": 2})


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_label_that_is_no_number_among_numbers_is_none(tmp_path: Path, form: str) -> None:
    labels = [float(row % 3) if row % 12 else float("nan") for row in range(120)]
    found = pa.table({"rate": [row % 17 / 4 for row in range(120)], "label": labels})
    write = pq.write_table if form == "parquet" else pyarrow.csv.write_csv
    write(found, tmp_path / f"t.{form}")
    draft = draft_spec(str(tmp_path / f"t.{form}"), "t")
    assert sorted(draft.labels) == ["0", "1", "2"] and "10 rows (8.3%) have no label in label." in draft.notes


def test_an_encoding_is_told_once(tmp_path: Path) -> None:
    file = Path(table(tmp_path / "t.csv", {"Label": the_label}, ["BENIGN", "Web Attack \u2013 XSS"]))
    file.write_bytes(file.read_text(encoding="utf-8").encode("cp1252"))
    draft = draft_spec(str(file), "t")
    assert sum("Windows-1252" in note for note in draft.notes) == 1
    assert draft.labels == {"BENIGN": "BENIGN", "Web Attack \u2013 XSS": "Web_Attack_XSS"}


def test_the_written_file_is_a_spec_whose_comments_show_flows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    columns: dict[str, Cell] = {"Flow Bytes/s": one_of("1.5", "2"), "a;b": one_of("1", "3"), "Label": the_label}
    file = table(tmp_path / "flows.csv", columns, ATTACKS)
    told = new(file, None, None, None, None, "values")
    spec = load_spec(tmp_path / told["spec"])
    assert spec.feature_names == ["duration", "src_bytes", "rate", "Flow_Bytes/s", "a_b"]
    assert len(told["examples"]) == 3 and told["examples"][0].startswith("duration: ")
    assert f"#   {told['examples'][0].splitlines()[0]}" in (tmp_path / told["spec"]).read_text()
    assert {feature.name: feature.unit for feature in spec.features}["Flow_Bytes/s"] == "bytes/s"
    json.dumps(told)


def test_no_name_or_value_breaks_the_drafted_file(tmp_path: Path) -> None:
    """A comment ends with its line, so that no column writes a key of its own."""
    odd = ["=cmd()", "a#b", "x: y", "- z", "{k}", "rowid", "%d", "null", "class {a: b}"]
    columns: dict[str, Cell] = {name: one_of("1", "=1+1", "", "#", "a: b") for name in odd}
    gaps: dict[str, Cell] = {"gaps #licence: mine": lambda row, label, draw: "" if row % 2 else 3}
    draft = drafted(tmp_path, columns | gaps | {"Label": one_of("a: b", "#c", "'d", "- e", "f\u2028g")})
    (tmp_path / "t.yaml").write_text(draft.yaml)
    spec = load_spec(tmp_path / "t.yaml")
    assert spec.licence == "TODO" and set(spec.labels) == {"a: b", "#c", "'d", "- e", "f\u2028g"}
    assert all(line.isprintable() for line in draft.yaml.split("\n"))


@pytest.mark.parametrize("name", ["file_row_number", "IOT_SOURCE_FILE", "iot_drafted_row"])
def test_a_column_named_like_one_of_our_own_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"column '{name}' has a name that reading keeps for itself: rename it"):
        drafted(tmp_path, {name: one_of("1", "2"), "Label": the_label})


def test_device_categories_and_the_set_of_a_merged_table(tmp_path: Path) -> None:
    draft = drafted(
        tmp_path,
        {"device_category": one_of("cam", "tv"), "Dataset": one_of("NF-BoT-IoT", "NF-ToN-IoT"), "Attack": the_label},
    )
    assert draft.categories == ["device_category"]
    assert draft.left_out == {"Dataset": "is named like an annotation of the label"}


def test_names_for_a_file_without_a_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path(table(tmp_path / "raw.csv", {"attack": the_label}, ATTACKS))
    file.write_text(file.read_text().split("\n", 1)[1])
    with pytest.raises(UserError, match="no header"):
        new(str(file), None, None, None)
    told = new(str(file), None, None, None, "duration,src_bytes,rate,attack")
    assert told["label"] == "attack" and load_spec(tmp_path / told["spec"]).column_names[0] == "duration"
    with pytest.raises(UserError, match=r"--columns: .* twice"):
        new(str(file), None, None, Path("x.yaml"), "a,a,b,c")


def test_the_glossary_knows_the_families_and_keeps_apart_what_tools_call_alike() -> None:
    for name in ("Fwd IAT Std", "TotLen Bwd Pkts", "orig_ip_bytes", "bwd_iat.avg", "ct_srv_dst", "OUT_PKTS", "Sload"):
        assert plain(name) in entries(), name
    assert len({entry.family for listed in entries().values() for entry in listed}) == 5
    assert all(entry.meaning and "{" not in entry.meaning for listed in entries().values() for entry in listed)
    assert known(["Flow Duration", "Flow IAT Max", "nobody knows"])["Flow Duration"].unit == "us"
    assert known(["flow_duration", "fwd_iat.max", "bwd_iat.tot"])["flow_duration"].unit == "s"
