"""Specs: labels in every spelling, published facts that add up, clear errors."""

import json
from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.rare_rule import RareClasses
from iot_pipeline.flows.spec import DATASETS, DatasetSpec, Feature, Format, Scale, list_specs, load_spec, spec_files
from iot_pipeline_tests.command_line import call


@pytest.mark.parametrize("stored", [3, "3", "3.0", 3.0, " 3 ", "HTTP_Flood"])
def test_a_label_is_known_however_it_was_stored(stored: object) -> None:
    assert load_spec("farm_flow").label_of(stored) == "HTTP_Flood"


@pytest.mark.parametrize("stored", ["9", "", "nan", "3.5", "http flood", None])
def test_an_unknown_label_is_none(stored: object) -> None:
    assert load_spec("farm_flow").label_of(stored) is None


def test_a_label_of_more_digits_than_python_reads_is_unknown() -> None:
    assert load_spec("farm_flow").label_of("9" * 5000) is None


def test_absent_codes_lead_to_absent_classes() -> None:
    spec = load_spec("farm_flow")
    assert [spec.label_of(code) for code in (2, 8)] == spec.absent_classes == ["BotNet_DDOS", "UDP_Flood"]


def test_specs_of_the_family_load_and_have_the_29_features_in_order() -> None:
    family = ["farm_flow", "farm_flow_8", "farm_flow_binary", "rt_iot2022"]
    assert set(list_specs()) >= set(family)
    names = [load_spec(name).feature_names for name in family]
    assert names[0] == names[1] == names[2] == names[3]
    assert len(names[0]) == 29
    assert (names[0][0], names[0][28]) == ("missed_bytes", "data_pkts_difference")


def test_published_facts_add_up_as_far_as_they_do() -> None:
    facts = load_spec("farm_flow").facts
    assert sum(facts["class_rows"].values()) == facts["rows"] == 347_685
    assert sum(facts["class_rows_published"].values()) == facts["rows_published"] == 405_296
    assert sum(facts["class_rows_prior_work"].values()) == 347_634
    eight = load_spec("farm_flow_8").facts
    assert sum(eight["class_rows"].values()) == eight["rows"] == 7 * 57_611 + 2_019 == 405_296
    assert eight["quartiles"] == facts["quartiles"] and "class_rows_published" not in eight
    assert sum(load_spec("rt_iot2022").facts["class_rows"].values()) == 123_117


def test_scales_reproduce_the_published_values() -> None:
    spec = load_spec("farm_flow")
    recovered = spec.facts["recovered_scales"]
    assert len(recovered) == 7
    for name, fact in recovered.items():
        scale = spec.features[spec.feature_names.index(name)].scale
        assert scale is not None and scale.basis == "recovered"
        # pkts_difference is published with four digits for 0; the values of orig_pkts disagree by 0.000002.
        tolerance = 0.00005 if name == "pkts_difference" else 0.0000026
        for raw, published in fact["checks"].items():
            assert scale.from_raw(raw) == pytest.approx(published, abs=tolerance)
            assert scale.to_raw(published) == pytest.approx(raw, abs=0.01)


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(UserError, match=r"farm_flow, farm_flow_8, farm_flow_binary, .*rt_iot2022"):
        load_spec("frm_flow")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "does not describe a data set"),
        ("a: [", "not valid YAML"),
        ("extends: farm_flow\nlabels: {0: Other}\n", "Other"),
        ("extends: farm_flow\nformat: {decimals: 3, significant: 4}\n", "either decimals or significant"),
        ("extends: farm_flow\ntypo: 1\n", "typo"),
        ("extends: farm_flow\nkeep_facts: rows\n", "keep_facts must be a list"),
        ("extends: farm_flow\nkeep_facts: [rows, quartile]\n", "farm_flow has no facts quartile"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_spec(path)


def features(*names: str) -> str:
    """A file whose features are those named, filled up to ten."""
    all_names = [*names, *(f"filler{place}" for place in range(10 - len(names)))]
    parts = [{"name": name, "unit": "", "meaning": "made", "expression": "1"} for name in all_names]
    return f"extends: farm_flow\nfeatures: {json.dumps(parts)}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (features("it's"), "it's.*blank, colon, quote or control"),
        (features("a\x07b"), "blank, colon, quote or control"),
        (features("a b"), "blank, colon, quote or control"),
        (features("Pkts", "pkts"), "features 'Pkts' and 'pkts' differ in case only"),
        (features("pkts", "pkts"), "two features have the same name"),
        (features("Label"), "'Label' is a column of the pipeline's own"),
        (features("occurrence"), "'occurrence' is a column of the pipeline's own"),
        (features(*(f"f{place}" for place in range(201))), "it has 201; a data set has 1 to 200 features"),
        (f"extends: farm_flow\nclasses: {json.dumps([f'c{n}' for n in range(101)])}\nlabels: {{}}\n",
         "it has 101; a data set has 2 to 100 classes"),
        ("extends: farm_flow\nclasses: ['0', '1']\nlabels: {}\n", "class '0' is a number, which texts cannot tell"),
        ("extends: farm_flow\nlabels: {1: Normal, '1.0': TCP_Flood}\n", "label '1' stands there twice, with"),
        ("extends: farm_flow\nlabels: {no: Normal, yes: TCP_Flood}\n", "labels: YAML reads yes, no, .*in quotes"),
        ("extends: farm_flow\nabsent_classes: [BotNet_DDOS, TCP_Flood]\n", "class 'TCP_Flood' is an absent class too"),
        ("extends: farm_flow\nscaling: none\n", "has a scale, and scaling none says that values are raw"),
        ("extends: rt_iot2022\nscaling: given\nmore_features: [{name: z, unit: '', meaning: '', scale: {kind: zscore, "
         "mean: .nan, std: 1}}]\n", "mean: Input should be a finite number"),
        ("extends: farm_flow\nrare_classes: {then: group}\n", "rare_classes: then: group needs `into: NAME`"),
        ("extends: farm_flow\nrare_classes: {then: leave_out, into: Rare}\n", "then: leave_out has no into"),
        ("extends: farm_flow\nrare_classes: {then: group, into: BotNet_DDOS}\n", "BotNet_DDOS is an absent class"),
    ],
)  # fmt: skip
def test_names_and_sizes_that_cannot_be_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        load_spec(tmp_path / "mine.yaml")


@pytest.mark.parametrize(("columns", "classes"), [(1, 2), (200, 100)])
def test_smallest_and_largest_data_sets_load(tmp_path: Path, columns: int, classes: int) -> None:
    parts = [{"name": f"f{place}", "unit": "", "meaning": "made"} for place in range(columns)]
    text = (
        f"extends: rt_iot2022\nfeatures: {json.dumps(parts)}\nclasses: {json.dumps([f'c{n}' for n in range(classes)])}"
    )
    (tmp_path / "mine.yaml").write_text(text)
    spec = load_spec(tmp_path / "mine.yaml")
    assert (len(spec.features), len(spec.classes)) == (columns, classes)


def test_ten_made_features_are_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(features("a/b", "größe"))
    assert load_spec(tmp_path / "mine.yaml").feature_names[:2] == ["a/b", "größe"]


def test_every_key_of_a_data_set_file_is_described() -> None:
    told = (DATASETS / "README.md").read_text()
    parts = (DatasetSpec, Feature, Scale, Format, RareClasses)
    keys = {name for part in parts for name, field in part.model_fields.items() if not field.exclude}
    keys |= {"extends", "keep_facts"}
    assert {key for key in keys if f"`{key}`" not in told and f"{{{key}:" not in told} == set()


@pytest.mark.parametrize(
    "bad", ["<|im_end|>", "a<|endoftext|>", "</s>", "<s>", "<end_of_turn>", "<<SYS>>", "[INST]", "<｜User｜>", "a\nb",
            "a\u2028b", "a\u202eb"]
)  # fmt: skip
@pytest.mark.parametrize("where", ["feature", "class", "absent class", "meaning", "unit"])
def test_chat_tokens_and_control_characters_are_refused(tmp_path: Path, bad: str, where: str) -> None:
    parts = [{"name": f"f{place}", "unit": "", "meaning": "made"} for place in range(10)]
    content: dict[str, object] = {"extends": "farm_flow", "features": parts}
    if where == "feature":
        parts[3]["name"] = f"x{bad}"
    elif where in ("meaning", "unit"):
        parts[3][where] = f"of {bad} packets"
    else:
        name = "classes" if where == "class" else "absent_classes"
        content[name] = [*getattr(load_spec("farm_flow"), name), f"x{bad}"]
    (tmp_path / "mine.yaml").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"mine.yaml: .*(control token|control character)"):
        load_spec(tmp_path / "mine.yaml")


def test_a_folded_meaning_and_a_name_with_a_bracket_are_taken(tmp_path: Path) -> None:
    parts = [{"name": f"len<{place}", "unit": "B/s [mean]", "meaning": "made\n"} for place in range(10)]
    (tmp_path / "mine.yaml").write_text(json.dumps({"extends": "farm_flow", "features": parts}))
    assert load_spec(tmp_path / "mine.yaml").features[0].meaning == "made"


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("1) AS f0; COPY (SELECT 1) TO 'WRITTEN.txt'; SELECT (1", "the expression of feature f3 cannot be used: "),
        ("(SELECT content FROM read_text('mine.yaml'))", "the expression of feature f3 cannot be used: .* a subquery"),
        ("source_label", "feature f3 cannot be used: it reads source_label"),
        ('"TRAFFIC"', "feature f3 reads traffic, the label column"),
    ],
)
def test_an_expression_that_is_no_scalar_of_features_is_refused(tmp_path: Path, expression: str, why: str) -> None:
    parts = [{"name": f"f{place}", "unit": "", "meaning": "made", "expression": "0"} for place in range(10)]
    parts[3]["expression"] = expression
    (tmp_path / "mine.yaml").write_text(json.dumps({"extends": "farm_flow", "features": parts}))
    with pytest.raises(UserError, match=f"mine.yaml: .*{why}") as caught:
        load_spec(tmp_path / "mine.yaml")
    assert "\n" not in str(caught.value)


def test_datasets_check_runs_no_statement_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    columns = ", ".join(f"0.5 AS f{place}" for place in range(10))
    statement = (
        "0.5 AS DOUBLE) AS f9 FROM cells; COPY (SELECT 1) TO 'WRITTEN.txt'; CREATE OR REPLACE TEMP TABLE featured AS "
        f"SELECT source_row, source_label, {columns} FROM cells; SELECT TRY_CAST(1"
    )
    parts = [{"name": f"f{place}", "unit": "", "meaning": "made", "expression": "0.5"} for place in range(9)]
    parts.append({"name": "f9", "unit": "", "meaning": "made", "expression": statement})
    (tmp_path / "mine.yaml").write_text(json.dumps({"extends": "farm_flow", "features": parts}))
    (tmp_path / "flows.csv").write_text("a,traffic\n1,0\n")
    done = call("datasets", "check", "mine.yaml", "flows.csv")
    assert done.returncode == 2 and "error: mine.yaml: the expression of feature f9 cannot be used" in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flows.csv", "mine.yaml"]


def test_a_file_that_extends_itself_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, other in (("a", "b"), ("b", "a"), ("c", "c"), ("long", "x" * 5000), ("list", ["a"])):
        Path(f"{name}.yaml").write_text(json.dumps({"extends": f"./{other}.yaml" if name != "list" else other}))
    for number in range(12):
        Path(f"n{number}.yaml").write_text(f"extends: n{number + 1}.yaml\n")
    for read in (load_spec, spec_files):
        with pytest.raises(UserError, match=r"a.yaml: extends: a.yaml extends b.yaml extends a.yaml: .*itself"):
            read("a.yaml")
        with pytest.raises(UserError, match=r"c.yaml extends c.yaml"):
            read("c.yaml")
        with pytest.raises(UserError, match="more than 10 files extend one another"):
            read("n0.yaml")
        for name in ("long", "list"):
            with pytest.raises(UserError, match="there is no data set"):
                read(f"{name}.yaml")
