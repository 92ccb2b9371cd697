"""Tracks: one request for equal work, rows joined by key, same rows in each track, quarantine that is seen."""

import contextlib
import itertools
from dataclasses import replace
from operator import length_hint
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest

from iot_pipeline.augmentation import join as joining
from iot_pipeline.augmentation import plan as planning
from iot_pipeline.augmentation.ask import ask
from iot_pipeline.augmentation.join import read_answers
from iot_pipeline.augmentation.variation import Variation, Varier
from iot_pipeline.defs.augmentation.assets import answered_rows
from iot_pipeline.errors import UserError
from iot_pipeline.flows import ordered_join
from iot_pipeline.flows.serialise import group_id, parse_text
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline_tests.augmentation.factories import CONFIG, SPEC, Built, Direct, build, flow_rows, make_plan


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return flow_rows(tmp_path_factory.mktemp("sim"))


@pytest.fixture(scope="module")
def original(rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(Direct(), tmp_path_factory.mktemp("original"), "original", rows)


def test_equal_flow_and_label_is_asked_once_and_shares_its_answer(rows: pd.DataFrame, original: Built) -> None:
    pairs = len(rows.drop_duplicates(["flow_group", "label"]))
    assert original.result.usage["distinct_requests"] == pairs < len(rows)
    assert (len(original.messages), original.report["quarantined"]) == (len(rows), 0)
    said = pd.Series([row["messages"][1]["content"] for row in original.messages])
    assert said.groupby([rows["flow_group"], rows["label"]]).nunique().max() == 1


def test_every_row_keeps_its_place_its_flow_and_its_label(rows: pd.DataFrame, original: Built) -> None:
    for message, text, label in zip(original.messages, rows["text"], rows["label"], strict=True):
        user, assistant = message["messages"]
        assert user == {"role": "user", "content": text}
        assert assistant["content"].startswith(f"CLASSIFICATION: {label}\nANALYSIS: ")


def test_the_answers_are_kept_by_flow_and_label(rows: pd.DataFrame, original: Built, tmp_path: Path) -> None:
    kept = pq.read_table(read_answers(original.folder)).to_pylist()
    said = {
        (group, label): message["messages"][1]["content"]
        for group, label, message in zip(rows["flow_group"], rows["label"], original.messages, strict=True)
    }
    assert [(row["flow_group"], row["label"], row["answer"]) for row in kept] == [(*k, said[k]) for k in sorted(said)]
    with pytest.raises(UserError, match=r"answers\.parquet is missing"):
        read_answers(tmp_path)


def test_a_first_row_keeps_the_answer_and_each_further_one_is_paraphrased(
    rows: pd.DataFrame, original: Built, tmp_path: Path
) -> None:
    found = build(Direct(), tmp_path, "paraphrased", rows, originals=original.folder)
    assert found.report["quarantined"] == 0
    for kind, repeat, first, second in zip(
        found.column("kind"), rows["repeat"], original.messages, found.messages, strict=True
    ):
        assert first["messages"][0] == second["messages"][0]
        assert (first == second) == (repeat == 0) == (kind == "original")
    assert found.result.usage["distinct_requests"] == int((rows["repeat"] > 0).sum())


class Deaf(Direct):
    """A teacher that answers equal messages alike, whatever the seed."""

    def answer(self, request, check):  # type: ignore[no-untyped-def]
        return replace(super().answer(replace(request, params={**request.params, "seed": 1}), check), key=request.key)


def test_paraphrases_that_are_equal_word_for_word_are_counted(
    rows: pd.DataFrame, original: Built, tmp_path: Path
) -> None:
    free = build(Direct(), tmp_path / "free", "paraphrased", rows, originals=original.folder)
    deaf = build(Deaf(), tmp_path / "deaf", "paraphrased", rows, originals=original.folder)
    copies = {name: 1 - found.report["distinct_answers"] / len(rows) for name, found in (("f", free), ("d", deaf))}
    assert original.report["exact_copies"] == 0
    assert free.report["exact_copies"] == pytest.approx(copies["f"], abs=1e-4) and copies["f"] < 0.05
    assert deaf.report["exact_copies"] == pytest.approx(copies["d"], abs=1e-4) and copies["d"] > 0.2


def test_a_quarantined_answer_is_listed_with_its_reason_and_stays_out_of_every_track(
    rows: pd.DataFrame, tmp_path: Path
) -> None:
    found = build(Direct(spoil="Normal"), tmp_path / "first", "original", rows)
    bad = int((rows["label"] == "Normal").sum())
    assert found.report["quarantined"] == bad > 0
    assert len(found.messages) == len(rows) - bad
    listed = found.provenance.filter(pa.compute.equal(found.provenance["status"], "quarantined"))
    assert set(listed["label"].to_pylist()) == {"Normal"}
    assert any("unknown feature" in reason for reason in listed["reasons"].to_pylist()[0])
    after = build(Direct(), tmp_path / "after", "paraphrased", rows, originals=found.folder)
    assert after.report["quarantined"] == bad
    assert after.report["quarantine_reasons"] == {"the original answer is quarantined": bad}


@pytest.mark.parametrize("variation", list(Variation))
def test_varied_rows_meet_no_evaluation_flow_and_are_explained_anew(
    rows: pd.DataFrame, original: Built, variation: Variation, tmp_path: Path
) -> None:
    numbers = itertools.count()

    def varied(forbidden: set[str]) -> Built:
        return build(
            Direct(), tmp_path / str(next(numbers)), "feature_varied", rows, originals=original.folder,
            variation=variation, forbidden=forbidden,
        )  # fmt: skip

    free = varied(set())
    groups = {g for g, k in zip(free.column("varied_group"), free.column("kind"), strict=True) if k == "varied"}
    assert free.report["quarantined"] == 0 and groups
    kept = [m == o for m, o, r in zip(free.messages, original.messages, rows["repeat"], strict=True) if r == 0]
    assert all(kept)
    bound = varied(groups)
    assert not groups & {group_id(row["messages"][0]["content"]) for row in bound.messages} - set(rows["flow_group"])
    assert free.report == varied(set()).report


def test_compact_flows_are_read_explained_paraphrased_and_varied(rows: pd.DataFrame, tmp_path: Path) -> None:
    config = replace(CONFIG, serialisation="compact")
    short = rows.assign(text=FlowTextWriter(SPEC, "compact").texts(rows))
    first = build(Direct(), tmp_path / "first", "original", short, config=config)
    said, varied = (
        build(Direct(), tmp_path / track, track, short, config=config, originals=first.folder)
        for track in ("paraphrased", "feature_varied")
    )
    assert [found.report["quarantined"] for found in (first, said, varied)] == [0, 0, 0]
    for row in first.messages + varied.messages:
        flow, answer = (turn["content"] for turn in row["messages"])
        printed = {name: value for name, value, _ in parse_text(flow)}
        cited = [item.split(" ")[:2] for item in answer.split("KEY_INDICATORS: ")[1].split("; ")]
        assert len(cited) >= 3 and all(printed[name] == value for name, value in cited)
    texts = [row["messages"][0]["content"] for row in varied.messages]
    unchanged = [at for at, kind in enumerate(varied.column("kind")) if kind == "unchanged"]
    assert unchanged and all(texts[at] == short["text"][at] for at in unchanged)
    assert all(
        group in (None, group_id(text)) for text, group in zip(texts, varied.column("varied_group"), strict=True)
    )
    assert len(set(texts) - set(short["text"])) > 10


def test_a_report_is_the_same_whatever_the_cache_held(rows: pd.DataFrame, original: Built, tmp_path: Path) -> None:
    again = build(Direct(), tmp_path, "original", rows.sample(frac=1, random_state=1))
    assert (again.report, again.messages) == (original.report, original.messages)
    assert set(original.result.usage) == {
        "rows", "requests", "distinct_requests", "prompt_tokens", "completion_tokens", "billed_usd", "model",
        "embedded", "quarantined",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "model", "embedded"),
    [
        ("embedded", "gpt-4o-mini", True),
        ("http://127.0.0.1:8100/v1", "embedded-analyst", True),
        ("https://api.openai.com/v1", "gpt-4o-mini", False),
    ],
)
def test_what_the_analyst_wrote_is_marked_wherever_it_ran(
    rows: pd.DataFrame, source: str, model: str, embedded: bool, tmp_path: Path
) -> None:
    class Elsewhere(Direct):
        def answer(self, request, check):  # type: ignore[no-untyped-def]
            return replace(super().answer(request, check), model=model)

    engine = Elsewhere()
    engine.source = source
    assert build(engine, tmp_path, "original", rows[:20]).result.usage["embedded"] is embedded


def test_how_many_rows_are_held_at_once_changes_nothing(
    rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def built(folder: Path) -> list[Built]:
        first = build(Direct(spoil="Normal"), folder / "first", "original", rows)
        return [first, build(Direct("Arp"), folder / "said", "paraphrased", rows, originals=first.folder)]

    whole = built(tmp_path / "whole")
    for module in (planning, joining):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(ordered_join, "WINDOW", 14)
    for one, other in zip(whole, built(tmp_path / "parts"), strict=True):
        assert one.report["quarantined"] > 0
        assert (one.messages, one.result) == (other.messages, other.result)
        assert one.provenance.equals(other.provenance)
    kept = [pq.read_table(tmp_path / name / "first" / "answers.parquet") for name in ("whole", "parts")]
    assert kept[0].equals(kept[1])


def test_requests_are_made_as_they_are_drawn(rows: pd.DataFrame, tmp_path: Path) -> None:
    drawn = []

    class Stops(Direct):
        def stream(self, requests, check, take):  # type: ignore[no-untyped-def]
            assert length_hint(requests) == len(rows.drop_duplicates(["flow_group", "label"]))
            drawn.append(next(iter(requests)))
            raise UserError("the budget is used up")

    plan = make_plan(tmp_path, "original", rows)
    told: list[str] = []
    with pytest.raises(UserError, match="budget"):
        ask(plan, Stops(), tmp_path, told.append)
    assert len(drawn) == len(plan.pending) == 1
    assert told[0].endswith("distinct answers of the embedded teacher")


@pytest.mark.parametrize("loses", ["an answer", "rows"])
def test_what_an_engine_loses_is_no_track(rows: pd.DataFrame, loses: str, tmp_path: Path) -> None:
    class Loses(Direct):
        def stream(self, requests, check, take):  # type: ignore[no-untyped-def]
            if loses == "rows":
                return
            first = rows["label"][0]
            super().stream(requests, check, lambda answer: take(answer) if first not in answer.text else None)

    with pytest.raises(RuntimeError, match=r"[1-9]\d* requests got no answer|0 of 300 rows were drawn"):
        build(Loses(), tmp_path, "original", rows)


class Stopping(Direct):
    """A teacher that draws one request and ends, by an error or, `quietly`, holding on to what it has not drawn."""

    def __init__(self, quietly: bool = False) -> None:
        super().__init__()
        self.quietly = quietly

    def stream(self, requests, check, take):  # type: ignore[no-untyped-def]
        self.drawn = iter(requests)
        take(self.answer(next(self.drawn), check))
        if not self.quietly:
            raise UserError("the budget is spent")

    def open(self, step):  # type: ignore[no-untyped-def]
        raise UserError("the server is away")


@pytest.mark.parametrize("case", ["stops", "abandons", "is away"])
def test_the_judge_of_varied_flows_ends_however_the_asking_ends(
    case: str, rows: pd.DataFrame, original: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Varier] = []
    monkeypatch.setattr(Varier, "close", lambda varier: closed.append(varier))
    plan = make_plan(tmp_path, "feature_varied", rows, original.folder)
    teacher = Stopping(case == "abandons")
    with pytest.raises(UserError) if case != "abandons" else contextlib.nullcontext():
        if case == "is away":
            answered_rows(None, teacher, plan)  # type: ignore[arg-type]
        else:
            ask(plan, teacher, tmp_path)
    assert closed and set(map(id, closed)) == {id(plan.varier)}
