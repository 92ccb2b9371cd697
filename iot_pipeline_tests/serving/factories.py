"""A classifier whose student answers by a hash of the flow's text: equal flows equally, and at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.texts import FlowTextWriter, RankTable
from iot_pipeline.serving.classifier import Classifier, Fitted, Origin
from iot_pipeline.settings import load_settings

SPEC = load_spec("farm_flow")


class HashStudent:
    """Scores by the hash of a text; its explanation cites the first two lines of the flow."""

    name = "hash"

    def __init__(self) -> None:
        self.scored = self.explained = 0

    def score_labels(self, prompts: Sequence[str], classes: Sequence[str], **_: Any) -> np.ndarray:
        self.scored += len(prompts)
        bits = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in prompts]
        scores = np.array([row[: len(classes)] / 32 for row in bits]).reshape(-1, len(classes))
        return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)

    def explain(self, prompts: Sequence[str], *_: Any, answers: Sequence[str], **__: Any) -> list[tuple[str, bool]]:
        self.explained += len(prompts)
        told = []
        for text, head in zip(prompts, answers, strict=True):
            cited = "; ".join(line.replace(": ", " ").split(" p")[0] for line in text.split("\n")[:2])
            told.append((f"{head}\nANALYSIS: Its counts are the reason here.\nKEY_INDICATORS: {cited}", True))
        return told

    def close(self) -> None:
        pass


def classifier(**settings: str) -> Classifier:
    """A classifier of Farm-Flow over a train pool whose features lie at -2, -1, 0, 1 and 2."""
    values = {name: [-2.0, -1.0, 0.0, 1.0, 2.0] for name in SPEC.feature_names}
    ranks = RankTable(50, values, {name: [10, 20, 30, 40, 50] for name in SPEC.feature_names})
    writer = FlowTextWriter(SPEC, "ranked", ranks)
    made_of = {"base_model": "b" * 64, "lora_checkpoint_10K[1|original]": "a" * 64}
    lake = {"flows": "f" * 64, "flow_texts": "e" * 64}
    origin = Origin("10K", "original", "tiny", "a" * 64, made_of, "c" * 64, ["SIMULATED flows"], lake)
    student: Any = HashStudent()
    chosen = load_settings({"IOT_DECODING": "free"} | settings)
    return Classifier(student, SPEC, writer, chosen, Fitted(1.0, 0.8), origin)


def csv_rows(rows: int, distinct: int, seed: int = 0) -> str:
    """A CSV of flows as Farm-Flow publishes them, with the columns of Zeek that name a connection."""
    random = np.random.default_rng(seed)
    pool = np.round(random.normal(0, 1, (distinct, len(SPEC.feature_names))), 3)
    lines = [",".join(["ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", *SPEC.feature_names])]
    for row, place in enumerate(random.integers(0, distinct, rows)):
        own = [f"{1600000000 + row}.25", f"C{row:06d}", "10.0.0.1", "40000", "10.0.0.2", "1883", "tcp"]
        lines.append(",".join([*own, *map(str, pool[place].tolist())]))
    return "\n".join(lines) + "\n"
