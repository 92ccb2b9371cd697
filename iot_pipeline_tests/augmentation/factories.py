"""Tracks built from a table of rows, with the embedded analyst's rules as the teacher."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.augmentation.ask import TeacherProtocol, ask
from iot_pipeline.augmentation.join import TrackResult, join
from iot_pipeline.augmentation.moves import FlowMoves, PaperMoves, raw_units
from iot_pipeline.augmentation.plan import TrackConfig, TrackPlan
from iot_pipeline.augmentation.prompts import PromptFile, load_prompt
from iot_pipeline.augmentation.variation import Variation, Varier
from iot_pipeline.embedded_teacher.analyst import write_answer
from iot_pipeline.flows.dataset import Rows
from iot_pipeline.flows.serialise import group_id
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.sql import scan
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.settings import PROJECT_ROOT
from iot_pipeline.simulator.simulate import simulate_farm_flow
from iot_pipeline.teacher.request import Answer, Usage

SPEC = load_spec("farm_flow")
CONFIG = TrackConfig(spec=SPEC, words=60, order="label_first", serialisation="values", seed=42)
COLUMNS = ["position", "row_id", "flow_group", "label", "repeat"]


class Direct:
    """The real analyst without HTTP: what the engine gives for each distinct request."""

    source = "embedded"

    def __init__(self, spoil: str = "") -> None:
        self.spoil = spoil

    def stream(self, requests, check, take):  # type: ignore[no-untyped-def]
        seen = set()
        for request in requests:
            if request.key not in seen:
                seen.add(request.key)
                take(self.answer(request, check))

    def answer(self, request, check):  # type: ignore[no-untyped-def]
        wanted = (request.params[name] for name in ("temperature", "seed", "max_tokens"))
        text, finish, _ = write_answer(request.messages, *wanted)
        if self.spoil and self.spoil in text:
            text = text.replace("KEY_INDICATORS: ", "KEY_INDICATORS: made_up 1.5; ")
        reasons = tuple(check(request, text))
        status = "quarantined" if reasons else "ok"
        usage = Usage(100, 0, 10)
        return Answer(request.key, status, text, finish, request.model, self.source, usage, 0.0, 1, reasons)


def flow_rows(folder: Path, number: int = 300) -> pd.DataFrame:
    """Simulated rows in their order, with features and texts."""
    simulate_farm_flow(folder / "flows.parquet", rows=number, seed=3)
    table = pd.read_parquet(folder / "flows.parquet")
    table["label"] = [SPEC.label_of(code) for code in table["traffic"]]
    table["text"] = FlowTextWriter(SPEC, "values").texts(table)
    table["flow_group"] = table["text"].map(group_id)
    table["repeat"] = table.groupby(["flow_group", "label"]).cumcount().astype("int32")
    table["position"] = table["row_id"] = np.arange(len(table))
    return table


def prompt(track: str) -> PromptFile:
    return load_prompt(PROJECT_ROOT / "iot_pipeline" / "prompts" / f"{track}.md")


def make_plan(
    folder: Path,
    track: str,
    table: pd.DataFrame,
    originals: Path | None = None,
    config: TrackConfig = CONFIG,
    variation: Variation = Variation.physical,
    forbidden: Collection[str] = (),
    file: PromptFile | None = None,
) -> TrackPlan:
    """The plan of a track whose rows, texts and features are in one table."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in (("rows", COLUMNS), ("flows", ["row_id", *SPEC.feature_names])):
        pq.write_table(pa.Table.from_pandas(table[columns], preserve_index=False), folder / f"{name}.parquet")
    texts = table[["flow_group", "text"]].drop_duplicates("flow_group")
    pq.write_table(pa.Table.from_pandas(texts, preserve_index=False), folder / "texts.parquet")
    rows = Rows(f"SELECT * FROM {scan(folder / 'rows.parquet')}", folder / "rows.parquet")
    plan = TrackPlan(rows, folder / "texts.parquet", file or prompt(track), config, folder / "requests.parquet")
    plan.answers = originals / "answers.parquet" if originals is not None else None
    if track == "feature_varied":
        physical = FlowMoves(SPEC.feature_names, *raw_units(SPEC, simulated=True), SPEC.format)
        mover = physical if variation is Variation.physical else PaperMoves(len(SPEC.features))
        plan.varier = Varier(mover, FlowTextWriter(SPEC, config.serialisation).text, forbidden, config.seed)
        plan.flows = folder / "flows.parquet"
    return plan


@dataclass
class Built:
    """A track as it lies in its folder."""

    folder: Path
    result: TrackResult

    @property
    def report(self) -> dict[str, Any]:
        return self.result.report

    @property
    def messages(self) -> list[dict[str, Any]]:
        with (self.folder / "track.jsonl").open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    @property
    def provenance(self) -> pa.Table:
        return pq.read_table(self.folder / "provenance.parquet")

    def column(self, name: str) -> list[Any]:
        found: list[Any] = self.provenance[name].to_pylist()
        return found


def build(engine: TeacherProtocol, folder: Path, track: str, table: pd.DataFrame, **told: Any) -> Built:
    """Plan, ask and join, as an asset does."""
    plan = make_plan(folder, track, table, **told)
    ask(plan, engine, folder)
    return Built(folder, join(plan, folder, engine.source))
