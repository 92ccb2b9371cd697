"""State of a training in one process, and the facts and speed that it reports."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from iot_pipeline.training.config import TrainConfig
from iot_pipeline.training.data import Batches, Draws, Plan
from iot_pipeline.training.distributed import Machine
from iot_pipeline.training.metrics import Clock, count_parameters, mfu, peak_memory_gib
from iot_pipeline.training.reporter import Reporter, describe_progress


@dataclass
class Progress:
    """Progress of a training, stored in its checkpoints.

    losses: loss of each step. validation: (step, validation loss) of each measurement. best: the trained parameters at
    the lowest validation loss, on the CPU; empty where the last are kept. halvings: times that the forward pass was
    halved because memory ran out.
    """

    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    halvings: int = 0

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)

    @property
    def best_step(self) -> int:
        """Step of the lowest validation loss, the earliest of equals; the last step without a measurement."""
        return min(self.validation, key=lambda seen: (seen[1], seen[0]))[0] if self.validation else self.step

    def stalled(self, patience: int | None) -> bool:
        """Return True if the last `patience` measurements brought no lower loss; never for None."""
        return patience is not None and sum(step > self.best_step for step, _ in self.validation) >= patience


@dataclass
class Training:
    """One training in one process: its parts and its progress."""

    config: TrainConfig
    key: str
    machine: Machine
    reporter: Reporter
    plan: Plan
    model: Any
    parameters: dict[str, Any]  # the trained ones, by name
    optimiser: Any
    batches: Batches
    validation: Batches | None
    clock: Clock
    flops_per_token: float
    progress: Progress = field(default_factory=Progress)
    classes: tuple[Batches, Draws] | None = None  # class rows, and their draws
    begun: int = 0  # steps done by an earlier process
    setup_seconds: float = 0.0

    @property
    def sources(self) -> list[Batches]:
        """Batches of everything that training reads, the explained rows first."""
        return [self.batches, *([self.classes[0]] if self.classes is not None else [])]

    def tokens(self, steps: int) -> int:
        """Count the tokens of the first `steps` steps, repeats included."""
        return self.plan.tokens(steps) + (self.classes[1].tokens(steps) if self.classes is not None else 0)

    @property
    def ended(self) -> bool:
        """True after the last step, or if validation brings no lower loss any more."""
        return self.progress.step >= self.plan.steps or self.progress.stalled(self.config.patience)


def tell(training: Training, rate: float) -> None:
    """Report progress as a line, and as facts in progress.jsonl."""
    progress, steps = training.progress, training.plan.steps
    seconds = sum(training.clock.seconds.values())
    line = {
        "step": progress.step,
        "steps": steps,
        "loss": round(float(np.mean(progress.losses[-20:])), 5),
        **speed(training),
        "learning_rate": rate,
        "seconds_left": round((steps - progress.step) * seconds / (progress.step - training.begun), 1),
    }
    training.reporter.line(describe_progress(line))
    training.reporter.progress(**line)


def facts(training: Training, validation_loss: float | None) -> dict[str, Any]:
    """Return the facts of a finished training, equal on any machine except for rounding."""
    plan, progress = training.plan, training.progress
    held = (value.to_local() if hasattr(value, "to_local") else value for value in training.model.parameters())
    return {
        "processes": training.machine.world,
        "trainable_parameters": count_parameters(training.parameters.values()),
        "total_parameters": count_parameters(training.model.parameters()),
        "held_parameters": count_parameters(held),
        "rows": len(plan.lengths),
        "distinct_rows": len(np.unique(training.batches.same_as)),
        "steps": progress.step,
        "kept_step": progress.best_step if progress.best else progress.step,
        "rows_per_step": plan.per_step,
        "rows_read": progress.step * plan.per_step,
        "class_rows_read": progress.step * training.config.class_rows,
        "tokens_read": training.tokens(progress.step),
        "first_loss": round(progress.losses[0], 6),
        "final_loss": round(float(np.mean(progress.losses[-max(1, plan.steps // 20) :])), 6),
        "validation_loss": validation_loss,
        "validation_history": progress.validation,
    }


def timings(training: Training) -> dict[str, Any]:
    """Return how long the parts of the training took, and how well its forward passes were filled."""
    batches, clock = training.batches, training.clock
    return {
        "setup_seconds": round(training.setup_seconds, 3),
        **{f"{name}_seconds": round(value, 3) for name, value in clock.seconds.items()},
        **speed(training),
        "flops_per_token": training.flops_per_token,
        "forward_pass": batches.most(),
        "packed": batches.pack_tokens is not None,
        "padding_share": round(batches.padding_share(), 4),
        "merged_row_share": round(batches.merged_share(), 4),
        "outside_compute_share": round(1 - clock.computed / max(clock.seconds["train"], 1e-9), 4),
        "resumed_from_step": training.begun,
    }


def speed(training: Training) -> dict[str, Any]:
    """Return tokens a second and MFU of training alone (no validation, no checkpoints), and peak memory.

    Tokens a second count every row read; MFU counts what was computed: equal rows once.
    """
    device = training.machine.device
    seconds = max(training.clock.seconds["train"], 1e-9)
    read = training.tokens(training.progress.step) - training.tokens(training.begun)
    flops = sum(batches.real for batches in training.sources) / seconds * training.flops_per_token
    return {
        "tokens_per_second": round(read / seconds, 1),
        "mfu": mfu(flops, training.machine.device_name),
        "memory_gib": peak_memory_gib(device),
    }
