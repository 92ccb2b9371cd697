"""Tracks: one request for equal work, rows joined by key, same rows in each track, quarantine that is seen."""

from dataclasses import replace
from operator import length_hint
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pytest

from iot_pipeline.augmentation import track_files, tracks
from iot_pipeline.augmentation.prompts import load_prompt
from iot_pipeline.augmentation.track_files import TrackResult, read_answers, write_track
from iot_pipeline.augmentation.tracks import TrackConfig
from iot_pipeline.augmentation.variation import Variation
from iot_pipeline.embedded_teacher.analyst import write_answer
from iot_pipeline.errors import UserError
from iot_pipeline.flows.serialise import flow_writer, group_id, parse_text, values_text
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.simulator.simulate import simulate_farm_flow
from iot_pipeline.teacher.request import Answer, Request, Usage

PROMPTS = Path(tracks.__file__).parent.parent / "prompts"
SPEC = load_spec("farm_flow")
BRIEF = TrackConfig(spec=SPEC, words=60, order="label_first", serialisation="values", seed=42)


class Direct:
    """The real analyst without HTTP: what the engine gives for each distinct request."""

    source = "embedded"

    def __init__(self, spoil: str = "") -> None:
        self.spoil = spoil
        self.asked: list[Request] = []

    def stream(self, requests, check, take):  # type: ignore[no-untyped-def]
        seen = set()
        for request in requests:
            if request.key in seen:
                continue
            seen.add(request.key)
            self.asked.append(request)
            wanted = (request.params[name] for name in ("temperature", "seed", "max_tokens"))
            text, finish, _ = write_answer(request.messages, *wanted)
            if self.spoil and self.spoil in text:
                text = text.replace("KEY_INDICATORS: ", "KEY_INDICATORS: made_up 1.5; ")
            reasons = tuple(check(request, text))
            take(
                Answer(
                    request.key,
                    "quarantined" if reasons else "ok",
                    text,
                    finish,
                    request.model,
                    self.source,
                    usage=Usage(100, 0, 10),
                    attempts=1,
                    reasons=reasons,
                )
            )


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("sim") / "flows.parquet"
    simulate_farm_flow(path, rows=300, seed=3)
    table = pd.read_parquet(path)
    table["label"] = [SPEC.label_of(code) for code in table["traffic"]]
    table["text"] = [values_text(SPEC, row) for row in table[SPEC.feature_names].to_numpy().tolist()]
    table["flow_group"] = [group_id(text) for text in table["text"]]
    table["repeat"] = table.groupby(["flow_group", "label"]).cumcount().astype("int32")
    table["position"] = table["row_id"] = np.arange(len(table))
    return table


def prompt(track: str):  # type: ignore[no-untyped-def]
    return load_prompt(PROMPTS / f"{track}.md")


@pytest.fixture(scope="module")
def original(rows: pd.DataFrame) -> TrackResult:
    return tracks.build_original(rows, prompt("original"), Direct(), BRIEF)


def test_equal_flow_and_label_is_asked_once_and_shares_its_answer(rows: pd.DataFrame, original: TrackResult) -> None:
    pairs = len(rows.drop_duplicates(["flow_group", "label"]))
    assert original.usage["distinct_requests"] == pairs < len(rows)
    assert (len(original.messages), original.quarantined) == (len(rows), 0)
    said = pd.Series([row["messages"][1]["content"] for row in original.messages])
    assert said.groupby([rows["flow_group"], rows["label"]]).nunique().max() == 1


def test_every_row_keeps_its_place_its_flow_and_its_label(rows: pd.DataFrame, original: TrackResult) -> None:
    for message, text, label in zip(original.messages, rows["text"], rows["label"], strict=True):
        user, assistant = message["messages"]
        assert user == {"role": "user", "content": text}
        assert assistant["content"].startswith(f"CLASSIFICATION: {label}\nANALYSIS: ")


def test_answers_come_back_as_they_were_written(original: TrackResult, tmp_path: Path) -> None:
    write_track(original, tmp_path)
    assert read_answers(tmp_path) == original.answers
    assert len((tmp_path / "track.jsonl").read_text().splitlines()) == len(original.messages)
    with pytest.raises(UserError, match=r"answers\.parquet is missing"):
        read_answers(tmp_path / "elsewhere")


def test_a_first_row_keeps_the_answer_and_each_further_one_is_paraphrased(
    rows: pd.DataFrame, original: TrackResult
) -> None:
    result = tracks.build_paraphrased(rows, original.answers, prompt("paraphrased"), Direct(), BRIEF)
    assert result.quarantined == 0
    for kind, repeat, first, second in zip(
        result.provenance["kind"].to_pylist(), rows["repeat"], original.messages, result.messages, strict=True
    ):
        assert first["messages"][0] == second["messages"][0]
        assert (first == second) == (repeat == 0) == (kind == "original")
    assert result.usage["distinct_requests"] == int((rows["repeat"] > 0).sum())


def test_a_quarantined_answer_is_listed_with_its_reason_and_stays_out_of_every_track(rows: pd.DataFrame) -> None:
    result = tracks.build_original(rows, prompt("original"), Direct(spoil="Normal"), BRIEF)
    bad = int((rows["label"] == "Normal").sum())
    assert result.quarantined == bad > 0
    assert len(result.messages) == len(rows) - bad
    listed = result.provenance.filter(pa.compute.equal(result.provenance["status"], "quarantined"))
    assert set(listed["label"].to_pylist()) == {"Normal"}
    assert any("unknown feature" in reason for reason in listed["reasons"].to_pylist()[0])
    after = tracks.build_paraphrased(rows, result.answers, prompt("paraphrased"), Direct(), BRIEF)
    assert after.quarantined == bad


@pytest.mark.parametrize("variation", list(Variation))
def test_varied_rows_meet_no_evaluation_flow_and_are_explained_anew(
    rows: pd.DataFrame, original: TrackResult, variation: Variation
) -> None:
    def to_text(values):  # type: ignore[no-untyped-def]
        return values_text(SPEC, values)

    def build(forbidden: set[str]) -> TrackResult:
        return tracks.build_feature_varied(
            rows, original.answers, prompt("feature_varied"), Direct(), BRIEF, variation, to_text, forbidden
        )

    free = build(set())
    groups = {
        g
        for g, k in zip(*(free.provenance[n].to_pylist() for n in ("varied_group", "kind")), strict=True)
        if k == "varied"
    }
    assert free.quarantined == 0 and groups
    kept = [m == o for m, o, r in zip(free.messages, original.messages, rows["repeat"], strict=True) if r == 0]
    assert all(kept)
    bound = build(groups)
    assert not groups & {group_id(row["messages"][0]["content"]) for row in bound.messages} - set(rows["flow_group"])
    assert free.report == build(set()).report


def test_compact_flows_are_read_explained_paraphrased_and_varied(rows: pd.DataFrame) -> None:
    write, brief = flow_writer(SPEC, "compact"), replace(BRIEF, serialisation="compact")
    short = rows.assign(text=[write(row) for row in rows[SPEC.feature_names].to_numpy().tolist()])
    first = tracks.build_original(short, prompt("original"), Direct(), brief)
    said = tracks.build_paraphrased(short, first.answers, prompt("paraphrased"), Direct(), brief)
    varied = tracks.build_feature_varied(
        short, first.answers, prompt("feature_varied"), Direct(), brief, Variation.physical, write, set()
    )
    assert [result.quarantined for result in (first, said, varied)] == [0, 0, 0]
    for row in first.messages + varied.messages:
        flow, answer = (turn["content"] for turn in row["messages"])
        printed = {name: value for name, value, _ in parse_text(flow)}
        cited = [item.split(" ")[:2] for item in answer.split("KEY_INDICATORS: ")[1].split("; ")]
        assert len(cited) >= 3 and all(printed[name] == value for name, value in cited)
    groups = dict(zip(short["text"], rows["flow_group"], strict=True))
    kept = [
        (row["messages"][0]["content"], group)
        for row, group, kind in zip(
            varied.messages, *(varied.provenance[name].to_pylist() for name in ("varied_group", "kind")), strict=True
        )
        if kind == "unchanged"
    ]
    assert kept and all(groups[text] == group for text, group in kept)
    assert len({row["messages"][0]["content"] for row in varied.messages} - set(short["text"])) > 10


def test_a_report_is_the_same_whatever_the_cache_held(rows: pd.DataFrame, original: TrackResult) -> None:
    again = tracks.build_original(rows, prompt("original"), Direct(), BRIEF)
    assert (again.report, again.messages) == (original.report, original.messages)
    assert set(original.usage) == {
        "rows",
        "requests",
        "distinct_requests",
        "prompt_tokens",
        "completion_tokens",
        "billed_usd",
        "model",
        "embedded",
        "quarantined",
    }


@pytest.mark.parametrize(
    ("source", "model", "embedded"),
    [
        ("embedded", "gpt-4o-mini", True),
        ("http://127.0.0.1:8100/v1", "embedded-analyst", True),
        ("https://api.openai.com/v1", "gpt-4o-mini", False),
    ],
)
def test_what_the_analyst_wrote_is_marked_wherever_it_ran(
    rows: pd.DataFrame, source: str, model: str, embedded: bool
) -> None:
    class Elsewhere(Direct):
        def stream(self, requests, check, take):  # type: ignore[no-untyped-def]
            super().stream(requests, check, lambda answer: take(replace(answer, model=model)))

    engine = Elsewhere()
    engine.source = source
    assert tracks.build_original(rows[:20], prompt("original"), engine, BRIEF).usage["embedded"] is embedded


def test_how_many_rows_are_held_at_once_changes_nothing(
    rows: pd.DataFrame, original: TrackResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def made(folder: Path) -> list[TrackResult]:
        first = tracks.build_original(rows, prompt("original"), Direct(spoil="Normal"), BRIEF)
        write_track(first, folder)
        said = tracks.build_paraphrased(rows, read_answers(folder), prompt("paraphrased"), Direct("Arp"), BRIEF)
        return [first, said]

    whole = made(tmp_path / "whole")
    monkeypatch.setattr(tracks, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(track_files, "ANSWERS_AT_ONCE", 7)
    for one, other in zip(whole, made(tmp_path / "parts"), strict=True):
        assert one.quarantined > 0
        assert (one.messages, one.report, one.usage) == (other.messages, other.report, other.usage)
        assert one.provenance.equals(other.provenance)
    assert read_answers(tmp_path / "whole") == read_answers(tmp_path / "parts") == whole[0].answers


def test_texts_are_made_as_requests_are_drawn(rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stops(Direct):
        def stream(self, requests, check, take):  # type: ignore[no-untyped-def]
            assert length_hint(requests) == len(rows.drop_duplicates(["flow_group", "label"]))
            next(iter(requests))
            raise UserError("the budget is used up")

    made: list[int] = []

    def to_texts(part: pd.DataFrame) -> list[str]:
        made.append(len(part))
        return tracks.text_column(part)

    monkeypatch.setattr(tracks, "ROWS_AT_ONCE", 10)
    with pytest.raises(UserError, match="budget"):
        tracks.build_original(rows, prompt("original"), Stops(), BRIEF, to_texts=to_texts)
    assert made == [10]


@pytest.mark.parametrize("loses", ["an answer", "rows"])
def test_what_an_engine_loses_is_no_track(rows: pd.DataFrame, loses: str) -> None:
    class Loses(Direct):
        def stream(self, requests, check, take):  # type: ignore[no-untyped-def]
            if loses == "rows":
                return
            first = next(iter(requests))
            super().stream(requests, check, lambda answer: take(answer) if answer.key != first.key else None)

    with pytest.raises(RuntimeError, match=r"1 of \d+ requests got no answer|0 of 300 rows were drawn"):
        tracks.build_original(rows, prompt("original"), Loses(), BRIEF)


def test_a_table_without_a_column_is_an_error(rows: pd.DataFrame) -> None:
    for name in ("repeat", "text"):
        with pytest.raises(UserError, match=f"lack the column '{name}'"):
            tracks.build_original(rows.drop(columns=name), prompt("original"), Direct(), BRIEF)
