"""The training subprocess: `python -m iot_pipeline.training.payload CONFIG.json`, alone or under torchrun.

Belongs here: processes, the step loop, what is written. Does not belong here: Dagster (dagster_pipes only).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import sha256_file, write_json, write_text
from iot_pipeline.sft.tensors import IGNORED, Tensors, load_tensors, marker_ids
from iot_pipeline.sft.tokenizer import load_tokenizer, pad_id
from iot_pipeline.training import checkpoint
from iot_pipeline.training.config import TrainConfig, read_config
from iot_pipeline.training.loss import (
    causal_loss,
    distinct_numbers,
    label_weights,
    make_plan,
    micro_batches,
    padded,
)
from iot_pipeline.training.model import Machine, adapted_model, find_machine, save_adapter


@dataclass
class Reporter:
    """Where live lines go: Dagster when it listens, the terminal when not, `progress.jsonl` always (rank 0)."""

    pipes: Any | None
    out: Path
    first: bool

    def line(self, text: str) -> None:
        """One line for people."""
        if self.first:
            if self.pipes is not None:
                self.pipes.log.info(text)
            else:
                print(text, flush=True)

    def progress(self, **facts: Any) -> None:
        """One line of facts in `progress.jsonl`."""
        if self.first:
            with (self.out / "progress.jsonl").open("a") as file:
                file.write(json.dumps(facts) + "\n")

    def final(self, facts: dict[str, Any]) -> None:
        """The result, to whoever started the run."""
        if self.first and self.pipes is not None:
            self.pipes.report_custom_message(facts)


def main(arguments: list[str] | None = None) -> int:
    """Run the configuration file named on the command line; exit code 0, or 2 after one line of error."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        print("usage: python -m iot_pipeline.training.payload CONFIG.json", file=sys.stderr)
        return 2
    exit_with_parent()
    try:
        config = read_config(Path(given[0]))
        with _pipes() as pipes:
            run(config, pipes)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def run(config: TrainConfig, pipes: Any | None = None) -> dict[str, Any]:
    """Train as `config` says; returns what training.json holds. Picks up its own checkpoint after a kill."""
    import torch

    started = time.perf_counter()
    machine = find_machine(config)
    config.out.mkdir(parents=True, exist_ok=True)
    reporter = Reporter(pipes, config.out, machine.rank == 0)
    tensors = load_tensors(config.tensors)
    tokenizer = load_tokenizer(config.base)
    if int(tensors.input_ids.max()) >= len(tokenizer):
        raise UserError(f"{config.tensors}: made with another tokenizer than that of {config.base}; make it again")
    plan = make_plan(
        len(tensors),
        config.batch_rows * config.accumulation * machine.world,
        config.epochs,
        config.max_steps,
        config.seed,
    )
    model = adapted_model(config, machine)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    trainable = sum(p.numel() for p in parameters.values())
    total = sum(p.numel() for p in model.parameters())
    optimiser = torch.optim.AdamW(
        parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    key = _key(config, plan.per_step)
    resumed = checkpoint.load(config.out, parameters, optimiser, key)
    begun, losses = resumed or (0, [])
    if begun:
        reporter.line(f"resumed at step {begun} of {plan.steps}")
    reporter.line(
        f"training {trainable:,} of {total:,} parameters on {len(tensors):,} rows, {plan.steps} steps of "
        f"{plan.per_step} rows, {machine.world} process(es), {machine.describe()}"
    )
    batches = _Batches(config, tensors, tokenizer, machine)
    setup = time.perf_counter() - started
    loop_started = last = time.perf_counter()
    counted = 0
    model.train()
    for step in range(begun, plan.steps):
        rate = config.learning_rate * schedule(config.scheduler, step, plan.steps, config.warmup_steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        torch.manual_seed(((config.seed * 1_000_003 + step) * 1_009 + machine.rank) % (1 << 63))
        loss = _step(model, parameters, optimiser, batches, plan.rows_of(step), config, machine)
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {step + 1}: lower IOT_LEARNING_RATE (now {config.learning_rate})"
            )
        losses.append(loss)
        counted += batches.tokens_of(plan.rows_of(step))
        done = step + 1
        now = time.perf_counter()
        if now - last >= config.log_seconds or done == plan.steps:
            last = now
            speed = counted / (now - loop_started)
            left = (plan.steps - done) * (now - loop_started) / (done - begun)
            recent = float(np.mean(losses[-20:]))
            reporter.line(
                f"step {done}/{plan.steps}: loss {recent:.4f}, {speed:,.0f} tokens/s, learning rate {rate:.2e}, "
                f"{left:.0f} s left"
            )
            reporter.progress(
                step=done,
                steps=plan.steps,
                loss=round(recent, 5),
                tokens_per_second=round(speed, 1),
                learning_rate=rate,
                seconds_left=round(left, 1),
            )
        if machine.rank == 0 and done % config.save_every == 0 and done < plan.steps:
            checkpoint.save(config.out, done, parameters, optimiser, losses, key)
    seconds = time.perf_counter() - loop_started
    facts: dict[str, Any] = {
        "processes": machine.world,
        "trainable_parameters": trainable,
        "total_parameters": total,
        "rows": len(tensors),
        "distinct_rows": len(np.unique(batches.same_as)),
        "steps": plan.steps,
        "rows_per_step": plan.per_step,
        "rows_read": plan.steps * plan.per_step,
        "tokens_read": int(sum(batches.tokens_of(plan.rows_of(number)) for number in range(plan.steps))),
        "first_loss": round(losses[0], 6),
        "final_loss": round(float(np.mean(losses[-max(1, plan.steps // 20) :])), 6),
        "validation_loss": _validation_loss(config, model, tokenizer, machine),
    }
    result = {
        "config": json.loads(config.model_dump_json()),
        "facts": facts,
        "machine": machine.plain(),
        "timings": {
            "setup_seconds": round(setup, 3),
            "train_seconds": round(seconds, 3),
            "tokens_per_second": round(counted / max(seconds, 1e-9), 1),
            "padding_share": round(batches.padding_share(), 4),
            "merged_row_share": round(batches.merged_share(), 4),
            "resumed_from_step": begun,
        },
    }
    if machine.rank == 0:
        save_adapter(model, config)
        curve = [{"step": place + 1, "loss": round(value, 6)} for place, value in enumerate(losses)]
        write_text(config.out / "loss.jsonl", "".join(json.dumps(line) + "\n" for line in curve))
        write_json(config.out / "training.json", result)
        (config.out / checkpoint.FILE).unlink(missing_ok=True)
        reporter.final(result)
        reporter.line(
            f"trained in {seconds:.0f} s: loss {facts['first_loss']:.3f} -> {facts['final_loss']:.3f}"
            + (f", validation {facts['validation_loss']:.4f}" if facts["validation_loss"] is not None else "")
        )
    machine.close()
    return result


class _Batches:
    """The arrays of micro-batches, and counts of what padding and merging did."""

    def __init__(self, config: TrainConfig, tensors: Tensors, tokenizer: Any, machine: Machine) -> None:
        self.tensors = tensors
        self.machine = machine
        self.micro = config.micro_rows or config.batch_rows
        self.lengths = tensors.lengths
        self.same_as = distinct_numbers(tensors)
        self.pad = pad_id(tokenizer)
        self.supervised = np.array([int((tensors.row(place)[1] != IGNORED).sum()) for place in range(len(tensors))])
        self.label_weight = config.label_weight
        self.marker = marker_ids(tokenizer)
        self.breaks = np.zeros(len(tokenizer), dtype=bool)
        if config.label_weight != 1.0:
            texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
            self.breaks = np.array(["\n" in text or text.startswith("<|") for text in texts])
        self.real = self.filled = self.asked = self.computed = 0

    def tokens_of(self, rows: np.ndarray) -> int:
        """Tokens of a step's rows, repeats counted."""
        return int(self.lengths[rows].sum())

    def weight_total(self, rows: np.ndarray) -> float:
        """Sum of the token weights of a step over all processes: what its loss is divided by."""
        if self.label_weight == 1.0:
            return float(self.supervised[rows].sum())
        weights = label_weights(self.tensors, rows, self.marker, self.breaks, self.label_weight)
        return float((weights - 1.0).sum() + self.supervised[rows].sum())

    def of(self, rows: np.ndarray) -> Iterator[tuple[Any, Any, Any]]:
        """(ids, labels, weights) on the device, for each forward pass of this process."""
        import torch

        world, device = self.machine.world, self.machine.device
        for chosen, counts in micro_batches(rows, self.same_as, self.lengths, self.micro, self.machine.rank, world):
            pairs = [self.tensors.row(int(place)) for place in chosen]
            ids = padded([pair[0] for pair in pairs], self.pad)
            labels = padded([pair[1] for pair in pairs], IGNORED)
            weights = counts[:, None].astype(np.float32)
            if self.label_weight != 1.0:
                weights = weights * label_weights(self.tensors, chosen, self.marker, self.breaks, self.label_weight)
            self.real += int(self.lengths[chosen].sum())
            self.filled += ids.size
            self.asked += int(counts.sum())
            self.computed += len(chosen)
            yield tuple(torch.from_numpy(array).to(device) for array in (ids, labels, weights))  # type: ignore[misc]

    def padding_share(self) -> float:
        """Share of computed positions that are padding."""
        return 1 - self.real / self.filled if self.filled else 0.0

    def merged_share(self) -> float:
        """Share of rows that were computed together with an identical one."""
        return 1 - self.computed / self.asked if self.asked else 0.0


def _step(
    model: Any,
    parameters: dict[str, Any],
    optimiser: Any,
    batches: _Batches,
    rows: np.ndarray,
    config: TrainConfig,
    machine: Machine,
) -> float:
    """One optimiser step; returns the mean loss of its supervised tokens over all processes."""
    import torch

    divisor = batches.weight_total(rows)
    total = torch.zeros((), device=machine.device)
    for ids, labels, weights in batches.of(rows):
        with machine.autocast():
            loss = causal_loss(model, ids, labels, weights) / divisor
        loss.backward()
        total += loss.detach()
    machine.sum_gradients(list(parameters.values()), total)
    torch.nn.utils.clip_grad_norm_(parameters.values(), config.max_grad_norm)
    optimiser.step()
    optimiser.zero_grad()
    return float(total)


def _validation_loss(config: TrainConfig, model: Any, tokenizer: Any, machine: Machine) -> float | None:
    """Mean loss of the validation rows' supervised tokens, shared out over the processes."""
    import torch

    if config.validation is None:
        return None
    tensors = load_tensors(config.validation)
    plain = config.model_copy(
        update={"label_weight": 1.0, "micro_rows": max(16, config.micro_rows or config.batch_rows)}
    )
    batches = _Batches(plain, tensors, tokenizer, machine)
    total = torch.zeros((), device=machine.device)
    model.eval()
    with torch.no_grad(), machine.autocast():
        for ids, labels, weights in batches.of(np.arange(len(tensors))):
            total += causal_loss(model, ids, labels, weights)
    machine.sum_gradients([], total)
    return round(float(total) / float(batches.supervised.sum()), 6)


def schedule(kind: str, step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate at `step` (0-based): linear warm-up, then cosine or linear to 0, or constant."""
    warmup = min(warmup, max(1, steps // 5))
    if step < warmup:
        return (step + 1) / warmup
    part = (step - warmup) / max(1, steps - warmup)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * part)), "linear": 1 - part, "constant": 1.0}[kind]


def exit_with_parent(every: float = 2.0) -> None:
    """End this process when the one named in IOT_PARENT_PID, or its own parent, is gone."""
    named, own = os.environ.get("IOT_PARENT_PID"), os.getppid()
    if not named:
        return

    def watch() -> None:
        while os.getppid() == own and _alive(int(named)):
            time.sleep(every)
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _key(config: TrainConfig, per_step: int) -> str:
    """What a checkpoint must agree with to be resumed: the data, the base and every value that steers a step."""
    free = {
        "tensors",
        "validation",
        "out",
        "threads",
        "save_every",
        "log_seconds",
        "batch_rows",
        "accumulation",
        "micro_rows",
    }
    values = json.loads(config.model_dump_json(exclude=free))
    values |= {"per_step": per_step, "data": sha256_file(config.tensors)}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _pipes() -> Iterator[Any | None]:
    """Dagster's end of the line, on rank 0 of a run that Dagster started; else None."""
    if "DAGSTER_PIPES_CONTEXT" not in os.environ or os.environ.get("RANK", "0") != "0":
        yield None
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        yield pipes


if __name__ == "__main__":
    raise SystemExit(main())
