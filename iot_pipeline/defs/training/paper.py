"""Training protocols of the prior work and of this project on the same rows: the effect of the old recipe, measured."""

import hashlib
import json
from dataclasses import asdict, replace
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import numpy as np

from iot_pipeline.augmentation.answers import format_answer, parse_answer
from iot_pipeline.augmentation.ask import ask
from iot_pipeline.augmentation.join import join
from iot_pipeline.augmentation.plan import TrackPlan
from iot_pipeline.defs.inputs import base_location, records_of, texts_of
from iot_pipeline.defs.partitions import prompt_dep
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.defs.resources import TeacherResource, TrainerResource, clear_work, opened_student, work_folder
from iot_pipeline.defs.tracks import prompt_of, track_config
from iot_pipeline.defs.training.assets import COMMON, read_rows, recipe_of
from iot_pipeline.evaluation.evaluate import compare_predictions, evaluate_predictions
from iot_pipeline.evaluation.predictions import write_predictions
from iot_pipeline.flows.dataset import ordered_rows, sampled_rows, side_records, with_texts
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.reporting.figures import protocol_arms
from iot_pipeline.sft.paper import build_paper_tensors
from iot_pipeline.sft.tensors import build_tensors
from iot_pipeline.training.config import TrainConfig
from iot_pipeline.vocabulary import STAGES

HELD_OUT = 0.2  # share of rows that the prior work held out, by row
LONG_ANSWERS = 64  # rows on which the cut is measured: their lengths hardly differ
SCORED_FLOWS = 1000
QWEN_CONTEXT = 32_768  # tokens that Qwen2.5-1.5B-Instruct reads (its config.json)
# The old scripts' recipe: 2 rows a pass, 8 passes a step, LoRA r 16 on the attention, 5 passes over the rows (here as
# many as IOT_AUDIT_ROWS allows).
PAPER_RECIPE: dict[str, Any] = {
    "epochs": 5,
    "step_rows": 16,
    "micro_rows": 2,
    "packing": "off",
    "learning_rate": 2e-4,
    "warmup_steps": 100,
    "weight_decay": 0.01,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "lora_targets": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "label_weight": 1.0,
}
# From the old protocol to this one, a change at a time: name -> (tensors, changes of this lake's recipe).
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "paper": ("paper", PAPER_RECIPE),
    "paper_rows_our_recipe": ("paper", {"label_weight": 1.0}),
    "our_rows_label_weight_1": ("leak_free", {"label_weight": 1.0}),
    "leak_free": ("leak_free", {}),
}


@dg.asset(
    **COMMON,
    pool="gpu",
    deps=["flow_texts", "evaluation_split", "training_order", "base_model", "original", prompt_dep("original")],
)
def paper_protocol(
    context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource, trainer: TrainerResource
) -> dg.MaterializeResult:
    """Audit of the prior work's training recipe: supervised tokens and accuracy, next to ours on the same few rows."""
    with lake.step(context) as step:
        train, seen = held_in(step)
        tokenizer, work = load_tokenizer(base_location(step)), work_folder(step, fingerprint(step))
        named = step.settings.evaluation.audit_tokenizer
        cutting = load_tokenizer(named) if named else tokenizer
        long_rows = long_answers(step, teacher)
        long = build_paper_tensors(long_rows, cutting, work / "long.safetensors")
        kept = build_tensors(long_rows, cutting, QWEN_CONTEXT, work / "long_kept.safetensors")
        old_rows = reordered(train, "explanation_first")
        old = build_paper_tensors(old_rows, tokenizer, work / "paper.safetensors", kept_share=long["answer_kept_share"])
        ours = build_tensors(train, tokenizer, step.settings.student.max_length, work / "leak_free.safetensors")
        result = {
            "long_answers": long,
            "long_answers_by_ours": kept.plain(),
            "paper": old,
            "leak_free": asdict(ours),
            "tokenizer": Path(named).name if named else "that of the base",
            "held_out_rows": len(seen),
            "held_out_prompts_seen_share": float(np.mean(seen)),
            **scored(step, train_arms(step, trainer, work, len(train))),
        }
        step.json("paper_protocol.json", result)
        show(step, result)
    clear_work(step)
    return step.result()


def held_in(step: Step) -> tuple[list[dict[str, Any]], list[bool]]:
    """Split chat rows by row, as the prior work did.

    Returns the training rows and, for each held-out row, True if its prompt was trained on.
    """
    rows = list(
        islice(read_rows(step.input("original", STAGES[0]) / "track.jsonl"), step.settings.evaluation.audit_rows)
    )
    held_out = np.random.default_rng(step.settings.data.seed).permutation(len(rows)) < HELD_OUT * len(rows)
    train = [row for row, out in zip(rows, held_out, strict=True) if not out]
    prompts = {row["messages"][0]["content"] for row in train}
    return train, [row["messages"][0]["content"] in prompts for row, out in zip(rows, held_out, strict=True) if out]


def long_answers(step: Step, teacher: TeacherResource) -> list[dict[str, Any]]:
    """Ask for explanations of the prior work's length, with the class at the end, and return chat rows."""
    rows = ordered_rows(step.input("training_order") / "order.parquet", 0, LONG_ANSWERS)
    config = replace(track_config(step), words=step.settings.evaluation.audit_words, order="explanation_first")
    with TemporaryDirectory() as folder, teacher.open(step) as engine:
        out = Path(folder)
        plan = TrackPlan(rows, texts_of(step), prompt_of(step, "original"), config, out / "requests.parquet")
        ask(plan, engine, out, step.log)
        join(plan, out, engine.source)
        return list(read_rows(out / "track.jsonl"))


def reordered(rows: list[dict[str, Any]], order: str) -> list[dict[str, Any]]:
    """Return the rows with the parts of their answers in `order`."""
    return [
        {"messages": [user, {**answer, "content": format_answer(parse_answer(answer["content"]), order)}]}
        for user, answer in (row["messages"] for row in rows)
    ]


def fingerprint(step: Step) -> str:
    """Return a name for the work folder: a killed training resumes only with the same inputs."""
    return hashlib.sha256(json.dumps(step.data_versions).encode()).hexdigest()[:16]


def train_arms(step: Step, trainer: TrainerResource, work: Path, rows: int) -> dict[str, Path]:
    """Train every arm on equally many of `rows` rows; return the folders of the adapters by arm.

    Args:
        step: The step.
        trainer: The trainer.
        work: Folder of the tensors, and of the outputs of the arms.
        rows: Number of training rows.
    """
    fixed = {"evaluate_every": None, "patience": None, "keep": "last", "max_tokens": None, "base": base_location(step)}
    read = min(PAPER_RECIPE["epochs"] * rows, step.settings.evaluation.audit_rows)
    configs = []
    for name, (file, changes) in ARMS.items():
        recipe = recipe_of(step, step.settings.data.seed) | changes | fixed
        recipe["max_steps"] = max(1, read // recipe["step_rows"])
        configs.append(TrainConfig(**recipe, tensors=work / f"{file}.safetensors", out=work / f"arm-{name}"))
    trainer.train(step, configs, trainer.count(step))
    return {name: config.out for name, config in zip(ARMS, configs, strict=True)}


def scored(step: Step, adapters: dict[str, Path]) -> dict[str, Any]:
    """Measure each adapter's accuracy on distinct test flows with interval, and test neighbouring arms in pairs.

    Writes every flow's predictions into the artefact.
    """
    records = records_of(step)
    rows = sampled_rows(records, "test", SCORED_FLOWS, step.settings.data.seed)
    flows = with_texts(rows, texts_of(step)).drop_duplicates("flow_group")
    groups, texts = flows["flow_group"].tolist(), flows["text"].tolist()
    classes, seed = step.spec.classes, step.settings.data.seed
    side = side_records(records, "test")
    side = side[side["flow_group"].isin(groups)]
    found: dict[str, tuple[list[str], np.ndarray]] = {}
    arms = {}
    for name, adapter in adapters.items():
        with opened_student(step, base_location(step), adapter) as student:
            found[name] = groups, student.score_labels(texts, classes, log=step.log)
        write_predictions(step.folder / f"predictions-{name}.parquet", *found[name], classes)
        view = evaluate_predictions(side, *found[name], classes, seed)["views"]["distinct"]
        arms[name] = {"accuracy": view["accuracy"], "interval": view["intervals"]["accuracy"]}
    paired = {
        f"{second} minus {first}": compare_predictions(side, found[second], found[first], classes, seed)
        for first, second in pairwise(found)
    }
    return {
        "scored_flows": len(flows),
        "paired": paired,
        "arms": [{"arm": name, **arm} for name, arm in arms.items()],  # a list: JSON objects are sorted by name
        "accuracy": {name: arm["accuracy"] for name, arm in arms.items()},
    }


def show(step: Step, result: dict[str, Any]) -> None:
    """Show arms and paired tests on the asset's page."""
    step.summarise(
        label_survives_share=result["long_answers"]["label_survives_share"],
        **{f"accuracy_{name}": value for name, value in result["accuracy"].items()},
    )
    rows = []
    for arm in result["arms"]:
        low, high = arm["interval"]
        rows.append({"arm": arm["arm"], "accuracy": arm["accuracy"], "low": low, "high": high})
    step.table("arms", rows)
    rows = []
    for name, test in result["paired"].items():
        view, p = test["views"]["distinct"], test["mcnemar"]["p_exact"]
        low, high = view["interval"]
        rows.append({"difference": name, "accuracy": view["difference"], "low": low, "high": high, "p_mcnemar": p})
    step.table("differences", rows)
    step.png("arms.png", protocol_arms(result["arms"]), "Accuracy of the arms of the audit")
