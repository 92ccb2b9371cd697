"""Configuration of a training run, as one JSON file."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import sha256_file, write_text
from iot_pipeline.models.loading import ADAPTER, base_identity

RESULT = "training.json"


def _targets(value: Any) -> Any:
    """Parse LoRA targets as the setting writes them: `q_proj,k_proj` -> list; `all-linear` stays."""
    parts = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    return "all-linear" if parts == ["all-linear"] else parts


class Execution(BaseModel):
    """Files, and the way a training is carried out.

    No value here steers a step, so checkpoints and results stay valid when one changes; data counts by its content.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tensors: Path = Field(description="training tensors (sft.build_tensors)")
    validation: Path | None = Field(None, description="validation tensors; their loss is measured at the end")
    classes: Path | None = Field(None, description="tensors of class rows (sft.class_rows); needs class_rows")
    out: Path = Field(description="folder of the adapter, training.json, loss.jsonl, progress.jsonl")
    micro_rows: int | None = Field(None, ge=1, description="most rows of one forward pass; default step_rows")
    packing: Literal["auto", "on", "off"] = Field("auto", description="rows end to end; auto: where flash attention is")
    pack_tokens: int = Field(4096, ge=64, description="most tokens of one pack; a longer row is a pack of its own")
    gradient_checkpointing: bool = False
    shard: bool = Field(False, description="share out the frozen layers over the processes (FSDP)")
    threads: int | None = Field(None, ge=1, description="CPU threads of one process; default its share of the cores")
    save_every: int = Field(100, ge=1, description="most steps between checkpoints")
    save_minutes: float = Field(10.0, gt=0, description="most minutes between checkpoints")
    log_seconds: float = Field(5.0, gt=0, description="seconds between live lines")


class TrainConfig(Execution):
    """Configuration of one LoRA fine-tuning. Paths are local; `rows` are training rows; steps are optimiser steps."""

    base: str = Field(description="folder or hub id of the base model")
    seed: int = 42

    epochs: float = Field(5.0, gt=0)
    max_steps: int | None = Field(None, ge=1, description="stop after so many steps; wins over epochs")
    step_rows: int = Field(16, ge=1, description="rows of one optimiser step, over all processes and forward passes")
    max_tokens: int | None = Field(None, ge=1, description="stop before so many tokens are passed")
    evaluate_every: int | None = Field(None, ge=1, description="steps between measurements of the validation loss")
    patience: int | None = Field(None, ge=1, description="measurements without a lower loss before it stops")
    keep: Literal["last", "best"] = Field("last", description="which adapter is the result; best needs evaluate_every")
    learning_rate: float = Field(2e-4, gt=0)
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    class_rows: int = Field(0, ge=0, description="class rows of one optimiser step, beside its `step_rows`")
    class_weight: float = Field(1.0, gt=0, description="weight of the mean loss of class rows beside the other's")
    label_weight: float = Field(1.0, gt=0, description="weight of the label's tokens in the loss; the paper's is 1")
    bf16: Literal["auto", "on", "off"] = Field("auto", description="auto: on where a GPU computes in bf16")
    quantisation: Literal["none", "nf4"] = "none"

    lora_r: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    lora_targets: Annotated[list[str] | Literal["all-linear"], BeforeValidator(_targets)] = Field(
        ["q_proj", "k_proj", "v_proj", "o_proj"], description="module names (a list, or with commas), or all-linear"
    )
    warm_start: Path | None = Field(None, description="adapter folder to begin from")

    @model_validator(mode="after")
    def measured(self) -> Self:
        """Require the files that values use: validation tensors for `keep` and `patience`, those of class rows."""
        chooses = self.keep == "best" or self.patience is not None
        if chooses and (self.evaluate_every is None or self.validation is None):
            raise ValueError("keep best and patience need evaluate_every and validation tensors")
        if (self.class_rows > 0) != (self.classes is not None):
            raise ValueError("class_rows and classes need each other")
        return self

    def steering(self) -> dict[str, Any]:
        """Return the values that steer a step, as JSON values, without the data (`identity` hashes them)."""
        return self.model_dump(mode="json", exclude=set(Execution.model_fields))

    def identity(self) -> str:
        """Hash the values, data and initial weights that a checkpoint or result must match to be reused."""
        start = self.warm_start / ADAPTER if self.warm_start is not None else None
        files = (self.tensors, self.validation, self.classes, start)
        data = [sha256_file(path) for path in files if path is not None]
        values = self.steering() | {"data": data, "base": base_identity(self.base)}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def write(self, path: Path) -> Path:
        """Write the configuration as JSON; return `path`."""
        write_text(path, self.model_dump_json(indent=1) + "\n")
        return path


def read_config(path: Path) -> TrainConfig:
    """Read the training configuration from a JSON file; UserError names the file and the first wrong field."""
    try:
        return TrainConfig.model_validate_json(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def finished(config: TrainConfig) -> dict[str, Any] | None:
    """Return the result in training.json if it belongs to this very training, else None."""
    if not (config.out / RESULT).is_file():
        return None
    result: dict[str, Any] = json.loads((config.out / RESULT).read_text())
    return result if result.get("identity") == config.identity() else None
