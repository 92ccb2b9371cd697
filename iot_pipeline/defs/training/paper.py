"""The prior work's training protocol beside this project's, on the same rows: what the old recipe does, measured.

Belongs here: `paper_protocol`. Does not belong here: the old tensors (sft/paper.py), training and scoring themselves.
"""

import hashlib
import json
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from iot_pipeline.augmentation.answers import format_answer, parse_answer
from iot_pipeline.augmentation.tracks import build_original
from iot_pipeline.defs.augmentation.assets import brief, prompt_of
from iot_pipeline.defs.partitions import STAGES, prompt_dep
from iot_pipeline.defs.resources import TeacherResource, TrainerResource, clear_work, opened_student, work_folder
from iot_pipeline.defs.step import LakeResource, Step
from iot_pipeline.defs.texts import table_texts
from iot_pipeline.defs.training.assets import COMMON, base_location, processes_of, recipe_of
from iot_pipeline.flows.pool import labelled_flows, training_rows
from iot_pipeline.sft.paper import build_paper_tensors
from iot_pipeline.sft.tensors import build_tensors
from iot_pipeline.sft.tokenizer import load_tokenizer
from iot_pipeline.training.config import TrainConfig

HELD_OUT = 0.2  # share of rows that the prior work held out, by row
LONG_ANSWERS = 64  # rows on which the cut is measured: their lengths hardly differ
SCORED_FLOWS = 1000


@dg.asset(
    **COMMON, kinds={"pytorch", "openai"}, pool="gpu",
    deps=["flows", "evaluation_split", "training_order", "base_model", "original", prompt_dep("original")],
)
def paper_protocol(
    context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource, trainer: TrainerResource
) -> dg.MaterializeResult:
    """The old recipe and ours on the same few rows: what each trains on, and what comes out. For the audit only."""
    with lake.step(context) as step:
        train, seen = held_in(step)
        tokenizer, work = load_tokenizer(base_location(step)), work_folder(step, fingerprint(step))
        long = build_paper_tensors(long_answers(step, teacher), tokenizer, work / "long.safetensors")
        old = build_paper_tensors(
            reordered(train, "explanation_first"), tokenizer, work / "paper.safetensors",
            kept_share=long.answer_kept_share,
        )
        ours = build_tensors(train, tokenizer, step.settings.max_length, work / "leak_free.safetensors")
        weights = {"paper": 1.0, "leak_free": step.settings.label_weight}
        result = {
            "long_answers": long.plain(), "paper": old.plain(), "leak_free": asdict(ours),
            "held_out_rows": len(seen), "held_out_prompts_seen_share": float(np.mean(seen)),
            **scored(step, {name: trained(step, trainer, work, name, weight) for name, weight in weights.items()}),
        }
        step.json("paper_protocol.json", result)
        step.note(label_survives_share=long.plain()["label_survives_share"],
                  **{f"accuracy_{name}": value for name, value in result["accuracy"].items()})
    clear_work(step)
    return step.result()


def held_in(step: Step) -> tuple[list[dict[str, Any]], list[bool]]:
    """(chat rows to train on, was the prompt of each held-out row trained on): split by row, as the prior work did."""
    with (step.input("original", f"{STAGES[0]}|original") / "track.jsonl").open() as lines:
        rows = [json.loads(line) for line in islice(lines, step.settings.audit_rows)]
    held_out = np.random.default_rng(step.settings.seed).permutation(len(rows)) < HELD_OUT * len(rows)
    train = [row for row, out in zip(rows, held_out, strict=True) if not out]
    prompts = {row["messages"][0]["content"] for row in train}
    return train, [row["messages"][0]["content"] in prompts for row, out in zip(rows, held_out, strict=True) if out]


def long_answers(step: Step, teacher: TeacherResource) -> list[dict[str, Any]]:
    """Chat rows with explanations of the prior work's length, the class at their end."""
    order = step.input("training_order") / "order.parquet"
    rows = training_rows(step.input("flows") / "flows.parquet", order, 0, LONG_ANSWERS)
    rows["text"] = table_texts(step, rows)
    told = replace(brief(step), words=step.settings.audit_words, order="explanation_first")
    with teacher.open(step) as engine:
        return build_original(rows, prompt_of(step, "original"), engine, told, log=step.log).messages


def reordered(rows: list[dict[str, Any]], order: str) -> list[dict[str, Any]]:
    """The same rows with the parts of their answers in `order`."""
    return [
        {"messages": [user, {**answer, "content": format_answer(parse_answer(answer["content"]), order)}]}
        for user, answer in (row["messages"] for row in rows)
    ]


def fingerprint(step: Step) -> str:
    """Names the work folder: a killed training goes on, one of other inputs does not."""
    return hashlib.sha256(json.dumps(step.recorded_inputs(), default=str).encode()).hexdigest()[:16]


def trained(step: Step, trainer: TrainerResource, work: Path, name: str, label_weight: float) -> Path:
    """Folder of the adapter trained on `<name>.safetensors`; recipe and steps are the same for both."""
    alike = {"label_weight": label_weight, "evaluate_every": None, "patience": None, "keep": "last"}
    config = TrainConfig(
        **recipe_of(step) | alike, base=base_location(step), tensors=work / f"{name}.safetensors", out=work / name
    )
    trainer.train(step, config, processes_of(step))
    return config.out


def scored(step: Step, adapters: dict[str, Path]) -> dict[str, Any]:
    """Share of distinct test flows whose own label scores highest, for each adapter, and how many flows that were."""
    flows = labelled_flows(
        step.input("flows") / "flows.parquet", step.input("evaluation_split") / "records.parquet", "test",
        SCORED_FLOWS, step.settings.seed,
    )
    texts, classes = table_texts(step, flows), step.spec.classes
    accuracy = {}
    for name, adapter in adapters.items():
        with opened_student(step, base_location(step), adapter) as student:
            best = student.score_labels(texts, classes, log=step.log).argmax(axis=1)
        accuracy[name] = float(np.mean(np.array(classes)[best] == flows["label"].to_numpy()))
    return {"scored_flows": len(flows), "accuracy": accuracy}
