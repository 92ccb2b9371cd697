"""The three tracks of a table with categories, by the embedded teacher's rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from iot_pipeline.augmentation.answers import facts_of, parse_answer
from iot_pipeline.augmentation.ask import ask
from iot_pipeline.augmentation.join import join
from iot_pipeline.augmentation.label_judge import fit_judge
from iot_pipeline.augmentation.plan import TrackConfig, TrackPlan
from iot_pipeline.augmentation.variation import Variation, VariationConfig, fit_varier
from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.dataset import ordered_rows
from iot_pipeline.flows.matrix import numbered_rows
from iot_pipeline.flows.source import read_source
from iot_pipeline.flows.split import order_training, split_by_group
from iot_pipeline.flows.texts import FlowTextWriter, fit_ranks
from iot_pipeline_tests.augmentation.factories import Built, Direct, prompt
from iot_pipeline_tests.flows.category_table import CATEGORIES, loaded

ROWS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flows, split, order and ranked texts of 60 connections, each of which occurs twice."""
    made = tmp_path_factory.mktemp("connections")
    spec, file = loaded(made, ROWS, repeats=2)
    raw, flows, records = (made / f"{name}.parquet" for name in ("raw", "flows", "records"))
    read_source(spec, str(file), raw)
    build_flows(spec, raw, flows)
    split_by_group(flows, records)
    order_training(flows, records, made / "order.parquet")
    writer = FlowTextWriter(spec, "ranked", fit_ranks(spec, flows, records))
    writer.write_texts(flows, records, made / "texts.parquet")
    writer.save(made)
    return made


def track(folder: Path, name: str, marked: bool, originals: Path | None = None) -> Built:
    """Plan, ask and join a track of all train rows, as an asset does."""
    spec, _ = loaded(folder, ROWS, repeats=2)
    out = folder / f"{name}-{marked}"
    out.mkdir()
    writer = FlowTextWriter.load(folder, spec)
    config = TrackConfig(writer.spec, words=80, order="label_first", serialisation="ranked", seed=1, marked=marked)
    rows = ordered_rows(folder / "order.parquet", 0, 2 * ROWS)
    plan = TrackPlan(rows, folder / "texts.parquet", prompt(name), config, out / "requests.parquet")
    plan.answers = originals / "answers.parquet" if originals is not None else None
    if name == "feature_varied":
        plan.flows = folder / "flows.parquet"
        way = VariationConfig(Variation.paper, 0.0, 1, False)
        plan.varier = fit_varier(way, rows, plan.flows, folder / "records.parquet", folder, spec)
    ask(plan, Direct(), out)
    return Built(out, join(plan, out, "embedded"))


@pytest.mark.parametrize("marked", [False, True])
def test_every_track_cites_categories_truthfully(folder: Path, marked: bool) -> None:
    original = track(folder, "original", marked)
    tracks = [original, *(track(folder, name, marked, original.folder) for name in ("paraphrased", "feature_varied"))]
    cited = 0
    for built in tracks:
        assert set(built.column("status")) == {"ok"}, built.column("reasons")
        for row in built.messages:
            flow, answer = (turn["content"] for turn in row["messages"])
            facts = facts_of(flow)
            for item in parse_answer(answer).indicators:
                if item.feature in facts.shares:
                    cited += 1
                    assert item.value == facts.values[item.feature]
    assert cited > 100
    kinds = pd.Series(tracks[2].column("kind")).value_counts()
    assert kinds["varied"] > 30
    assert_known_combinations(folder, [row["messages"][0]["content"] for row in tracks[2].messages])


def assert_known_combinations(folder: Path, texts: list[str]) -> None:
    """Assert that varied flows have no combination of categories that the train pool lacks."""
    flows = pd.read_parquet(folder / "flows.parquet")
    train = set(pd.read_parquet(folder / "records.parquet").query("side == 'train'")["flow_group"])
    seen = set(map(tuple, flows.loc[flows["flow_group"].isin(train), list(CATEGORIES)].to_numpy()))
    assert {tuple(facts_of(text).values[name] for name in CATEGORIES) for text in texts} <= seen


def test_the_judge_reads_categories(folder: Path) -> None:
    spec = FlowTextWriter.load(folder, loaded(folder, ROWS, repeats=2)[0]).spec
    rows = ordered_rows(folder / "order.parquet", 0, 2 * ROWS)
    judge = fit_judge(rows, folder / "flows.parquet", spec, 1)
    flows = pq.read_table(folder / "flows.parquet")
    groups, labels = flows["flow_group"].to_pylist(), flows["label"].to_pylist()
    right = judge.probability(groups, labels, numbered_rows(flows, spec))
    assert np.mean(right > 0.5) > 0.8
