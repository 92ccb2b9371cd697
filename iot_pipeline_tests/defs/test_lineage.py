"""From a figure or training row to its source, proofs that figures follow from their files, and replays."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from iot_pipeline import settings as settings_module
from iot_pipeline.commands import replay as replay_command
from iot_pipeline.commands.show import results
from iot_pipeline.commands.trace import show, trace
from iot_pipeline.commands.verify import exit_code
from iot_pipeline.definitions import defs
from iot_pipeline.defs import replay as replaying
from iot_pipeline.defs.dagster_internals import assets_alone, job_of_all_assets
from iot_pipeline.defs.execute import Outcome
from iot_pipeline.defs.recording import LakeResource
from iot_pipeline.defs.replay import compared
from iot_pipeline.defs.report import assets as report
from iot_pipeline.defs.report.checks import follows_from_its_files
from iot_pipeline.defs.verification import examine
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId, Lake, finish_artefact, read_manifest
from iot_pipeline.lake.verdict import last_verdict
from iot_pipeline.lake.verify import Verification
from iot_pipeline.machine import this_machine
from iot_pipeline.settings import PROJECT_ROOT, load_settings, settings
from iot_pipeline_tests.defs.reported import VALUES
from iot_pipeline_tests.defs.sides import make

REPORT = ArtefactId("paper_report")


@pytest.fixture
def lake(reported: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    """A lake of few flows with two tracks and a report on them."""
    for name, value in (VALUES | {"IOT_LAKE": str(reported)}).items():
        monkeypatch.setenv(name, value)
    settings_module.settings.cache_clear()
    yield Lake(reported)
    settings_module.settings.cache_clear()


@pytest.fixture
def copy(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    """A copy of the lake that a test may spoil."""
    shutil.copytree(lake.root, tmp_path / "lake")
    monkeypatch.setenv("IOT_LAKE", str(tmp_path / "lake"))
    settings_module.settings.cache_clear()
    yield Lake(tmp_path / "lake")
    settings_module.settings.cache_clear()


def verified(changed: dict[str, str] | None = None) -> Verification:
    return examine(load_settings(**(changed or {})), dict)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# -- trace ----------------------------------------------------------------------------------------------------


def test_a_table_leads_to_files_prompts_settings_cost_and_source(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    exhibits = json.loads((lake.folder(REPORT) / "exhibits.json").read_text())
    wanted = next(one for one in exhibits if one["assets"] == ["cost_report"] and one["kind"] == "table")
    found = trace(settings(), [wanted["name"]], None, None)
    show(found, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["exhibit"]["id"] == wanted["id"]
    file = lake.root / told["files"][0]["path"]
    assert file == lake.folder(ArtefactId("cost_report")) / "cost_report.json"
    links = {link["artefact"]: link for link in told["chain"]["links"]}
    assert {"cost_report", "original[10K]", "prompt[original]", "flow_texts", "flows", "raw_flows"} <= links.keys()
    manifest = lake.manifest(ArtefactId("original", "10K"))
    assert manifest is not None
    link = links["original[10K]"]
    assert (link["data_version"], link["code_commit"]) == (manifest.data_version, manifest.provenance["code_commit"])
    assert link["settings"]["teacher_seed"] == link["seed"] == 2027 and link["cost"]["requests"] > 50
    assert links["raw_flows"]["rows"] == 300 and link["problem"] == ""
    prompts = {one["name"]: one for one in told["chain"]["prompts"]}
    assert prompts["original"]["text"] == (lake.root / prompts["original"]["snapshot"]).read_text()
    assert told["chain"]["cost"]["requests"] > link["cost"]["requests"]  # the paraphrased ones too


def test_an_artefact_is_traced_by_its_name_and_says_that_a_file_was_altered(
    copy: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(copy.folder(ArtefactId("flow_texts")) / "writer.json", "2", "3")
    show(trace(settings(), ["original[10K]"], None, None), as_json=False)
    told = capsys.readouterr()
    assert "original[10K]  data version " in told.out and "Prompt original  sha256 " in told.out
    assert "flow_texts: file writer.json was changed" in told.err


def make_again(
    lake: Lake, artefact: ArtefactId, change: Callable[[Path], object], partition: str = "", **facts: Any
) -> None:
    """Make an artefact again with another content; `partition`: as another one, beside it."""
    was = lake.manifest(artefact)
    assert was is not None
    with lake.replacing(ArtefactId(artefact.asset, partition or artefact.partition)) as folder:
        shutil.copytree(lake.place(artefact), folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        change(folder)
        told = replace(was, partition=partition or was.partition, files={}, digest="", **facts)
        finish_artefact(folder, told, set())


def test_a_trace_tells_the_prompt_that_was_read_and_that_it_was_made_again_since(
    copy: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = ArtefactId("prompt", "paraphrased")
    before, text = copy.manifest(prompt), (copy.place(prompt) / "prompt.md").read_text()
    assert before is not None
    make_again(copy, prompt, lambda folder: edit(folder / "prompt.md", "\n", "\nBe brief.\n"))
    found = trace(settings(), ["paraphrased[10K]"], None, None)
    (told,) = (one for one in found["chain"].prompts if one.name == "paraphrased")
    assert (told.sha256, told.text) == (before.data_version, text)
    show(found, as_json=False)
    said = f"paraphrased[10K]: it was made of prompt[paraphrased] {before.data_version[:12]}, which is "
    assert said in capsys.readouterr().err
    make_again(copy, ArtefactId("cost_report"), lambda folder: edit(folder / "cost_report.json", "0.", "1."))
    exhibits = json.loads((copy.folder(REPORT) / "exhibits.json").read_text())
    table = next(one["name"] for one in exhibits if one["assets"] == ["cost_report"] and one["kind"] == "table")
    (problem,) = trace(settings(), [table], None, None)["problems"]
    assert problem.startswith(f"{table}: it was made of cost_report ")


def test_an_artefact_that_the_report_has_not_is_no_source_of_its_tables_and_leaves_it_stale(copy: Lake) -> None:
    exhibits = json.loads((copy.folder(REPORT) / "exhibits.json").read_text())
    table = next(one["name"] for one in exhibits if "paraphrased" in one["assets"])
    make_again(copy, ArtefactId("paraphrased", "10K"), lambda _: None, partition="30K")
    links = [link.artefact for link in trace(settings(), [table], None, None)["chain"].links]
    assert links[:2] == ["original[10K]", "paraphrased[10K]"] and "paraphrased[30K]" not in links
    found = verified()
    assert found.mismatches == [] and exit_code(found) == 3
    assert [line.split(" (")[0] for line in found.stale] == [
        f"{name}: paraphrased[30K] was made since" for name in ("cost_report", "paper_report")
    ]


@pytest.mark.parametrize(("words", "reason"), [
    (["table-999"], "there is no such table, figure, number or artefact; the report has table-1 to table-"),
    (["original[30K]"], "there is no such partition; there are original[10K]"),
    (["row"], "say which row"),
    (["row", "x"], "say which row"),
])  # fmt: skip
def test_what_there_is_not_is_said_with_what_there_is(lake: Lake, words: list[str], reason: str) -> None:
    with pytest.raises(UserError) as caught:
        trace(settings(), words, "10K", "original")
    assert reason in str(caught.value)


def row(number: int, track: str, stage: str = "10K") -> dict[str, object]:
    found: dict[str, object] = trace(settings(), ["row", str(number)], stage, track)["row"]
    return found


def test_a_training_row_leads_to_flow_request_prompt_answer_attempts_and_price(lake: Lake) -> None:
    lines = (lake.folder(ArtefactId("paraphrased", "10K")) / "track.jsonl").read_text().splitlines()
    for number in (1, 17, len(lines)):
        user, assistant = json.loads(lines[number - 1])["messages"]
        found = row(number, "paraphrased")
        assert (found["flow"], found["answer"]) == (user["content"], assistant["content"])
        request, prompt, source = found["request"], found["prompt"], found["source"]
        assert isinstance(request, dict) and isinstance(prompt, dict) and isinstance(source, dict)
        assert (lake.root / prompt["snapshot"]).read_text() == prompt["text"]
        asked = request["messages"][-1]["content"]
        assert user["content"] in asked if found["kind"] == "original" else "Rewrite this explanation" in asked
        (sent,) = found["attempts"]  # type: ignore[misc]
        assert sent["outcome"] == "answered" and found["price_usd"] == 0.0
        assert source["flow"]["label"] == found["label"] and source["raw_row"] == source["row_id"] + 1
        assert source["raw"]["orig_pkts"] == pytest.approx(source["flow"]["orig_pkts"])


def test_a_kept_answer_leads_to_the_request_of_the_original_track(lake: Lake) -> None:
    number = next(n for n in range(1, 40) if row(n, "paraphrased")["kind"] == "original")
    found = row(number, "paraphrased")
    assert found["answered_by"]["artefact"] == "original[10K]"  # type: ignore[index]
    assert found["prompt"]["name"] == "original" and found["key"] == row(number, "original")["key"]  # type: ignore[index]


@pytest.mark.parametrize(("number", "track", "stage", "reason"), [
    (100_000, "original", "10K", "row 100,000: stage 10K of original has "),
    (0, "original", "10K", "rows are numbered from 1"),
    (1, "original", "30K", "original[30K] has not been made"),
    (1, "orignal", "10K", "there is no such track; there are original, paraphrased, feature_varied"),
    (1, "original", "11K", "there is no such stage; there are 10K"),
])  # fmt: skip
def test_a_row_that_there_is_not_is_an_error(lake: Lake, number: int, track: str, stage: str, reason: str) -> None:
    if stage == "30K":
        number = 100_000
    with pytest.raises(UserError) as caught:
        row(number, track, stage)
    assert reason in str(caught.value)


def test_without_the_store_a_row_says_what_is_not_told(copy: Lake) -> None:
    (copy.root / "teacher.sqlite").unlink()
    found = row(3, "original")
    assert found["request"] is None and found["price_usd"] is None
    assert "there is no store of answers" in str(found["notes"])


# -- verify ---------------------------------------------------------------------------------------------------


def test_a_lake_as_it_was_made_is_clean_and_leaves_a_verdict(copy: Lake) -> None:
    found = verified()
    assert (found.mismatches, found.stale, found.notes, exit_code(found)) == ([], [], [], 0)
    assert found.exhibits > 10
    verdict = last_verdict(copy)
    assert verdict is not None and "as written" in verdict.sentence(copy) and "since" not in verdict.sentence(copy)
    shutil.rmtree(copy.folder(REPORT))
    make(report.paper_report)
    assert verdict.sentence(copy).endswith("as written")  # the same again is no change
    edit(copy.folder(REPORT) / "report.md", "0", "1")
    verified()
    verdict = last_verdict(copy)
    assert verdict is not None and "paper_report: report.md: " in verdict.sentence(copy)


EDITS: list[tuple[str, Callable[[str], tuple[str, str]], str]] = [
    ("report.md", lambda text: ("| paraphrased | 10K | ", "| paraphrased | 70K | "), "report.md, Table "),
    ("report.html", lambda text: ("<td>paraphrased</td>\n<td>10K</td>", "<td>paraphrased</td>\n<td>70K</td>"),
     "report.html, Table "),
    ("report.md", lambda text: ("distinct prompts carry", "distinct prompts bear"), "report.md, chapter Data"),
    ("report.html", lambda text: ("<em>Figure 1. ", "<em>Figure 1. Not "),
     "report.html, Figure 1 (dedup_report)"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "change", "told"), EDITS, ids=["md", "html", "prose", "caption"])
def test_an_edited_figure_of_the_report_is_named(
    copy: Lake, file: str, change: Callable[[str], tuple[str, str]], told: str
) -> None:
    path = copy.folder(REPORT) / file
    edit(path, *change(path.read_text()))
    found = verified()
    files = [one.file for one in found.mismatches]
    assert files[0] == file and len(files) == 2 and files[1].startswith(told)
    assert exit_code(found) == 1


def test_a_cell_is_named_by_row_and_column_in_every_form_of_the_table(copy: Lake) -> None:
    folder = copy.folder(REPORT)
    one = next(
        e for e in json.loads((folder / "exhibits.json").read_text()) if e["assets"] == ["cost_report"] and e["rows"]
    )
    cell = one["rows"][0][2]
    edit(folder / "tables" / f"{one['id']}.csv", cell, "7")
    (_, named) = verified().mismatches
    place = f"{one['name']} (cost_report), row {one['rows'][0][0]}, column {one['columns'][2]}"
    assert str(named) == f"paper_report: tables/{one['id']}.csv, {place}: expected {cell}, found 7"


def test_another_picture_is_named(copy: Lake) -> None:
    folder = copy.folder(REPORT) / "figures"
    shutil.copy(folder / "figure-2.png", folder / "figure-1.png")
    assert "figures/figure-1.png, Figure 1" in [one.file for one in verified().mismatches]


def test_figures_are_not_held_against_altered_files(copy: Lake) -> None:
    edit(copy.folder(ArtefactId("dedup_report")) / "dedup_report.json", "0.", "1.")
    found = verified()
    assert [(one.artefact, one.file) for one in found.mismatches] == [("dedup_report", "dedup_report.json")]
    assert "dedup_report.json" in found.notes[0] and found.exhibits == 0


def test_an_edited_prompt_and_a_changed_setting_are_stale_and_no_corruption(copy: Lake, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts"
    shutil.copytree(PROJECT_ROOT / "iot_pipeline" / "prompts", prompts)
    (prompts / "paraphrased.md").write_text((prompts / "paraphrased.md").read_text() + "\nBe brief.\n")
    shutil.rmtree(copy.folder(REPORT))  # its figures need not be drawn for this
    found = verified({"explanation_words": "50"})
    assert found.mismatches == [] and exit_code(found) == 3
    assert any(line.startswith("original[10K]: setting explanation_words changed (") for line in found.stale)
    manifest = copy.folder(ArtefactId("prompt", "paraphrased")) / "manifest.json"
    assert read_manifest(manifest).settings  # it names the file by its path
    found = verified({"prompts": str(prompts)})
    assert [line.split(" (")[0] for line in found.stale] == [
        f"prompt[{track}]: setting prompts changed" for track in ("original", "paraphrased")
    ]


def test_a_report_of_other_settings_is_no_result_of_a_run(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    made = Outcome([], [ArtefactId("raw_flows")], [], [])
    results(settings(), made, as_json=False)
    told = capsys.readouterr().out
    assert f"Report: {lake.folder(REPORT)}" in told and "stale" not in told
    results(load_settings(explanation_words="50"), made, as_json=False)
    told = capsys.readouterr().out
    assert "Report: /" not in told and "Results and report of an earlier run are stale" in told
    results(load_settings(explanation_words="50"), made, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["report"] is None and len(found["stale"]) == 1


def test_a_blocking_check_that_did_not_pass_is_told_and_is_no_corruption(copy: Lake) -> None:
    failed = {"reads_well": {"passed": False, "blocking": True, "facts": {}}}
    make_again(copy, REPORT, lambda folder: None, checks=failed)
    found = verified()
    assert (found.mismatches, exit_code(found)) == ([], 3)
    assert found.stale == ["paper_report: blocking check reads_well did not pass"]


def test_an_input_outside_the_lake_and_a_report_of_no_data_set_leave_the_rest_verified(copy: Lake) -> None:
    was = copy.manifest(REPORT)
    assert was is not None
    settings = {name: value for name, value in was.settings.items() if name != "setting dataset"}
    make_again(copy, REPORT, lambda folder: None, inputs=was.inputs | {"..@": "0" * 64}, settings=settings)
    found = verified()
    assert [one.file for one in found.mismatches] == ["input .."] and exit_code(found) == 1
    assert any("settings and code were not compared: .. is no name of an artefact" in note for note in found.notes)
    make_again(copy, REPORT, lambda folder: None, inputs=was.inputs, settings=settings)
    assert "the manifest of paper_report names no data set" in " ".join(verified().notes)


def test_the_check_in_the_ui_tells_what_verify_tells(copy: Lake) -> None:
    def check() -> dg.AssetCheckResult:
        result = follows_from_its_files(lake=LakeResource(folder=str(copy.root)))
        assert isinstance(result, dg.AssetCheckResult)
        return result

    assert check().passed
    edit(copy.folder(REPORT) / "report.md", "0", "1")
    failed = check()
    assert not failed.passed and "report.md" in str(failed.description) and "run again" in str(failed.description)


def test_a_run_leaves_out_checks_with_steps_of_their_own() -> None:
    job = assets_alone(job_of_all_assets(defs()), [dg.AssetKey("paper_report"), dg.AssetKey("flows")])
    assert {node.name for node in job.nodes} == {"paper_report", "flows"}


# -- replay ---------------------------------------------------------------------------------------------------


def test_replays_come_out_equal_to_the_byte_without_a_request(
    copy: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("iot_pipeline.teacher_factory.embedded_server", None)  # nobody is there to be asked
    monkeypatch.setenv("IOT_OPENLINEAGE_URL", "https://told.example")
    monkeypatch.setattr("iot_pipeline.defs.sinks.open_sinks", lambda _: pytest.fail("a sink was told of a replay"))
    before = {path: path.stat().st_mtime_ns for path in copy.root.rglob("*") if path.is_file()}
    names = ["flows", "paraphrased[10K]", "cost_report"]
    code = replay_command.show(replay_command.replayed(defs(), settings(), names), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [(one["artefact"], one["equal"], one["promise"]) for one in told] == [(n, True, "bytes") for n in names]
    assert {path: path.stat().st_mtime_ns for path in copy.root.rglob("*") if path.is_file()} == before
    assert settings().lake_path == copy.root


def test_a_replay_that_differs_is_named_with_its_file(copy: Lake) -> None:
    artefact = ArtefactId("dedup_report")
    was = copy.manifest(artefact)
    assert was is not None
    new = copy.root.parent / "new"
    shutil.copytree(copy.folder(artefact), new)
    edit(new / "dedup_report.json", "0.", "0.1")
    files = {**was.files, "dedup_report.json": {**was.files["dedup_report.json"], "sha256": "0" * 64}}
    now = replace(was, files=files, data_version="1" * 64)
    told = compared(artefact, was, now, copy.folder(artefact), new)
    assert not told.equal and not told.kept and "NOT KEPT" in str(told)
    assert told.differences[0].startswith("dedup_report.json: numbers differ by up to ")


@pytest.mark.parametrize("fact", ["processor", "packages"])
def test_what_another_processor_or_library_made_is_held_to_the_promise_for_other_machines(
    fact: str, copy: Lake
) -> None:
    made = ArtefactId("dedup_report")
    was, folder = copy.manifest(made), copy.folder(made)
    assert was is not None and was.provenance["machine"] == this_machine()
    now = replace(was, data_version="1" * 64)
    assert not compared(ArtefactId("base_model"), was, now, folder, folder).kept
    other = replace(was, provenance=was.provenance | {"machine": this_machine() | {fact: "other"}})
    told = compared(ArtefactId("base_model"), other, now, folder, folder)
    assert told.kept and told.promise == "none" and not told.equal


def test_a_stale_artefact_and_an_unknown_one_are_refused(copy: Lake) -> None:
    with pytest.raises(UserError, match="raw_flows: setting seed changed"):
        replaying.replay(defs(), load_settings(seed="1"), ArtefactId("dedup_report"))
    with pytest.raises(UserError, match="there is no such artefact"):
        list(replay_command.replayed(defs(), settings(), ["dedup"]))
