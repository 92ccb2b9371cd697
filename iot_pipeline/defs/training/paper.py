"""Training protocols of the prior work and of this project on the same rows: the effect of the old recipe, measured."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from iot_pipeline.augmentation.answers import format_answer, parse_answer
from iot_pipeline.augmentation.ask import ask
from iot_pipeline.augmentation.join import join
from iot_pipeline.augmentation.paper_variation import size_paper_variation
from iot_pipeline.augmentation.plan import TrackPlan
from iot_pipeline.defs.inputs import base_location, order_of, records_of, texts_of, writer_of
from iot_pipeline.defs.partitions import prompt_dep
from iot_pipeline.defs.recipe import recipe_of
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.defs.resources import TeacherResource, TrainerResource, clear_work, opened_student, work_folder
from iot_pipeline.defs.tracks import prompt_of, track_config
from iot_pipeline.defs.training.rows import read_rows
from iot_pipeline.evaluation.evaluate import compare_predictions, evaluate_predictions
from iot_pipeline.evaluation.predictions import write_predictions
from iot_pipeline.flows.dataset import ordered_rows, sampled_rows, side_records, with_texts
from iot_pipeline.inference.student import Student
from iot_pipeline.models.check import check_tokenizer
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.reporting.figures import protocol_arms
from iot_pipeline.sft.paper import build_paper_tensors, named_class
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
    "weight_decay": 0.01,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "lora_targets": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "label_weight": 1.0,
}
# Their 100 steps of warm-up are this share of 5 passes over 10,000 rows; of the audit's few steps 100 would be most.
PAPER_WARMUP = 100 * 16 / (5 * 10_000)
# From the old protocol to this one, a change at a time: name -> (tensors, changes of this lake's recipe).
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "paper": ("paper", PAPER_RECIPE),
    "paper_rows_our_recipe": ("paper", {"label_weight": 1.0}),
    "paper_rows_uncut": ("paper_uncut", {"label_weight": 1.0}),
    "our_rows_label_weight_1": ("leak_free", {"label_weight": 1.0}),
    "leak_free": ("leak_free", {}),
}
# An arm of the old protocol is read from what it writes, so nearly all of its rows must tell their class.
LEAST_TOLD = 0.95
WRITTEN, IN_FRONT = "from the answer it writes", "in front of the answer"
NO_CLASS = "(no class)"
WRITTEN_AT_ONCE = 128  # answers of one batch


@dg.asset(
    group_name="training",
    pool="gpu",
    deps=["flow_texts", "evaluation_split", "training_order", "base_model", "original", prompt_dep("original")],
)
def paper_protocol(
    context: dg.AssetExecutionContext, lake: LakeResource, teacher: TeacherResource, trainer: TrainerResource
) -> dg.MaterializeResult:
    """Audit of the prior work's training recipe: supervised tokens and accuracy, next to ours on the same few rows."""
    with lake.step(context) as step:
        train, seen = held_in(step)
        work, named = work_folder(step, step.data_versions), step.settings.evaluation.audit_tokenizer
        if named:
            check_tokenizer(named)
        cutting = load_tokenizer(named or base_location(step))
        long_rows = long_answers(step, teacher)
        long = build_paper_tensors(long_rows, cutting, work / "long.safetensors", step.spec.classes)
        kept = build_tensors(long_rows, cutting, QWEN_CONTEXT, work / "long_kept.safetensors")
        tensors = tensors_of_arms(step, train, work, long["answer_kept_share"])
        trained = {name: arm for name, arm in ARMS.items() if not unscorable(tensors[arm[0]])}
        result = {
            "long_answers": long,
            "long_answers_by_ours": kept.plain(),
            **tensors,
            "tokenizer": Path(named).name if named else "that of the base",
            "held_out_rows": len(seen),
            "held_out_prompts_seen_share": float(np.mean(seen)),
            "variation": varied_as_before(step, train),
            **scored(step, train_arms(step, trainer, work, len(train), trained), tensors, train),
        }
        step.json("paper_protocol.json", result)
        show(step, result)
    clear_work(step)
    return step.result()


def tensors_of_arms(
    step: Step, train: list[dict[str, Any]], work: Path, kept_share: float
) -> dict[str, dict[str, Any]]:
    """Write the tensors that arms train on; return their statistics by file.

    Args:
        step: The step.
        train: Chat rows.
        work: Folder of the tensors.
        kept_share: Share of an answer that the old protocol's cut leaves.
    """
    tokenizer, classes = load_tokenizer(base_location(step)), step.spec.classes
    old, ours = reordered(train, "explanation_first"), reordered(train, "label_first")
    stats = build_tensors(ours, tokenizer, step.settings.student.max_length, work / "leak_free.safetensors")
    return {
        "paper": build_paper_tensors(old, tokenizer, work / "paper.safetensors", classes, kept_share),
        "paper_uncut": build_paper_tensors(old, tokenizer, work / "paper_uncut.safetensors", classes, 1.0),
        "leak_free": asdict(stats),
    }


def unscorable(tensors: dict[str, Any]) -> str:
    """Return the reason why no accuracy can be read off an arm that trains on tensors; empty if one can."""
    told = tensors.get("class_told_share", 1.0)  # our rows have their class in front: checked by build_tensors
    if told >= LEAST_TOLD:
        return ""
    if tensors["class_named_share"] == 0:
        return "cannot be scored: no class token is trained"
    return f"cannot be scored: {100 * told:.0f} % of its rows tell their class after the cut, the others train no class"


def varied_as_before(step: Step, train: list[dict[str, Any]]) -> dict[str, Any]:
    """Size what multiplying the printed values of the training flows does to them."""
    texts = list(dict.fromkeys(row["messages"][0]["content"] for row in train))
    return size_paper_variation(texts, writer_of(step).spec, step.settings.data.seed)


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
    rows = ordered_rows(order_of(step), 0, LONG_ANSWERS)
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


def train_arms(
    step: Step, trainer: TrainerResource, work: Path, rows: int, arms: dict[str, tuple[str, dict[str, Any]]]
) -> dict[str, Path]:
    """Train arms for equally many steps of equally many rows; return the folders of the adapters by arm.

    Args:
        step: The step.
        trainer: The trainer.
        work: Folder of the tensors, and of the outputs of the arms.
        rows: Number of training rows.
        arms: Tensors and changes of the recipe by arm.
    """
    read = min(PAPER_RECIPE["epochs"] * rows, step.settings.evaluation.audit_rows)
    steps = max(1, read // PAPER_RECIPE["step_rows"])
    fixed = {
        "evaluate_every": None,
        "patience": None,
        "keep": "last",
        "max_tokens": None,
        "class_rows": 0,
        "base": base_location(step),
    }
    fixed |= {"step_rows": PAPER_RECIPE["step_rows"], "max_steps": steps}
    configs = []
    for name, (file, changes) in arms.items():
        warmup = {"warmup_steps": round(PAPER_WARMUP * steps)} if changes is PAPER_RECIPE else {}
        recipe = recipe_of(step, step.settings.data.seed) | changes | warmup | fixed
        configs.append(TrainConfig(**recipe, tensors=work / f"{file}.safetensors", out=work / f"arm-{name}"))
    trainer.train(step, configs, trainer.count(step))
    return {name: config.out for name, config in zip(arms, configs, strict=True)}


def scored(
    step: Step, adapters: dict[str, Path], tensors: dict[str, dict[str, Any]], train: list[dict[str, Any]]
) -> dict[str, Any]:
    """Measure each adapter's accuracy on distinct test flows with interval, and test neighbouring arms in pairs.

    An arm is read where its rows train the class. Writes every flow's predictions into the artefact.

    Args:
        step: The step.
        adapters: Folder of the adapter by arm; an arm without one cannot be scored.
        tensors: Statistics of the tensors by file.
        train: Chat rows that the arms were trained on.
    """
    records = records_of(step)
    rows = sampled_rows(records, "test", SCORED_FLOWS, step.settings.data.seed)
    flows = with_texts(rows, texts_of(step)).drop_duplicates("flow_group")
    groups = flows["flow_group"].tolist()
    columns, seed = [*step.spec.classes, NO_CLASS], step.settings.data.seed
    side = side_records(records, "test")
    side = side[side["flow_group"].isin(groups)]
    found: dict[str, tuple[list[str], np.ndarray]] = {}
    for name, adapter in adapters.items():
        with opened_student(step, base_location(step), adapter) as student:
            found[name] = groups, read_classes(step, student, flows["text"].tolist(), tensors[ARMS[name][0]])
        write_predictions(step.folder / f"predictions-{name}.parquet", *found[name], columns)
    paired = {
        f"{second} minus {first}": compare_predictions(side, found[second], found[first], columns, seed)
        for first, second in pairwise(found)
    }
    views = {
        name: evaluate_predictions(side, *made, columns, seed)["views"]["distinct"] for name, made in found.items()
    }
    return {
        "scored_flows": len(flows),
        "majority": majority(side, groups, train, columns),
        "paired": paired,
        "arms": [arm(name, views, tensors[file]) for name, (file, _) in ARMS.items()],
        "accuracy": {name: view["accuracy"] for name, view in views.items()},
    }


def arm(name: str, views: dict[str, dict[str, Any]], tensors: dict[str, Any]) -> dict[str, Any]:
    """Return accuracy and interval of an arm, and where it was read; without a view, why it cannot be scored."""
    if name not in views:
        return {"arm": name, "accuracy": None, "interval": None, "where": unscorable(tensors)}
    view, where = views[name], WRITTEN if "class_told_share" in tensors else IN_FRONT
    return {"arm": name, "accuracy": view["accuracy"], "interval": view["intervals"]["accuracy"], "where": where}


def read_classes(step: Step, student: Student, texts: list[str], tensors: dict[str, Any]) -> np.ndarray:
    """Return log-probabilities [texts, classes + 1] of an arm, read where its rows train the class.

    Our rows train it in front of the answer, where labels are scored. Those of the old protocol train it in the answer:
    the arm writes as many tokens as they have, and the class that it names counts, the last column if it names none.

    Args:
        step: The step.
        student: Student of the arm.
        texts: Flow texts.
        tensors: Statistics of the arm's tensors.
    """
    classes = step.spec.classes
    if "class_told_share" not in tensors:
        scores = student.score_labels(texts, classes, log=step.log)
        return np.column_stack([scores, np.full(len(texts), -np.inf)])
    answers = student.explain(texts, tensors["longest_answer"], batch=WRITTEN_AT_ONCE, log=step.log)
    told = [named_class(answer, classes) for answer, _ended in answers]
    return certain([len(classes) if name is None else classes.index(name) for name in told], len(classes) + 1)


def certain(chosen: Sequence[int], columns: int) -> np.ndarray:
    """Return log-probabilities [rows, columns] that are sure of one column each."""
    scores = np.full((len(chosen), columns), -np.inf)
    scores[np.arange(len(chosen)), chosen] = 0.0
    return scores


def majority(side: pd.DataFrame, groups: list[str], train: list[dict[str, Any]], columns: list[str]) -> dict[str, Any]:
    """Return the most frequent class of the distinct training flows, and its accuracy on the scored flows.

    Flows count once, as where they are scored: one flow of many rows would make its class the answer to all.

    Args:
        side: Records of the scored flows.
        groups: Their flow groups.
        train: Chat rows that the arms were trained on.
        columns: Classes, and the column of none.
    """
    told = ([turn["content"] for turn in row["messages"]] for row in train)
    labels = [label for _, label in {(flow, parse_answer(answer).label) for flow, answer in told}]
    name = max(columns, key=labels.count)
    view = evaluate_predictions(side, groups, certain([columns.index(name)] * len(groups), len(columns)), columns, 0)
    return {"class": name, "accuracy": view["views"]["distinct"]["accuracy"]}


def show(step: Step, result: dict[str, Any]) -> None:
    """Show arms and paired tests on the asset's page."""
    step.summarise(
        label_survives_share=result["long_answers"]["label_survives_share"],
        class_named_share=result["long_answers"]["class_named_share"],
        accuracy_majority=result["majority"]["accuracy"],
        **{f"accuracy_{name}": value for name, value in result["accuracy"].items()},
    )
    rows = []
    for found in result["arms"]:
        low, high = found["interval"] or (None, None)
        read = {"arm": found["arm"], "accuracy": found["accuracy"], "low": low, "high": high, "read": found["where"]}
        rows.append(read)
    step.table("arms", rows)
    rows = []
    for name, test in result["paired"].items():
        view, p = test["views"]["distinct"], test["mcnemar"]["p_exact"]
        low, high = view["interval"]
        rows.append({"difference": name, "accuracy": view["difference"], "low": low, "high": high, "p_mcnemar": p})
    step.table("differences", rows)
    figure = protocol_arms(result["arms"], result["majority"]["accuracy"])
    step.png("arms.png", figure, "Accuracy of the arms of the audit")
