"""A reviewer's bundle: whole, readable by the tools it is for, proved to the byte, and made again offline."""

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from iot_pipeline import settings as settings_module
from iot_pipeline.bundle import contents, rerun
from iot_pipeline.bundle.forms import ITEMS
from iot_pipeline.bundle.rerun import differing_cells
from iot_pipeline.bundle.seal import check_bundle, write_sums
from iot_pipeline.bundle.source import Source, open_source
from iot_pipeline.commands.bundle import export, show_check, show_comparison
from iot_pipeline.definitions import defs
from iot_pipeline.defs import execute, plan
from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.lake.store import Lake
from iot_pipeline.reporting.exhibits import Exhibit, read_exhibits
from iot_pipeline.settings import PROJECT_ROOT, load_settings, settings
from iot_pipeline.teacher_factory import source_of
from iot_pipeline_tests.defs.reported import VALUES


@pytest.fixture
def chosen(reported: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings of the lake with a report."""
    for name, value in (VALUES | {"IOT_LAKE": str(reported)}).items():
        monkeypatch.setenv(name, value)
    settings_module.settings.cache_clear()
    yield
    settings_module.settings.cache_clear()


@pytest.fixture(scope="session")
def bundle(reported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed bundle, which no test may change."""
    root = tmp_path_factory.mktemp("bundle")
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", root / "key"], check=True)
    subprocess.run(["openssl", "ec", "-in", root / "key", "-pubout", "-out", root / "public"], check=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (VALUES | {"IOT_LAKE": str(reported)}).items():
            patch.setenv(name, value)
        settings_module.settings.cache_clear()
        told = export(settings(), root / "made", root / "key")
    settings_module.settings.cache_clear()
    assert told["bytes"] == check_bundle(root / "made", root / "public").bytes
    return root / "made"


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_a_bundle_is_whole_and_names_no_machine(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    wanted = """report/report.html report/tables/table-1.tex report/figures/figure-1.svg report/figures/figure-1.pdf
        prompts/original.md lineage.json answers/answers.parquet config/settings.env
        environment/requirements.lock.txt data/test.jsonl data/README.md REFORMS.md ARTIFACT-APPENDIX.md bundle.sig"""
    for name in wanted.split():
        assert (bundle / name).is_file(), name
    words = [str(tmp_path_factory.getbasetemp().parent), str(PROJECT_ROOT), str(Path.home()) + "/"]
    for path in bundle.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".md", ".html", ".env", ".txt", ".yaml", ".csv"):
            assert not [word for word in words if word in path.read_text()], path
    assert pq.read_metadata(bundle / "answers" / "answers.parquet").num_rows > 100
    assert "SIMULATED" in (bundle / "README.md").read_text()


def test_a_bundle_is_verified_by_its_sums_its_lineage_and_its_signature(bundle: Path) -> None:
    found = check_bundle(bundle, bundle.parent / "public")
    assert found.mismatches == [] and found.files > 40 and "signature checked" in found.signed
    done = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=bundle, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_flipped_byte_in_any_kind_of_file_is_named(copy: Path) -> None:
    first = {
        path.suffix: path
        for path in sorted(copy.rglob("*"))
        if path.is_file() and path.name not in ("bundle.sig", "SHA256SUMS")
    }
    assert len(first) > 10
    for path in first.values():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    found = check_bundle(copy)
    named = {line.split(":")[0] for line in found.mismatches}
    for path in first.values():
        assert path.relative_to(copy).as_posix() in named, path
    assert show_check(found, as_json=True) == 1


def test_missing_further_and_consistently_changed_files_are_named(copy: Path) -> None:
    (copy / "REFORMS.md").unlink()
    (copy / "more.txt").write_text("x")
    report = copy / "report" / "report.md"
    report.write_text(report.read_text().replace("0", "1", 1))
    sums = (copy / "SHA256SUMS").read_text()
    line = next(one for one in sums.splitlines() if one.endswith("  report/report.md"))
    digest = subprocess.run(["sha256sum", report], capture_output=True, text=True, check=True).stdout.split()[0]
    (copy / "SHA256SUMS").write_text(sums.replace(line, f"{digest}  report/report.md"))
    told = check_bundle(copy).mismatches
    assert any(one.startswith("REFORMS.md: expected sha256 ") and one.endswith("no file") for one in told)
    assert "more.txt: no such file in SHA256SUMS" in told
    assert any(one.startswith("report/report.md: sha256 ") and "its manifest says" in one for one in told)


def test_a_signature_of_changed_files_does_not_verify(copy: Path, bundle: Path) -> None:
    (copy / "REFORMS.md").write_text("x")
    told = check_bundle(copy, bundle.parent / "public").mismatches
    assert any(one.startswith("bundle.sig: does not verify") for one in told)


def test_ro_crate_is_read_and_leads_from_the_report_to_the_prompt(bundle: Path) -> None:
    from rocrate.rocrate import ROCrate

    crate = ROCrate(bundle)
    assert crate.mainEntity["@id"] == "workflow.json"
    profiles = {one["@id"] for one in crate.root_dataset["conformsTo"]}
    assert "https://w3id.org/ro/wfrun/provenance/0.5" in profiles
    action = crate.dereference("#make-paraphrased@10K")
    assert {one["name"] for one in action["object"]} >= {"prompt[paraphrased]", "original[10K]"}
    steps = {one["name"] for one in crate.mainEntity["step"]}
    assert {"paper_report", "original", "raw_flows"} <= steps
    by_id = {one["@id"]: one for one in json.loads((bundle / "ro-crate-metadata.json").read_text())["@graph"]}
    # What the profile's validator requires and recommends, as far as the machine knows it.
    assert "ComputerLanguage" in by_id[by_id["workflow.json"]["programmingLanguage"]["@id"]]["@type"]
    assert by_id["./"]["license"]["@id"] in by_id and by_id["README.md"]["about"] == {"@id": "./"}
    assert by_id["#make-raw_flows@"]["endTime"] and by_id["#make-raw_flows@"]["result"] == {
        "@id": "#artefact-raw_flows@"
    }
    ids = set(by_id)
    assert {one.id for one in crate.data_entities if one.type == "File"} <= ids


def test_croissant_is_valid_and_gives_the_test_flows(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlcroissant

    monkeypatch.chdir(bundle)
    data = mlcroissant.Dataset(jsonld=bundle / "croissant.json")
    assert data.metadata.ctx.issues.errors == set()
    assert data.metadata.personal_sensitive_information and data.metadata.data_biases
    rows = [json.loads(line) for line in (bundle / "data" / "test.jsonl").read_text().splitlines()]
    first = next(iter(data.records("test")))
    assert first["test/flow"].decode() == rows[0]["flow"] and first["test/label"].decode() == rows[0]["label"]
    chats = list(data.records("original-10K"))
    assert chats[0]["original-10K/completion"].startswith(b"CLASSIFICATION: ")


# Keys of lm_eval.api.task.TaskConfig (0.4.13) that the task uses.
LM_EVAL = {"task", "dataset_path", "dataset_kwargs", "test_split", "output_type", "doc_to_text", "target_delimiter",
           "doc_to_choice", "doc_to_target", "metric_list", "metadata"}  # fmt: skip


def test_the_lm_eval_task_scores_the_class_of_each_test_flow(bundle: Path) -> None:
    from jinja2 import Environment

    task: dict[str, Any] = yaml.safe_load((bundle / "lm_eval" / "iot_flows.yaml").read_text())
    assert task.keys() == LM_EVAL and task["output_type"] == "multiple_choice"
    assert (bundle / task["dataset_kwargs"]["data_files"]["test"]).is_file()
    environment = Environment()
    for line in (bundle / "data" / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert environment.from_string(task["doc_to_text"]).render(**row) == row["flow"]
        target = int(environment.from_string(task["doc_to_target"]).render(**row))
        assert task["doc_to_choice"][target] == f"CLASSIFICATION: {row['label']}"


def test_reforms_has_32_items_of_which_those_of_people_are_marked(bundle: Path) -> None:
    told = json.loads((bundle / "reforms.json").read_text())
    assert len(told) == len(ITEMS) == len({one["item"] for one in told}) == 32
    people = {one["item"] for one in told if one["answered_by"] == "authors"}
    assert {"1a", "1b", "1c", "3b", "5b", "6c"} <= people and "2e" not in people
    assert (bundle / "REFORMS.md").read_text().count("TO BE ANSWERED BY THE AUTHORS") == len(people)


def test_forms_claim_what_is_in_the_bundle(bundle: Path) -> None:
    appendix, readme = ((bundle / name).read_text() for name in ("ARTIFACT-APPENDIX.md", "lm_eval/README.md"))
    assert "so no personal data is in them" in appendix and "make run" not in appendix
    assert not (bundle / "models" / "10K-original").exists() and "peft=models/STAGE-TRACK" in readme  # no student yet
    locked = (bundle / "environment" / "requirements.lock.txt").read_text()
    assert "+" not in locked and "torch==" in locked  # a package index does not know torch==2.13.0+cpu


def test_the_dataset_card_has_front_matter_of_the_files_beside_it(bundle: Path) -> None:
    _, front, text = (bundle / "data" / "README.md").read_text().split("---\n", 2)
    configs = {one["config_name"]: one["data_files"][0]["path"] for one in yaml.safe_load(front)["configs"]}
    assert configs["test"] == "test.jsonl" and all((bundle / "data" / path).is_file() for path in configs.values())
    assert "SIMULATED" in text


@pytest.mark.usefixtures("chosen")
def test_a_lake_that_does_not_follow_from_its_settings_gives_no_bundle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("x")
    with pytest.raises(UserError, match="is there and not empty"):
        export(settings(), tmp_path / "there", None)
    monkeypatch.setenv("IOT_EXPLANATION_WORDS", "50")
    settings_module.settings.cache_clear()
    with pytest.raises(UserError, match="could not be run again"):
        export(settings(), tmp_path / "new", None)
    assert not (tmp_path / "new").exists()


@pytest.fixture
def environment() -> Iterator[None]:
    """Variables as they are, after a test as before it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    settings_module.settings.cache_clear()


@pytest.mark.usefixtures("environment")
def test_a_bundle_is_made_again_without_key_teacher_or_network(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("iot_pipeline.teacher_factory.embedded_server", refuse)
    monkeypatch.setenv("IOT_SEED", "5")  # the bundle's own holds
    monkeypatch.setenv("IOT_LAKE", str(tmp_path / "lake"))
    rerun.use_bundle(bundle)
    settings_module.settings.cache_clear()
    chosen = settings()
    assert chosen.data.rows == 300 and chosen.data.seed == 2027 and chosen.teacher.server == "embedded"
    assert (
        chosen.teacher.prompts.resolve() == bundle.resolve() / "prompts" and rerun.bring_answers(chosen, bundle) > 100
    )
    wanted = {"prompt", "original", "paraphrased", "raw_flows", "flows", "evaluation_split", "training_order",
              "flow_texts", "dedup_report", "label_conflicts"}  # fmt: skip
    planned = [p for p in plan.wanted(defs(), chosen) if p.artefact.asset in wanted]
    outcome = execute.execute(defs(), chosen, planned)
    assert outcome.failed == []
    found = rerun.compare(chosen, bundle)
    assert set(found.equal) == {str(p.artefact) for p in planned} and found.broken == []
    assert found.missing == ["cost_report", "paper_report"]
    assert not found.kept
    show_comparison(found)


def test_no_secret_of_an_address_is_in_a_bundle() -> None:
    addresses = {
        "teacher": "https://me:secret@host/v1?sig=secret",
        "source": "s3://k:secret@b/a.csv?t=secret,/data/b.csv",
    }
    told = dict(
        contents._settings(Source(Lake(Path("/nowhere")), load_settings(**addresses), load_spec("farm_flow"), {}))
    )
    assert (told["IOT_TEACHER"], told["IOT_SOURCE"]) == ("https://host/v1", "s3://b/a.csv,b.csv")
    assert "secret" not in str(told)


def test_an_address_of_azure_can_be_read_from_a_bundle() -> None:
    address = "https://me:secret@name.openai.azure.com/openai/deployments/D?api-version=2024-10-21&sig=secret"
    chosen = load_settings(teacher=address)
    told = dict(contents._settings(Source(Lake(Path("/nowhere")), chosen, load_spec("farm_flow"), {})))["IOT_TEACHER"]
    assert "secret" not in told and source_of(load_settings(teacher=told)) == source_of(chosen)


@pytest.mark.usefixtures("chosen")
def test_answers_of_other_teachers_stay_out_of_a_bundle(reported: Path, tmp_path: Path) -> None:
    shutil.copy(reported / "teacher.sqlite", tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "teacher.sqlite")) as store:
        store.executescript("""
            CREATE TEMP TABLE one AS SELECT * FROM answers LIMIT 1;
            UPDATE one SET source = 'https://tried.example/v1';
            INSERT INTO answers SELECT * FROM one;""")
    lake = Lake(reported, read_only=True)
    given = open_source(lake, load_settings(teacher_store=str(tmp_path / "teacher.sqlite")), load_spec("farm_flow"))
    contents.write_answers(given, tmp_path)
    named = set(pq.read_table(tmp_path / contents.ANSWERS)["source"].to_pylist())
    assert len(named) == 1 and "tried" not in str(named)  # `run --from` gives out those of one teacher


def test_every_setting_that_adds_artefacts_is_in_a_bundle() -> None:
    asked = {"unknown": "true", "distil": "true", "grid": "true", "controls": "label_only", "stages": "10K,30K"}
    told = dict(contents._settings(Source(Lake(Path("/nowhere")), load_settings(**asked), load_spec("farm_flow"), {})))
    assert {name: told.get(f"IOT_{name.upper()}") for name in asked} == asked
    assert all(rerun.decides_content(f"IOT_{name.upper()}") for name in asked)


def test_a_spoilt_bundle_is_not_run(copy: Path) -> None:
    (copy / "config" / "settings.env").write_text("IOT_ROWS=400\n")
    with pytest.raises(UserError, match=r"config/settings\.env: expected sha256"):
        rerun.use_bundle(copy)


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize(
    ("out", "key", "named"), [("/proc/x", None, "/proc/x cannot be written"), ("new", "nokey.pem", "--sign nokey.pem")]
)
def test_a_place_or_key_that_cannot_be_used_is_named(out: str, key: str | None, named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=named):
        export(settings(), tmp_path / out, Path(key) if key else None)


@pytest.mark.parametrize("line", ["IOT_TEACHER_STORE=/tmp/x.sqlite", "OPENAI_API_KEY=x", "IOT_SOURCE=http://x/${HOME}"])
def test_settings_that_a_stranger_must_not_choose_are_refused(line: str, copy: Path) -> None:
    with (copy / "config" / "settings.env").open("a") as lines:
        lines.write(f"{line}\n")
    write_sums(copy)
    with pytest.raises(UserError, match=f"settings.env.* {line.split('=')[0]}.*such a bundle is not run"):
        rerun.use_bundle(copy)


@pytest.mark.usefixtures("environment")
def test_a_profile_of_a_stranger_is_not_read(copy: Path) -> None:
    (copy / "config" / "theirs.yaml").write_text("failure_webhook: https://elsewhere.example/hook\n")
    path = os.path.relpath(copy / "config" / "theirs", settings_module.PROFILES)
    (copy / "config" / "settings.env").write_text(f"IOT_PROFILE={path}\n")
    write_sums(copy)
    rerun.use_bundle(copy)
    settings_module.settings.cache_clear()
    with pytest.raises(UserError, match="IOT_PROFILE: no profile"):
        settings()


@pytest.mark.usefixtures("environment")
def test_files_of_a_real_source_may_be_named_and_rows_of_a_simulated_one_not(copy: Path) -> None:
    os.environ["IOT_SOURCE"] = "/elsewhere/flows.csv"
    rerun.use_bundle(copy)
    assert "IOT_SOURCE" not in os.environ
    with (copy / "config" / "settings.env").open("a") as lines:
        lines.write("IOT_SOURCE=flows.csv\n")
    write_sums(copy)
    os.environ["IOT_SOURCE"] = "/elsewhere/flows.csv"
    rerun.use_bundle(copy)
    assert os.environ["IOT_SOURCE"] == "/elsewhere/flows.csv"


def test_links_and_pipes_in_a_bundle_are_named_and_not_read(copy: Path) -> None:
    (copy / "REFORMS.md").unlink()
    (copy / "REFORMS.md").symlink_to("/dev/zero")
    (copy / "environment").rename(copy.parent / "elsewhere")
    (copy / "environment").symlink_to(copy.parent / "elsewhere")
    os.mkfifo(copy / "waiting")
    told = check_bundle(copy).mismatches
    assert {"REFORMS.md: no plain file", "environment: no plain file", "waiting: no plain file"} <= set(told)


@pytest.mark.parametrize("content", ["[]", '{"artefacts": [1]}', '{"artefacts": [{"asset": "prompt"}]}', "[" * 100_000])
def test_a_lineage_of_another_shape_is_named(content: str, copy: Path) -> None:
    (copy / "lineage.json").write_text(content)
    assert "lineage.json: cannot be read" in check_bundle(copy).mismatches


def test_a_table_that_left_the_bundle_with_its_hash_is_named(copy: Path) -> None:
    (copy / "report" / "tables" / "table-1.csv").unlink()
    write_sums(copy)
    (told,) = check_bundle(copy).mismatches
    assert told.startswith("report/tables/table-1.csv: no such file, but its manifest says")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda text: "${" not in text))
def test_any_value_of_a_setting_is_read_back(value: str) -> None:
    lines = StringIO(f"IOT_SOURCE={contents._quoted(value)}\nIOT_ROWS=5\n")
    assert dotenv_values(stream=lines) == {"IOT_SOURCE": value, "IOT_ROWS": "5"}


def test_cells_of_two_reports_are_compared_times_apart(bundle: Path) -> None:
    exhibits = read_exhibits(bundle / "report")
    assert differing_cells(exhibits, exhibits) == []
    was = Exhibit("table", 1, "training", "Runs.", ["x"], ["name", "time", "loss"], [["a", "1 s", "0.5"]])
    now = Exhibit("table", 1, "training", "Runs.", ["x"], ["name", "time", "loss"], [["a", "2 s", "0.6"]])
    assert differing_cells([was], [now]) == ["Table 1, row a, column loss: 0.5, now 0.6"]
    assert differing_cells([was], [replace(now, rows=[["a", "3 s", "0.5001"]])]) == []  # a last digit
    assert differing_cells([was], []) == ["Table 1: not in the new report"]
