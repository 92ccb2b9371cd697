"""Training subprocess: `python -m iot_pipeline.training.train CONFIG.json ...`, alone or under torchrun."""

import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import write_json, write_text
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.sft.tensors import Tensors, load_tensors
from iot_pipeline.training import checkpoint, state
from iot_pipeline.training.config import RESULT, TrainConfig, finished, read_config
from iot_pipeline.training.data import Batches, causal_loss, make_draws, make_plan
from iot_pipeline.training.distributed import find_machine, leave_processes
from iot_pipeline.training.launch import exit_with_parent
from iot_pipeline.training.metrics import Clock, count_parameters, flops_per_token
from iot_pipeline.training.model import adapted_model, rows_stay_apart, save_adapter
from iot_pipeline.training.reporter import Reporter, complain, dagster_pipes, no_room
from iot_pipeline.training.state import Training


def main(arguments: list[str] | None = None) -> int:
    """Train by each configuration file on the command line; exit code 0, or 2 after a one-line error.

    One process for several trainings loads torch and peft once, which takes 7 s.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        print("usage: python -m iot_pipeline.training.train CONFIG.json ...", file=sys.stderr)
        return 2
    exit_with_parent()
    out = Path(given[0]).parent
    try:
        configs = [read_config(Path(path)) for path in given]
        with dagster_pipes() as pipes:
            for config in configs:
                out = config.out
                run(config, pipes)
        leave_processes()
    except UserError as error:
        complain(error)
        return 2
    except Exception as error:
        if (told := no_room(error, out)) is None:
            raise
        complain(told)
        return 2
    return 0


def run(config: TrainConfig, pipes: Any | None = None) -> dict[str, Any]:
    """Train as `config` says; return the content of training.json.

    Resumes from its own checkpoint after a kill; a finished training is not repeated.
    """
    if (result := finished(config)) is not None:
        return result
    training = setup(config, pipes)
    train(training)
    return finish(training)


def setup(config: TrainConfig, pipes: Any | None) -> Training:
    """Load data, model and optimiser, and resume from the checkpoint of this very configuration, if there is one."""
    import torch

    started = time.perf_counter()
    machine = find_machine(config.threads, config.bf16)
    config.out.mkdir(parents=True, exist_ok=True)
    tensors, tokenizer = load_tensors(config.tensors), load_tokenizer(config.base)
    if int(tensors.input_ids.max()) >= len(tokenizer):
        raise UserError(f"{config.tensors}: made with another tokenizer than that of {config.base}; make it again")
    lengths = tensors.lengths
    model = adapted_model(config, machine)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    packs = config.packing == "on" or (config.packing == "auto" and machine.flash)
    if packs and not rows_stay_apart(model, machine):
        if config.packing == "on":
            raise UserError("IOT_PACKING=on: in this base, rows end to end read each other; set auto or off")
        packs = False
    pack_tokens = config.pack_tokens if packs else None

    def batches_of(tensors: Tensors, label_weight: float) -> Batches:
        rows, place = config.micro_rows or config.step_rows, (machine.rank, machine.world, machine.device)
        return Batches(tensors, tokenizer, rows, label_weight, pack_tokens, *place, even=config.shard)

    batches = batches_of(tensors, config.label_weight)
    classed = load_tensors(config.classes) if config.classes is not None else None
    draws = partial(make_draws, classed, config.class_rows, seed=config.seed) if classed is not None else None
    ends = (config.epochs, config.max_steps, config.seed, config.max_tokens)
    plan = make_plan(lengths, config.step_rows, *ends, draws)
    classes = (batches_of(classed, 1.0), draws(plan.steps)) if classed is not None and draws is not None else None
    parts = [(config.step_rows, lengths, batches.supervised)]
    if classes is not None:  # as they are drawn
        parts.append((config.class_rows, *(of[classes[1].rows] for of in (classes[1].lengths, classes[0].supervised))))
    tokens, supervised = (sum(rows * float(of[which].mean()) for rows, *of in parts) for which in (0, 1))
    rows = config.step_rows + config.class_rows
    training = Training(
        config=config,
        key=config.identity(),
        machine=machine,
        reporter=Reporter(pipes, config.out, machine.rank == 0),
        plan=plan,
        model=model,
        parameters=parameters,
        optimiser=torch.optim.AdamW(
            parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        ),
        batches=batches,
        validation=batches_of(load_tensors(config.validation), 1.0) if config.validation is not None else None,
        classes=classes,
        clock=Clock(machine.device),
        flops_per_token=flops_per_token(model, tokens / rows, supervised / tokens),
    )
    resume(training)
    training.setup_seconds = time.perf_counter() - started
    return training


def resume(training: Training) -> None:
    """Resume from the checkpoint, if there is one. Raises UserError if the processes find different ones."""
    reporter = training.reporter
    if training.machine.rank == 0:
        for half in training.config.out.glob(".*.tmp"):  # left by a kill during a write
            half.unlink(missing_ok=True)  # a launcher that renews its lease renames one here
    progress = checkpoint.load(training)
    last, first = training.machine.most(progress.step), -training.machine.most(-progress.step)
    if first != last:  # each would read other rows, and the first to end would leave the others waiting
        raise UserError(
            f"{training.config.out}: one process finds the checkpoint of step {first} there, another that of step "
            f"{last}; all need the same folder"
        )
    training.progress, training.begun = progress, progress.step
    if progress.step:
        reporter.line(f"resumed at step {progress.step} of {training.plan.steps}")
    if progress.halvings:
        shrink_to(training, progress.halvings)
        reporter.line(f"forward passes of {training.batches.most()} at most, as before: memory ran out then")


def train(training: Training) -> None:
    """Run the remaining steps, with live lines, validation and checkpoints."""
    config, plan, machine, progress = training.config, training.plan, training.machine, training.progress
    training.reporter.line(
        f"training {count_parameters(training.parameters.values()):,} of "
        f"{count_parameters(training.model.parameters()):,} parameters on {len(plan.lengths):,} rows, "
        f"{plan.steps} steps of {plan.per_step} rows, {machine.world} process(es), "
        f"{machine.device_name}, {'bf16' if machine.bf16 else 'fp32'}, {machine.threads} thread(s)"
    )
    told = saved = time.perf_counter()
    training.model.train()
    while not training.ended:
        rate = config.learning_rate * schedule(config.scheduler, progress.step, plan.steps, config.warmup_steps)
        with training.clock.part("train"):
            progress.losses.append(optimise(training, rate))
        if config.evaluate_every and progress.step % config.evaluate_every == 0:
            with training.clock.part("validation"):
                measure(training)
        now = time.perf_counter()
        if now - told >= config.log_seconds or progress.step == plan.steps:
            told = now
            state.tell(training, rate)
        # Also after the last step: a later failure must not cost the training.
        due = progress.step % config.save_every == 0 or now - saved >= 60 * config.save_minutes or training.ended
        if due and machine.rank == 0:
            with training.clock.part("checkpoint"):
                checkpoint.save(training)
            saved = time.perf_counter()


def optimise(training: Training, rate: float) -> float:
    """Run one optimiser step; return the mean loss of its supervised tokens over all processes."""
    import torch

    config, machine, batches = training.config, training.machine, training.batches
    step, parameters, before = training.progress.step, list(training.parameters.values()), batches.halvings
    for group in training.optimiser.param_groups:
        group["lr"] = rate
    torch.manual_seed(((config.seed * 1_000_003 + step) * 1_009 + machine.rank) % (1 << 63))
    total = within_memory(training, batches, lambda: backward(training))
    with training.clock.computing():
        sums = torch.stack([total, torch.full_like(total, batches.halvings - before)])
        machine.sum_gradients(parameters, sums)
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        training.optimiser.step()
        training.optimiser.zero_grad()
    loss, halved = sums.tolist()
    training.clock.collect()
    if halved:  # in some process: all adopt its limit, and rank 0 reports it
        shrink_to(training, machine.most(batches.halvings))
        training.reporter.line(
            f"out of memory at step {step + 1}: forward passes of {batches.most()} at most from here on, the same "
            "rows a step"
        )
    if not math.isfinite(loss):
        raise UserError(f"the loss is {loss} at step {step + 1}: lower IOT_LEARNING_RATE (now {config.learning_rate})")
    return loss


def backward(training: Training) -> Any:
    """Run forward and backward on this process's share of the next step; return its part of the loss.

    The loss is the mean over the supervised tokens of explained rows, and that over class rows times `class_weight`.
    """
    import torch

    machine, config, step = training.machine, training.config, training.progress.step
    rows = training.plan.rows_of(step)
    parts = [(training.batches, rows, training.batches.weight_total(rows))]
    if training.classes is not None:
        batches, draws = training.classes
        parts.append((batches, draws.rows_of(step), config.class_rows / config.class_weight))
    total = torch.zeros((), device=machine.device)
    for batches, rows, divisor in parts:
        for batch in batches.of(rows):
            with training.clock.computing():
                with machine.autocast():
                    loss = causal_loss(training.model, *batch) / divisor
                loss.backward()
                total += loss.detach()
    return total


def within_memory(training: Training, batches: Batches, compute: Callable[[], Any]) -> Any:
    """Call `compute`, again with half the forward pass of its `batches` each time that memory runs out.

    Gradients are dropped before each new attempt. Raises UserError if the forward passes cannot be smaller.
    """
    import torch

    step = training.progress.step
    where = f"at step {step + 1}" if batches is training.batches else f"in validation after step {step}"
    while True:
        try:
            return compute()
        except torch.OutOfMemoryError as error:
            training.optimiser.zero_grad()
            if training.config.shard:  # the others wait for this process's part of the next layer
                raise UserError(f"out of memory {where} with sharded layers: lower IOT_TRAIN_MICRO_ROWS") from error
            together = training.sources if batches is training.batches else [batches]
            if sum(source.shrink() for source in together) == 0:
                raise UserError(
                    f"out of memory {where} even with one row a forward pass: set IOT_GRADIENT_CHECKPOINTING=true or "
                    "IOT_QUANTISATION=nf4, or take a smaller base"
                ) from error
            torch.cuda.empty_cache()


def shrink_to(training: Training, halvings: int) -> None:
    """Halve the forward passes to `halvings` in total, in training and in validation."""
    training.progress.halvings = halvings
    for batches in filter(None, (*training.sources, training.validation)):
        while batches.halvings < halvings and batches.shrink():
            pass


def evaluate(training: Training) -> float | None:
    """Compute the mean loss of the supervised validation tokens; None without validation rows."""
    import torch

    validation, machine, model = training.validation, training.machine, training.model
    if validation is None:
        return None

    def share() -> Any:
        loss = torch.zeros((), device=machine.device)
        for batch in validation.of(np.arange(len(validation.tensors))):
            loss += causal_loss(model, *batch)
        return loss

    before = validation.halvings
    model.eval()
    with torch.no_grad(), machine.autocast():
        total = within_memory(training, validation, share)
    model.train()
    if validation.halvings > before:
        training.reporter.line(
            f"out of memory in validation: forward passes of {validation.most()} at most from here on"
        )
    machine.sum_gradients([], total)
    return round(float(total) / float(validation.supervised.sum()), 6)


def measure(training: Training) -> None:
    """Record the validation loss after this step, and the parameters if it is the lowest and the best are kept."""
    progress = training.progress
    if (loss := evaluate(training)) is None:
        return
    progress.validation.append((progress.step, loss))
    if training.config.keep == "best" and progress.best_step == progress.step:
        progress.best = {name: value.detach().cpu().clone() for name, value in training.parameters.items()}
    training.reporter.line(f"step {progress.step}: validation loss {loss:.4f}")


def finish(training: Training) -> dict[str, Any]:
    """Choose the adapter, validate it, write all files; return the content of training.json."""
    import torch

    config, machine, progress, reporter = training.config, training.machine, training.progress, training.reporter
    with torch.no_grad():
        for name, value in progress.best.items():
            training.parameters[name].copy_(value)
    if machine.rank == 0:  # before anything that may fail
        save_adapter(training.model, config)
        curve = ({"step": step, "loss": round(loss, 6)} for step, loss in enumerate(progress.losses, start=1))
        write_text(config.out / "loss.jsonl", "".join(json.dumps(line) + "\n" for line in curve))
    facts = state.facts(training, evaluate(training))
    result = {
        "identity": training.key,
        "config": config.model_dump(mode="json"),
        "facts": facts,
        "machine": machine.plain() | {"seed": config.seed},
        "timings": state.timings(training),
    }
    if machine.rank == 0:
        write_json(config.out / RESULT, result)  # last: it marks the rest as complete
        (config.out / checkpoint.FILE).unlink(missing_ok=True)
        validation = f", validation {facts['validation_loss']:.4f}" if facts["validation_loss"] is not None else ""
        reporter.line(
            f"trained in {sum(training.clock.seconds.values()):.0f} s: loss {facts['first_loss']:.3f} -> "
            f"{facts['final_loss']:.3f}{validation}"
        )
    return result


def schedule(kind: str, step: int, steps: int, warmup: int) -> float:
    """Return the learning-rate factor of a step: linear warm-up, then cosine or linear to 0, or constant.

    Args:
        kind: `cosine`, `linear` or `constant`.
        step: Number of the step, from 0.
        steps: Number of all steps.
        warmup: Steps of warm-up, at most a fifth of all.
    """
    warmup = min(warmup, max(1, steps // 5))
    if step < warmup:
        return (step + 1) / warmup
    part = (step - warmup) / max(1, steps - warmup)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * part)), "linear": 1 - part, "constant": 1.0}[kind]


if __name__ == "__main__":
    raise SystemExit(main())
