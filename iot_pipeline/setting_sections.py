"""Sections of the settings, and of each setting its type, bounds, default and description."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator

from iot_pipeline.vocabulary import Control, Stage, Track

SEED = 2027
MOST_SEED = 2**31 - 1  # LightGBM takes no greater one


def _split(value: Any) -> Any:
    """Split a text at its commas; what is named twice counts once."""
    if not isinstance(value, str):
        return value
    return list(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))


def _place(value: Any) -> Any:
    return Path(value) if isinstance(value, str) and "://" not in value else value


CommaSeparated = BeforeValidator(_split)


class Section(BaseModel):
    """Group of settings. A field is set by `IOT_` and its alias, or its own name if it has none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSettings(Section):
    """Source of the flows, their split, and the form of their texts."""

    dataset: str = Field("farm_flow", description="data set spec: a name in iot_pipeline/datasets or a YAML path")
    source: str = Field("simulate", description="`simulate`, or file(s) to read: CSV, zip, gz, Parquet, a glob, a URL")
    rows: int | None = Field(None, ge=100, description="rows to simulate; unset: as many as were published")
    max_rejected_share: float = Field(0.01, ge=0, lt=1, description="share of bad rows above which reading fails")
    seed: int = Field(SEED, ge=0, le=MOST_SEED, description="seed of every random choice that has none of its own")
    split: Literal["groups", "publisher"] = Field(
        "groups", description="test side: groups draws flow groups; publisher takes the publisher's own test rows"
    )
    split_seed: int = Field(SEED, ge=0, le=MOST_SEED, description="seed of split and training order; unset: IOT_SEED")
    order: Literal["natural", "distinct_first"] = Field("natural", description="order of the train pool")
    serialisation: Literal["values", "ranked", "compact"] = Field("ranked", description="how a flow becomes text")


class BaselineSettings(Section):
    """AutoGluon, with which students are compared."""

    preset: Literal["fixed", "medium_quality", "best_quality"] = Field(
        "fixed",
        alias="automl_preset",
        description="AutoGluon: fixed is reproducible; another is limited by time and runs beside fixed",
    )
    seconds: int = Field(
        60, ge=5, alias="automl_seconds", description="AutoGluon time limit in s (not used by `fixed`)"
    )


class TeacherSettings(Section):
    """Teacher, and the answers that it is asked for."""

    server: str = Field(
        "embedded", alias="teacher", description="embedded, openai, replay, or a base URL (Azure: ?api-version=...)"
    )
    model: str | None = Field(None, alias="teacher_model", description="model name in place of the prompt file's")
    prompts: Path = Field(Path(__file__).parent / "prompts", description="folder of the prompt files")
    answers: Literal["auto", "text", "json"] = Field(
        "auto",
        alias="teacher_answers",
        description="form of answers; auto: json, held to a schema where the server can, text of the embedded",
    )
    seed: int = Field(
        SEED, ge=0, alias="teacher_seed", description="seed sent to the teacher, and of variations; unset: IOT_SEED"
    )
    answer_order: Literal["label_first", "explanation_first"] = Field("label_first", description="parts of an answer")
    facts: Literal["plain", "marked"] = Field(
        "plain", description="citations in answers; marked: `orig_pkts` = 2.265 (above, p97), for grammars and programs"
    )
    explanation_words: int = Field(60, ge=30, le=1200, description="words asked of an explanation")
    validation_flows: int = Field(300, ge=10, description="validation flows the teacher explains: one common loss")
    variation: Literal["physical", "paper"] = Field("physical", description="how feature_varied moves values")
    variation_min_p: float = Field(
        0.9, ge=0, le=1, description="probability of its label that a varied flow needs, by models that never saw it"
    )
    max_quarantined_share: float = Field(0.02, ge=0, lt=1, description="share of rows without answer that blocks")


class StudentSettings(Section):
    """Base model, and the recipe of its training."""

    base_model: str = Field("tiny", description="tiny (built here), smollm2 (from a package), a hub id, or a folder")
    seeds: Annotated[list[Annotated[int, Field(ge=0, le=MOST_SEED)]] | None, CommaSeparated] = Field(
        None, min_length=1, description="training seeds, comma separated; unset: IOT_SEED"
    )
    base_seed: int = Field(SEED, ge=0, le=MOST_SEED, description="seed of the tiny base; unset: IOT_SEED")
    base_steps: int = Field(450, ge=1, description="pre-training steps of the tiny base")
    base_pool: Stage | Literal["train"] = Field(
        "train", description="flows the tiny base reads, unlabelled: train (the whole pool), or a stage's rows alone"
    )
    tasks: Literal["explain", "both"] = Field("explain", description="both: each row also asks for the class alone")
    max_length: int = Field(1024, ge=64, description="tokens of the longest row; a longer one is an error")
    stage_chain: Literal["independent", "warm_start"] = Field(
        "independent", description="does a stage start from the base or from the stage before"
    )
    epochs: float = Field(1.0, gt=0, alias="train_epochs", description="passes over the stage's rows")
    max_steps: int | None = Field(None, ge=1, alias="train_max_steps", description="stop after so many optimiser steps")
    step_rows: int = Field(
        32, ge=1, alias="train_step_rows", description="rows of an optimiser step, over all processes"
    )
    max_tokens: int | None = Field(
        None, ge=1, alias="train_max_tokens", description="stop before so many tokens: runs of equal tokens"
    )
    evaluate_every: int | None = Field(None, ge=1, description="steps between measurements of the validation loss")
    patience: int | None = Field(None, ge=1, description="measurements without a lower loss before training stops")
    keep: Literal["last", "best"] = Field(
        "last", alias="keep_checkpoint", description="adapter kept; best by validation loss"
    )
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate")
    warmup_steps: int = Field(100, ge=0, description="optimiser steps of warm-up")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay")
    class_rows: int = Field(
        0, ge=0, description="class rows a step, each a distinct flow; 0: classes come from explained rows as they fall"
    )
    class_power: float = Field(
        0.5, ge=0, le=1, description="class rows draw a class by its share to this power: 1 as it falls, 0 all alike"
    )
    class_copies: int = Field(0, ge=0, description="copies of a labelled class row with some values masked by `?`")
    distil_pool: float = Field(
        0.5, ge=0, lt=1, description="share of class rows of unlabelled flows under AutoML's probabilities"
    )
    distil_weight: float = Field(
        0.0, ge=0, le=1, description="weight of AutoML's probabilities beside the label of a labelled flow"
    )
    class_weight: float = Field(1.0, gt=0, description="weight of class rows' mean loss beside that of explained rows")
    label_weight: float = Field(1.0, gt=0, description="weight of the label's tokens in explained rows' loss")
    lora_r: int = Field(16, ge=1, description="LoRA rank")
    lora_alpha: int = Field(32, ge=1, description="LoRA alpha")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="LoRA dropout")
    lora_targets: str = Field("q_proj,k_proj,v_proj,o_proj", description="module names, or all-linear")
    bf16: Literal["auto", "on", "off"] = Field("auto", description="auto: on where a GPU computes in bf16")
    quantisation: Literal["none", "nf4"] = Field("none", description="nf4 needs the extra `gpu`")


class EvaluationSettings(Section):
    """Extent of what is measured of a student and of the old recipe."""

    explained_flows: int = Field(48, ge=1, description="test flows that the student explains")
    benchmark_seconds: float = Field(
        20.0, gt=0, description="limit of a variant of inference_benchmark; slower ones are not run, or on fewer flows"
    )
    deletion_flows: int = Field(
        48, ge=0, description="explained flows that are scored again without the features their explanation names"
    )
    zero_shot_flows: int = Field(0, ge=0, description="test flows whose class the teacher is asked for; it costs money")
    unknown_steps: int = Field(100, ge=1, description="training steps of a student that a class is kept from")
    unknown_classes: Annotated[list[str] | None, CommaSeparated] = Field(None, description="such classes; unset: each")
    unknown_baseline: Literal["automl", "lightgbm"] = Field("automl", description="what stands beside such students")
    audit_rows: int = Field(2560, ge=32, description="rows of the short trainings that show what the old recipe does")
    audit_tokenizer: str | None = Field(None, description="tokenizer (folder or hub id) of the cut; unset: the base's")
    audit_words: int = Field(900, ge=30, le=1200, description="words of explanations on which its cut is measured")


class ServingSettings(Section):
    """Answers of a finished student."""

    decoding: Literal["free", "grounded"] = Field(
        "grounded", description="of `explain`: grounded lets a number be only one of its flow; reports show both"
    )
    inference: Literal["reference", "balanced", "aggressive"] = Field(
        "balanced",
        description="engine, by what inference_benchmark measured here: balanced gives the reference's probabilities "
        "faster, aggressive its labels (99.9 %) with weights in bf16 or int8; unmeasured: reference",
    )


class RunSettings(Section):
    """Execution alone: none of these changes the content of an artefact, so manifests do not record them."""

    lake: Annotated[Path | str | None, BeforeValidator(_place)] = Field(
        None, description="folder of artefacts, or s3://bucket/prefix; default data_lake/<dataset>-<profile>"
    )
    lake_cache: Path | None = Field(
        None, description="folder of local copies of lakes in buckets; default data_lake/.mirrors"
    )
    base_cache: Path | None = Field(None, description="tiny bases kept for all lakes; default data_lake/.bases")
    stages: Annotated[list[Stage], CommaSeparated] = Field(
        ["10K"], min_length=1, description="stages that `run` makes, comma separated"
    )
    tracks: Annotated[list[Track], CommaSeparated] = Field(
        list(get_args(Track)), min_length=1, description="tracks to make"
    )
    controls: Annotated[list[Control], CommaSeparated] = Field(
        [], description="controls that `study` holds against original, comma separated"
    )
    distil: bool = Field(
        False, description="also train a student that learns from AutoML: its own row, never mixed with the others"
    )
    unknown: bool = Field(False, description="also keep each class from a student in turn: is it called unknown?")
    grid: bool = Field(False, description="also train each stage's rows for every other stage's tokens (original)")
    teacher_budget_usd: float = Field(5.0, ge=0, description="dollars that are never passed, per store of answers")
    teacher_paid: Literal["auto", "yes", "no"] = Field(
        "auto", description="do answers cost money; auto: by the address, local ones being free"
    )
    teacher_replay: bool = Field(False, description="give out stored answers alone: nothing is sent, no key is needed")
    teacher_via: Literal["requests", "batch"] = Field("requests", description="batch: half the price, within a day")
    teacher_concurrency: int = Field(64, ge=1, le=2000, description="most requests in flight")
    teacher_rpm: int | None = Field(None, ge=1, description="requests a minute that are never passed")
    teacher_tpm: int | None = Field(None, ge=1, description="tokens a minute (estimated) never passed")
    teacher_enqueued_tokens: int = Field(2_000_000, ge=1, description="most tokens in batches at once")
    teacher_timeout_s: float = Field(60.0, gt=0, description="seconds to wait for one answer")
    teacher_max_attempts: int = Field(5, ge=1, description="times a request is sent when the server or network fails")
    teacher_store: str | None = Field(None, description="file of answers or database URL; unset: in the lake")
    dagster_postgres: SecretStr | None = Field(
        None, description="URL of a PostgreSQL database for Dagster's records, so that several `run` share a lake"
    )
    gpu_slots: int | None = Field(
        None, ge=0, le=1000, description="trainings and evaluations at once, of all workers; unset: as in the UI, 1"
    )
    teacher_slots: int | None = Field(
        None, ge=0, le=1000, description="artefacts at once that ask the teacher, of all workers; unset: as in UI, 1"
    )
    trainer: Literal["local", "accelerate"] = Field("local", description="what starts training processes on a machine")
    launcher: Literal["local", "ray"] = Field("local", description="where students train: here, or on a Ray cluster")
    ray_address: str | None = Field(
        None, pattern="^https?://", description="the cluster's dashboard, http://HEAD:8265; unset: a Ray started here"
    )
    ray_gpus: float | None = Field(
        None, ge=0, le=1, description="GPUs of a worker, of which there are IOT_PROCESSES; unset: 1 where there are any"
    )
    ray_cpus: int | None = Field(None, ge=1, description="CPUs of a worker on Ray; unset: its threads")
    ray_slots: int | None = Field(
        None, ge=0, le=1000, description="trainings at once on Ray, of all workers; unset: as in the UI, 1"
    )
    processes: int | None = Field(None, ge=1, description="training processes; unset: one a GPU, or (tiny base) a core")
    threads: int | None = Field(None, ge=1, description="CPU threads of one process")
    batch: Literal["local", "ray"] = Field(
        "local", description="what scores evaluation's sides and files of `classify`: this process, or replicas on Ray"
    )
    ray_replicas: int | None = Field(
        None, ge=1, description="students that score at once on Ray; unset: one a GPU, or one a machine without"
    )
    ray_engine: Literal["same", "vllm"] = Field(
        "same",
        description="engine of replicas that classify; same: as without Ray; vllm: on GPUs, its probabilities differ "
        "and it grounds no explanation",
    )
    micro_rows: int | None = Field(None, ge=1, alias="train_micro_rows", description="most rows of one forward pass")
    packing: Literal["auto", "on", "off"] = Field("auto", description="lay rows end to end; auto: with flash attention")
    pack_tokens: int = Field(4096, ge=64, description="most tokens of one pack")
    gradient_checkpointing: bool = Field(False, description="less memory for more time")
    shard: bool = Field(False, description="share out the frozen layers of a larger base over the GPUs (FSDP)")
    save_every: int = Field(100, ge=1, description="most optimiser steps between checkpoints to resume from")
    save_minutes: float = Field(10.0, gt=0, description="most minutes between checkpoints to resume from")
    automation: Literal["off", "on"] = Field(
        "off", description="on: schedule and prompt sensor are on as `ui` opens; off: until switched on in the UI"
    )
    schedule_cron: str = Field("0 2 * * *", description="when the schedule makes what is stale, as a cron line")
    schedule_timezone: str = Field("UTC", description="time zone of the schedule and of its day's budget")
    schedule_budget_usd: float = Field(
        0.0, ge=0, description="dollars a day for teacher work of schedule and prompt sensor, within the whole budget"
    )
    schedule_training: bool = Field(False, description="may schedule and prompt sensor also train and evaluate")
    failure_webhook: SecretStr | None = Field(None, description="URL that gets a JSON message for every failed run")
    openlineage_url: SecretStr | None = Field(None, description="server that gets OpenLineage events of all artefacts")
    mlflow_uri: SecretStr | None = Field(None, description="MLflow server that gets a run of every trained student")

    @field_validator("failure_webhook", "openlineage_url", "mlflow_uri")
    @classmethod
    def _is_url(cls, value: SecretStr | None) -> SecretStr | None:
        """Refuse what is no HTTP address: MLflow would take a folder, and nothing else is told of it."""
        if value is not None and not re.match(r"\s*https?://[^/\s]", value.get_secret_value(), re.IGNORECASE):
            raise ValueError("it is no URL; write it as https://host")
        return value

    def slots(self) -> dict[str, int | None]:
        """Return how many slots each pool has; None for one that stays as it is."""
        return {"gpu": self.gpu_slots, "ray": self.ray_slots, "teacher": self.teacher_slots}
