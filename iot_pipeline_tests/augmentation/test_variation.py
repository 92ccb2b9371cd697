"""Varied flows: identities that hold, labels that models keep which never saw the flow, and no evaluation text."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot_pipeline.augmentation import label_judge
from iot_pipeline.augmentation.flowmeter import IP_HEADER, SIDES, WAYS, measures
from iot_pipeline.augmentation.label_judge import FOLDS, JudgeApart, LabelJudge, fit_judge, fold_of
from iot_pipeline.augmentation.moves import FlowMoves, PaperMoves, TimeMoves, raw_units
from iot_pipeline.augmentation.variation import DRAWS, Variation, VariationConfig, Varier, fit_moves, fit_varier
from iot_pipeline.flows.dataset import Rows
from iot_pipeline.flows.serialise import group_id
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.sql import scan
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.simulator.packets import Conversation, Packet, measure
from iot_pipeline.simulator.simulate import publish
from iot_pipeline_tests.augmentation.factories import COLUMNS, SPEC, flow_rows

RAW = load_spec("rt_iot2022")
NAMES = SPEC.feature_names

headers = st.sampled_from([8, 20, 24, 32, 40, 60])
packets = st.builds(
    Packet, st.booleans(), headers, st.one_of(st.just(0), st.integers(1, 1460)), st.integers(0, 3_000_000)
)
conversations = st.lists(packets, min_size=1, max_size=24).map(lambda sent: Conversation(1.0, tuple(sent)))


def raw_of(conversation: Conversation) -> dict[str, float]:
    """The features of one conversation, in raw units."""
    found = measure(conversation, 1, np.random.default_rng(0))
    return {name: float(found[name][0]) for name in NAMES}


def assert_identities(raw: dict[str, float], before: dict[str, float], exact: float) -> None:
    """Whole counts, and every identity of zeek-flowmeter within what rounding leaves."""

    def near(found: float, wanted: float, unit: float) -> None:
        assert abs(found - wanted) <= unit, (found, wanted, unit)

    count = {"fwd": raw["orig_pkts"], "bwd": raw["resp_pkts"]}
    count["flow"] = sum(count.values())
    for way, side in SIDES.items():
        total, low, high = (raw[f"{way}_header_size_{what}"] for what in ("tot", "min", "max"))
        payload = raw[f"{way}_pkts_payload.tot"]
        for whole in (count[way], total, low, high, payload, raw[f"{side}_ip_bytes"]):
            near(whole, round(whole), exact)
            assert round(whole) >= 0
        near(raw[f"{side}_ip_bytes"], payload + total + IP_HEADER * count[way], 4 * exact)
        assert low <= high + exact and count[way] * low - exact * 30 <= total <= count[way] * high + exact * 30
        if before[f"{side}_pkts"] == 0:
            assert max(map(abs, (count[way], total, low, high, payload, raw[f"{way}_iat.tot"]))) <= exact * 1e3
        assert (round(payload) > 0) == (before[f"{way}_pkts_payload.tot"] > 0)
        assert (round(count[way]) > 0) == (before[f"{side}_pkts"] > 0)
    near(raw["flow_pkts_payload.tot"], raw["fwd_pkts_payload.tot"] + raw["bwd_pkts_payload.tot"], 3 * exact)
    near(raw["pkts_difference"], count["fwd"] - count["bwd"], 3 * exact)
    near(raw["down_up_ratio"], count["bwd"] / count["fwd"] if count["fwd"] > exact else 0.0, 10 * exact)
    near(raw["data_pkts_difference"], before["data_pkts_difference"], exact)
    duration = raw["flow_iat.tot"]
    for way in WAYS:
        near(raw[f"{way}_pkts_payload.avg"] * max(count[way], 1), raw[f"{way}_pkts_payload.tot"], 40 * exact)
        near(raw[f"{way}_iat.avg"] * max(count[way] - 1, 1), raw[f"{way}_iat.tot"], 1e5 * exact)
        assert raw[f"{way}_iat.tot"] <= duration * 1.001 + 1e5 * exact
        rate = raw[f"{way}_pkts_per_sec"]
        if before["flow_iat.tot"] == 0:
            assert abs(rate) <= exact * 1e3
        elif rate > 0:  # rates are rounded to 0.12 packets a second, times to 2 microseconds
            near(rate * duration / 1e6, count[way], 1e-3 * count[way] + duration * exact / 1e3 + rate * exact / 5)


@pytest.mark.parametrize("scaled", [True, False])
@given(conversation=conversations, seed=st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_every_identity_holds_after_a_variation(scaled: bool, conversation: Conversation, seed: int) -> None:
    before = raw_of(conversation)
    row = np.array([[before[name] for name in NAMES]])
    spec = SPEC if scaled else RAW
    values = publish(SPEC, row) if scaled else row
    mover = FlowMoves(NAMES, *raw_units(spec, simulated=True), spec.format)
    (reason,) = mover.hindrance(values)
    if reason:
        assert reason == "no time, payload or options" and before["flow_iat.tot"] == 0
    draws = np.random.default_rng(seed).random((1, mover.width))
    moved, (factor,) = mover.move(values, draws)
    found = np.round(moved, 6) if scaled else moved
    offset, scale = raw_units(spec, simulated=True)
    assert_identities(dict(zip(NAMES, (found * scale + offset)[0].tolist(), strict=True)), before, 0.01)
    assert np.isnan(factor) == (before["flow_iat.tot"] == 0)
    assert np.array_equal(mover.move(values, draws)[0], moved)


def test_a_flow_whose_features_do_not_fit_together_is_left_alone() -> None:
    before = raw_of(Conversation(1.0, (Packet(True, 20, 100), Packet(False, 20, 7, 500))))
    mover = FlowMoves(NAMES, *raw_units(RAW, False), RAW.format)
    for name in ("orig_ip_bytes", "flow_pkts_payload.avg", "pkts_difference", "bwd_iat.avg"):
        row = np.array([[before[other] + 3.0 * (other == name) for other in NAMES]])
        assert mover.hindrance(row) == ["its features do not fit together"], name


def table_of(folder: Path, number: int = 1500) -> tuple[pd.DataFrame, Rows]:
    """Simulated rows as a lake has them."""
    table = flow_rows(folder, number)
    for name, columns in (("rows", COLUMNS), ("lake", ["row_id", "flow_group", "label", *NAMES])):
        pq.write_table(pa.Table.from_pandas(table[columns], preserve_index=False), folder / f"{name}.parquet")
    return table, Rows(f"SELECT * FROM {scan(folder / 'rows.parquet')}", folder / "rows.parquet")


def test_bytes_stay_where_their_scale_is_only_assumed(tmp_path: Path) -> None:
    table, rows = table_of(tmp_path, 300)
    known, assumed = (fit_moves(SPEC, rows, tmp_path / "lake.parquet", simulated) for simulated in (True, False))
    assert isinstance(known, FlowMoves) and isinstance(assumed, TimeMoves)
    values = table[NAMES].to_numpy()
    reasons = assumed.hindrance(values)
    assert set(reasons) == {"", "no timing, and its bytes have no known scale"}
    timed = np.array([not reason for reason in reasons])
    moved, _ = assumed.move(values, np.full((len(values), 1), 0.9))
    of_time = np.array(["_iat." in name or name.endswith("_per_sec") for name in NAMES])
    assert np.array_equal(moved[:, ~of_time], values[:, ~of_time])
    assert np.any(moved[timed] != values[timed], axis=1).all()
    assert not measures([name for name in NAMES if name != "down_up_ratio"])


class Sure:
    """A judge that gives every label the same probability, and keeps what it was asked."""

    def __init__(self, probability: float) -> None:
        self.given, self.asked = probability, 0
        self.shares: dict[tuple[str, str], float] = {}

    def agreement(self, group: str, label: str) -> float:
        return self.shares.get((group, label), 1.0)

    def probability(self, groups: Any, labels: Any, values: Any) -> Any:
        self.asked += 1
        return np.full(len(groups), self.given)


def varier(forbidden: Any = (), judge: Any = None, seed: int = 7) -> Varier:
    mover = FlowMoves(NAMES, *raw_units(SPEC, simulated=True), SPEC.format)
    return Varier(mover, FlowTextWriter(SPEC, "values").text, forbidden, seed, judge, 0.9)


def varied(by: Varier, table: pd.DataFrame) -> list[Any]:
    columns = (table[name].tolist() for name in ("row_id", "flow_group", "label"))
    return by.vary(*columns, table[NAMES].to_numpy(), table["text"].tolist())


def test_a_doubted_flow_stays_and_a_forbidden_text_is_never_written(tmp_path: Path) -> None:
    table = flow_rows(tmp_path, 300)
    free = varied(varier(judge=Sure(0.9)), table)
    changed = {place for place, one in enumerate(free) if one.outcome == "varied"}
    assert len(changed) > 250
    assert all(group_id(one.text) == one.group for one in free)
    assert [one.text != text for one, text in zip(free, table["text"], strict=True)] == [
        place in changed for place in range(len(free))
    ]
    judge = Sure(0.89)
    doubted = varied(varier(judge=judge), table)
    assert judge.asked == DRAWS
    assert [one.text for one in doubted] == table["text"].tolist()
    assert doubted[min(changed)].outcome == "unchanged: the model doubts the label"
    place = min(changed)
    judge.given, judge.shares[table["flow_group"][place], table["label"][place]] = 1.0, 0.89
    assert varied(varier(judge=judge), table)[place].outcome == "unchanged: equal flows have other labels"
    forbidden = {one.group for one in free}
    bound = varied(varier(forbidden, Sure(0.9)), table)
    assert not forbidden & {one.group for one in bound if one.outcome == "varied"}
    # A flow's draws are its own: neither the others nor their order matter, and another seed gives other ones.
    again = varied(varier(judge=Sure(0.9)), table[::-1])[::-1]
    assert again == free != varied(varier(judge=Sure(0.9), seed=8), table)


def test_the_prior_works_variation_is_what_it_was() -> None:
    values = np.array([[0.0, 2.0, -3.0]])
    by = Varier(PaperMoves(3), lambda row: " ".join(map(repr, row)), (), 42)
    (one,) = by.vary([5], ["0" * 64], ["a"], values, [""])
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([42, 5])))
    assert one.text == " ".join(map(repr, (values[0] * random.uniform(0.95, 1.05, 3)).tolist()))


def test_no_model_of_the_judge_has_trained_on_a_group_that_it_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, rows = table_of(tmp_path)
    trained: list[np.ndarray] = []

    class Model:
        def __init__(self, number: int, classes: int) -> None:
            self.number, self.classes = number, classes

        def predict(self, values: np.ndarray, num_threads: int) -> np.ndarray:
            own = {row.tobytes() for row in trained[self.number]}
            assert not own & {np.ascontiguousarray(row).tobytes() for row in values}
            return np.full((len(values), self.classes), 0.5)

    def train(values: np.ndarray, codes: Any, weights: Any, classes: int, **_: Any) -> Model:
        trained.append(values)
        return Model(len(trained) - 1, classes)

    monkeypatch.setattr(label_judge, "train_model", train)
    judge = fit_judge(rows, tmp_path / "lake.parquet", SPEC, 1)
    assert len(trained) == FOLDS == len({fold_of(group) for group in table["flow_group"]})
    groups, labels = table["flow_group"].tolist(), table["label"].tolist()
    assert set(judge.probability(groups, labels, table[NAMES].to_numpy())) == {0.5}


def test_the_judge_is_the_same_each_time_and_knows_separable_classes(tmp_path: Path) -> None:
    table, rows = table_of(tmp_path)
    groups, labels, values = table["flow_group"].tolist(), table["label"].tolist(), table[NAMES].to_numpy()
    first, second = (fit_judge(rows, tmp_path / "lake.parquet", SPEC, 1) for _ in range(2))
    found = first.probability(groups, labels, values)
    apart = JudgeApart(rows, tmp_path / "lake.parquet", SPEC, 1)
    assert np.array_equal(found[:50], apart.probability(groups[:50], labels[:50], values[:50]))
    assert [*map(apart.agreement, groups, labels)] == [*map(first.agreement, groups, labels)]
    apart.close()
    with pytest.raises((RuntimeError, ValueError, BrokenPipeError)):
        apart.probability(groups[:1], labels[:1], values[:1])
    assert np.array_equal(found, second.probability(groups, labels, values))
    lone = table["text"].map(table.groupby("text")["label"].nunique()) > 1
    assert found[lone].mean() < 0.5 < found[~lone].mean()
    # No model has seen that equal flows have other labels: one of them is sure of such a label.
    assert found[lone].max() > 0.9
    counts = table.groupby(["flow_group", "label"]).size()
    for (group, label), rows_of in counts.items():
        assert first.agreement(group, label) == pytest.approx(rows_of / counts[group].sum())
    assert LabelJudge([None] * FOLDS).probability(groups, labels, values).max() == 0


def test_a_class_in_one_group_alone_is_never_sure(tmp_path: Path) -> None:
    table, _ = table_of(tmp_path, 400)
    table["label"] = np.where(table["flow_group"] == table["flow_group"][0], "Normal", "TCP_Flood")
    pq.write_table(pa.Table.from_pandas(table[COLUMNS], preserve_index=False), tmp_path / "rows.parquet")
    rows = Rows(f"SELECT * FROM {scan(tmp_path / 'rows.parquet')}", tmp_path / "rows.parquet")
    judge = fit_judge(rows, tmp_path / "lake.parquet", SPEC, 1)
    of = table[table["label"] == "Normal"]
    assert judge.probability(of["flow_group"].tolist(), ["Normal"] * len(of), of[NAMES].to_numpy()).max() < 0.9


@pytest.mark.parametrize(
    ("mode", "least", "judged"), [("physical", 0.9, True), ("physical", 0, False), ("paper", 0.9, False)]
)
def test_a_judge_is_trained_for_physical_variation_alone(
    mode: str, least: float, judged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iot_pipeline.augmentation import variation
    from iot_pipeline.flows.texts import RankTable

    _, rows = table_of(tmp_path, 300)
    pq.write_table(pa.table({"flow_group": [""], "text": [""]}), tmp_path / "texts.parquet")
    pq.write_table(pa.table({"flow_group": [""], "side": ["test"]}), tmp_path / "records.parquet")
    FlowTextWriter(SPEC, "values", RankTable(1, {}, {})).save(tmp_path)
    monkeypatch.setattr(variation, "JudgeApart", lambda *_: Sure(1.0))
    config = VariationConfig(Variation(mode), least, 3, simulated=True)
    made = fit_varier(config, rows, tmp_path / "lake.parquet", tmp_path / "records.parquet", tmp_path, SPEC)
    assert (made.judge is not None, made.forbidden) == (judged, {group_id("")})


def test_the_judge_ends_with_its_questions(tmp_path: Path) -> None:
    _, rows = table_of(tmp_path, 300)
    apart = JudgeApart(rows, tmp_path / "lake.parquet", SPEC, 1)
    process = apart._process
    assert process.poll() is None and process.stdin is not None
    process.stdin.close()  # as when the parent dies
    assert process.wait(timeout=60) == 0
    assert process.stdout is not None
    process.stdout.close()
