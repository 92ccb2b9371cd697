"""Asset group training: the base model, and tensors and a LoRA checkpoint for each stage and track."""

import hashlib
import json
import math
import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import dagster as dg

from iot_pipeline.defs.checks import check_specs
from iot_pipeline.defs.inputs import base_location, order_of, records_of, texts_of
from iot_pipeline.defs.partitions import (
    increments_dep,
    probabilities_deps,
    student_partitions,
    tensor_partitions,
    tensors_dep,
    trained_arms,
)
from iot_pipeline.defs.recipe import config_in_work_folder, recipe_of
from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.defs.resources import TrainerResource, clear_work, work_folder
from iot_pipeline.defs.training.class_rows import write_class_rows
from iot_pipeline.defs.training.rows import Chats, read_rows, tensor_files, training_rows, validation_rows, write_rows
from iot_pipeline.errors import UserError
from iot_pipeline.flows.dataset import pool_size, side_records, side_texts, stage_texts
from iot_pipeline.flows.split import stage_rows
from iot_pipeline.inference.student import room_for
from iot_pipeline.lake.atomic import read_json, write_json
from iot_pipeline.lake.build_cache import lookup, store
from iot_pipeline.lake.code_version import code_version
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.models.check import check_base
from iot_pipeline.models.loading import describe_base
from iot_pipeline.models.smollm2 import FACTS as SMOLLM2_FACTS
from iot_pipeline.models.smollm2 import SMOLLM2, SMOLLM2_LABEL, smollm2_base
from iot_pipeline.models.tokenizer import encode, load_tokenizer, prompt_text
from iot_pipeline.reporting import figures
from iot_pipeline.settings import settings
from iot_pipeline.sft.check import TensorCheck, check_tensors
from iot_pipeline.sft.tensors import build_tensors, load_tensors
from iot_pipeline.tiny_base.__main__ import RESULT, BaseConfig
from iot_pipeline.training.config import TrainConfig
from iot_pipeline.training.launch import threads_of
from iot_pipeline.training.model import largest_change
from iot_pipeline.vocabulary import STAGES, TRACKS, Trained, previous_stage, staged

LONGEST_TEXTS = 64  # flow texts whose tokens are counted, the longest by characters
# What a training writes beside the adapter; it may differ between equal runs.
TOLD = ("adapter_config.json", "loss.jsonl", "progress.jsonl", "training.json")
# Of a training's timings, what its page shows beside what it was and the machine that it ran on.
SHOWN_TIMINGS = (
    "tokens_per_second",
    "mfu",
    "memory_gib",
    "padding_share",
    "forward_pass",
    "outside_compute_share",
    "train_seconds",
)

TINY_LABEL = "TINY base: a small Qwen2 built here and pre-trained on unlabelled flows, no pre-trained language model"


@dg.asset(
    group_name="training",
    deps=["flow_texts", "evaluation_split", "training_order"],
    check_specs=check_specs("base_model", "base_is_fit"),
)
def base_model(context: dg.AssetExecutionContext, lake: LakeResource, trainer: TrainerResource) -> dg.MaterializeResult:
    """Base model of the student: SmolLM2, a hub id, a folder, or the tiny Qwen2 built here (it never sees a label)."""
    with lake.step(context) as step:
        name = step.settings.student.base_model
        if name == "tiny":
            tiny_base(step, trainer)
        else:
            given_base(step, name)
    clear_work(step)
    return step.result()


def given_base(step: Step, name: str) -> None:
    """Record a pre-trained base, a hub id or a folder; SmolLM2 is copied into the artefact from the build cache."""
    base = str(step.folder / "model") if name == SMOLLM2 else name
    if name == SMOLLM2:
        shutil.copytree(smollm2_base(step.settings.base_cache_path, step.log), step.folder / "model")
        found = check_base(base)
        step.json("base.json", {"kind": SMOLLM2, **SMOLLM2_FACTS})
        step.provenance["label"] = SMOLLM2_LABEL
    else:
        found = check_base(name)
        step.json("base.json", {"kind": "given", "name": name, "revision": found["revision"]})
        for path in sorted(Path(name).absolute().glob("*.*")):  # none of a hub id
            step.file(path)
    step.summarise(base=name, **{fact: value for fact, value in found.items() if fact != "matrices"})
    problem = chosen_length(step, found["longest_row"]) or too_long(step, base)
    step.check("base_is_fit", not problem, problem=problem or "none")


def chosen_length(step: Step, longest: int | None) -> str:
    """Return the problem of IOT_MAX_LENGTH with a base that reads rows of `longest` tokens; empty if there is none."""
    chosen = step.settings.student.max_length
    if longest is None or chosen <= longest:
        return ""
    return f"IOT_MAX_LENGTH={chosen}, but the base reads {longest} tokens: lower it, or take another"


def too_long(step: Step, base: str | Path) -> str:
    """Return the problem of flow texts that leave no room for an answer within IOT_MAX_LENGTH; empty without one.

    It is found before the teacher is paid: a text and one token a word of the answer are the least that a row takes.
    """
    if step.lake.manifest(ArtefactId("flow_texts")) is None:  # a base looked at by itself
        return ""
    texts = sorted(pool_texts(step)[0], key=len)[-LONGEST_TEXTS:]
    tokenizer = load_tokenizer(base)
    prompt = max(map(len, encode(tokenizer, [prompt_text(tokenizer, text) for text in texts])), default=0)
    chosen, words = step.settings.student.max_length, step.settings.teacher.explanation_words
    if prompt + words <= chosen:
        return ""
    return (
        f"IOT_MAX_LENGTH={chosen}, but a flow takes up to {prompt} tokens and its answer {words} words: raise it to "
        f"{prompt + room_for(words)}, or use fewer features or IOT_SERIALISATION=compact"
    )


def tiny_base(step: Step, trainer: TrainerResource) -> None:
    """Build the tiny base into the artefact."""
    texts, pool = pool_texts(step)
    config = base_config(step, texts, trainer.count_for_base(step))
    built = built_base(step, trainer, config)
    report = read_json(built / RESULT)
    shutil.copytree(built / "model", step.folder / "model")
    shutil.copy(built / "progress.jsonl", step.folder)
    step.volatile("progress.jsonl")
    step.json("base.json", {"kind": "tiny", "name": "model", **pool, "read_flows": report["distinct_flows"]})
    step.json("building.json", report, volatile=True)
    shown = ("parameters", "vocabulary", "values_copied")
    step.summarise(last_loss=report["losses"][-1], **{name: report[name] for name in shown})
    curves = figures.loss_curves({"tiny base": read_curve(step.folder / "progress.jsonl")})
    step.png("loss.png", curves, "Loss of the tiny base's pre-training by step")
    losses = report["losses"]
    fit = all(map(math.isfinite, losses)) and (len(losses) == 1 or losses[-1] < losses[0])
    problem = {"problem": found} if (found := too_long(step, step.folder / "model")) else {}
    step.check("base_is_fit", fit and not problem, first_loss=losses[0], last_loss=losses[-1], **problem)
    step.provenance["label"] = TINY_LABEL


def pool_texts(step: Step) -> tuple[list[str], dict[str, Any]]:
    """Return the flow texts that the tiny base may read: those of the train pool, or (a control) of a stage's rows.

    With them: `pool`, `pool_rows`, `pool_flows`, since this is what a student has beyond its labels.
    """
    pool = step.settings.student.base_pool
    if pool == "train":
        texts = side_texts(texts_of(step), records_of(step), "train")["text"].tolist()
        rows = int(side_records(records_of(step), "train")["rows"].sum())
    else:
        order = order_of(step)
        _, rows, _ = stage_rows(pool, pool_size(order))
        texts = stage_texts(texts_of(step), order, rows)["text"].tolist()
    return texts, {"pool": pool, "pool_rows": rows, "pool_flows": len(texts)}


def read_curve(progress: Path) -> list[dict[str, Any]]:
    """Read loss by step of the last run in a progress.jsonl, to which a second run appends."""
    lines = list(read_rows(progress))
    begins = [place for place in range(1, len(lines)) if lines[place]["step"] <= lines[place - 1]["step"]]
    return [{"step": line["step"], "loss": line["loss"]} for line in lines[(begins or [0])[-1] :]]


def built_base(step: Step, trainer: TrainerResource, config: BaseConfig) -> Path:
    """Return the folder of the built base: from the build cache (same texts, same code), or built now."""
    cache = step.settings.base_cache_path
    code = code_version("iot_pipeline.tiny_base.__main__")
    made_of = [config.identity(), code, version("torch"), version("transformers")]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    if found := lookup(cache, key):
        step.log(f"this base was built before, by the same code from the same texts: taken from {cache.name}")
        step.summarise(kept_base=key[:16])
        return found
    trainer.build_base(step, config)
    try:
        store(cache, key, config.out, ["model", "progress.jsonl", RESULT])
    except OSError as error:
        step.log(f"the base cannot be kept for other lakes: {error}")
    return config.out


def base_config(step: Step, texts: list[str], processes: int) -> BaseConfig:
    """Return the tiny base's config from the settings; its texts are written to the work folder."""
    chosen = step.settings
    out = work_folder(step, step.data_versions)
    write_json(out / "texts.json", texts)
    return BaseConfig(
        dataset=chosen.data.dataset,
        texts=out / "texts.json",
        out=out,
        words=chosen.teacher.explanation_words,
        order=chosen.teacher.answer_order,
        marked=chosen.teacher.facts == "marked",
        classes=step.spec.classes if step.spec.rare_classes else None,
        steps=chosen.student.base_steps,
        seed=chosen.student.base_seed,
        threads=threads_of(processes, step.settings.run.threads),
        processes=processes,
    )


def training_split(stage: str) -> dg.AssetsDefinition:
    """Define the training tensors of one stage."""
    name, check, partitions = staged("training_split", stage), "rows_complete_and_supervised", tensor_partitions()

    @dg.asset(
        group_name="training",
        name=name,
        partitions_def=partitions,
        deps=[
            "base_model",
            "validation_answers",
            *(increments_dep(track, stage) for track in TRACKS),
            *probabilities_deps(stage),
        ],
        check_specs=check_specs(name, check, partitions=partitions),
        description=f"Chat JSONL and tensors of stage {stage}, a prefix of the training order: no row is truncated, "
        "and the loss covers answers only.",
    )
    def split(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        arm = context.partition_key
        with lake.step(context) as step:
            base = base_location(step)
            tokenizer = load_tokenizer(base)
            if problem := chosen_length(step, describe_base(base)["longest_row"]):
                raise UserError(problem)
            chats = training_rows(step, arm, stage, tokenizer)
            trained = split_tensors(step, chats, "train.jsonl", "train.safetensors", tokenizer)
            chats = validation_rows(step, arm)
            valid = split_tensors(step, chats, "valid.jsonl", "validation.safetensors", tokenizer)
            problems = [*trained.problems, *(f"validation: {problem}" for problem in valid.problems)]
            if step.settings.student.class_rows:
                problems += [f"class rows: {found}" for found in write_class_rows(step, arm, stage, tokenizer)]
            step.json("stats.json", asdict(trained.stats))
            step.check(check, not problems, problems="; ".join(problems) or "none")
            lengths, title = load_tensors(step.folder / "train.safetensors").lengths, f"{arm} {stage}"
            histogram = figures.token_lengths(lengths, step.settings.student.max_length, title)
            step.png("lengths.png", histogram, f"Tokens per row, {title}")
            step.summarise(**trained.stats.plain())
        return step.result()

    return cast(dg.AssetsDefinition, split)


def split_tensors(step: Step, chats: Chats, jsonl: str, tensors: str, tokenizer: Any) -> TensorCheck:
    """Write rows and tensors of chats, and check them against what was expected of them.

    Args:
        step: The step, whose folder is written to.
        chats: The chat rows, and their expected number or tokens.
        jsonl: Name of the file of rows.
        tensors: Name of the file of tensors.
        tokenizer: The base model's tokeniser.
    """
    longest = step.settings.student.max_length
    write_rows(chats.rows, step.folder / jsonl)
    build_tensors(read_rows(step.folder / jsonl), tokenizer, longest, step.folder / tensors, step.log)
    found = check_tensors(step.folder / tensors, tokenizer, longest, rows=chats.expected)
    if chats.tokens is not None and not chats.tokens - longest < found.stats.tokens <= chats.tokens:
        found.problems.append(f"{found.stats.tokens} tokens where {chats.tokens} were to be reached within one row")
    return found


def lora_checkpoint(stage: str) -> dg.AssetsDefinition:
    """Define the checkpoint asset of one stage; it depends on the previous stage, from which it may start."""
    name, previous = staged("lora_checkpoint", stage), previous_stage(stage)
    partitions = student_partitions(trained_arms())
    deps: list[str | dg.AssetDep] = ["base_model", tensors_dep(staged("training_split", stage))]
    if previous:
        deps.append(dg.AssetDep(staged("lora_checkpoint", previous)))

    @dg.asset(
        group_name="training",
        name=name,
        partitions_def=partitions,
        deps=deps,
        pool="ray" if settings().run.launcher == "ray" else "gpu",  # a cluster's trainings leave this machine's GPUs
        check_specs=check_specs(name, "loss_is_finite", "adapter_moved", partitions=partitions),
        description=f"LoRA adapter of stage {stage}, with its loss curve and the facts of its training.",
    )
    def checkpoint(
        context: dg.AssetExecutionContext, lake: LakeResource, trainer: TrainerResource
    ) -> dg.MaterializeResult:
        trained = Trained.parse(context.partition_key)
        with lake.step(context) as step:
            config = train_config(step, stage, trained, previous)
            (facts,) = trainer.train(step, [config], trainer.count(step))
            for name in ("adapter_model.safetensors", *TOLD):
                shutil.copy(Path(config.out) / name, step.folder / name)
            step.volatile(*TOLD)
            curve = list(read_rows(step.folder / "loss.jsonl"))
            told = facts["facts"] | facts["machine"] | {name: facts["timings"].get(name) for name in SHOWN_TIMINGS}
            step.summarise(**{name: value for name, value in told.items() if value is not None})
            finite = all(math.isfinite(line["loss"]) for line in curve)
            step.check("loss_is_finite", finite, final_loss=facts["facts"]["final_loss"])
            moved = largest_change(step.folder, config.warm_start)
            step.check("adapter_moved", moved > 0, largest_change=moved)
            step.png("loss.png", figures.loss_curves({f"{trained.track} {stage}": curve}), "Training loss by step")
        clear_work(step)
        return step.result()

    return cast(dg.AssetsDefinition, checkpoint)


def train_config(step: Step, stage: str, trained: Trained, previous: str | None) -> TrainConfig:
    """Return the training config from settings and lake.

    Args:
        step: The step of the checkpoint.
        stage: Its stage.
        trained: Its training seed and track.
        previous: The stage before, from whose checkpoint it starts if the stages are a chain.
    """
    tensors = step.input(staged("training_split", stage), trained.track)
    warm = previous if step.settings.student.stage_chain == "warm_start" else None
    values: dict[str, Any] = recipe_of(step, trained.seed) | {
        "base": base_location(step),
        **tensor_files(step, tensors),
        "warm_start": step.input(staged("lora_checkpoint", warm), trained.key) if warm else None,
    }
    return config_in_work_folder(step, values)


training_splits = [training_split(stage) for stage in STAGES]
lora_checkpoints = [lora_checkpoint(stage) for stage in STAGES]
