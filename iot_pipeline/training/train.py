"""Training subprocess: `python -m iot_pipeline.training.train CONFIG.json`, alone or under torchrun."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import write_json, write_text
from iot_pipeline.lake.processes import is_alive
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.sft.tensors import load_tensors
from iot_pipeline.training import checkpoint, early_stopping
from iot_pipeline.training.batches import Batches
from iot_pipeline.training.config import RESULT, TrainConfig, finished, read_config
from iot_pipeline.training.data import make_plan, within_tokens
from iot_pipeline.training.distributed import held_parameters
from iot_pipeline.training.lora import count_parameters
from iot_pipeline.training.loss import causal_loss
from iot_pipeline.training.metrics import Clock, flops_per_token, mfu, peak_memory_gib
from iot_pipeline.training.model import Machine, adapted_model, find_machine, save_adapter
from iot_pipeline.training.reporter import Reporter, complain, dagster_pipes, describe_progress


def main(arguments: list[str] | None = None) -> int:
    """Train by the configuration file named on the command line; exit code 0, or 2 after a one-line error."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        print("usage: python -m iot_pipeline.training.train CONFIG.json", file=sys.stderr)
        return 2
    exit_with_parent()
    try:
        config = read_config(Path(given[0]))
        with dagster_pipes() as pipes:
            run(config, pipes)
    except UserError as error:
        complain(error)
        return 2
    return 0


def run(config: TrainConfig, pipes: Any | None = None) -> dict[str, Any]:
    """Train as `config` says; return the content of training.json.

    Resumes from its own checkpoint after a kill; a finished training is not repeated.
    """
    if (result := finished(config)) is not None:
        return result
    started = time.perf_counter()
    machine = find_machine(config.threads, config.bf16)
    config.out.mkdir(parents=True, exist_ok=True)
    reporter = Reporter(pipes, config.out, machine.rank == 0)
    training = _Training(config, machine, reporter)
    training.resume()
    training.setup_seconds = time.perf_counter() - started
    training.loop()
    result = training.finish()
    machine.close()
    return result


class _Training:
    """One training in one process: its parts and its progress."""

    def __init__(self, config: TrainConfig, machine: Machine, reporter: Reporter) -> None:
        import torch

        self.config, self.machine, self.reporter = config, machine, reporter
        tensors = load_tensors(config.tensors)
        tokenizer = load_tokenizer(config.base)
        if int(tensors.input_ids.max()) >= len(tokenizer):
            raise UserError(f"{config.tensors}: made with another tokenizer than that of {config.base}; make it again")
        plan = make_plan(len(tensors), config.step_rows, config.epochs, config.max_steps, config.seed)
        self.plan = within_tokens(plan, tensors.lengths, config.max_tokens)
        self.model = adapted_model(config, machine)
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.batches = self._batches(tensors, tokenizer, config.micro_rows or config.step_rows, config.label_weight)
        self.validation = None
        if config.validation is not None:
            rows = config.micro_rows or config.step_rows
            self.validation = self._batches(load_tensors(config.validation), tokenizer, rows, 1.0)
        self.key = config.identity()
        self.selection = early_stopping.Selection(
            config.out, self.parameters, config.patience, self.key, writes=machine.rank == 0
        )
        self.begun = self.step = 0
        self.losses: list[float] = []
        self.clock = Clock(machine.device)
        self.setup_seconds = 0.0
        self.saved = time.perf_counter()
        self.counted = 0
        self.work = flops_per_token(
            self.model, float(tensors.lengths.mean()), float(self.batches.supervised.sum() / tensors.lengths.sum())
        )

    def _batches(self, tensors: Any, tokenizer: Any, rows: int, label_weight: float) -> Batches:
        machine = self.machine
        packs = self.config.packing == "on" or (self.config.packing == "auto" and machine.flash)
        return Batches(
            tensors,
            tokenizer,
            rows,
            label_weight,
            self.config.pack_tokens if packs else None,
            machine.rank,
            machine.world,
            machine.device,
            even=self.config.shard,
        )

    def resume(self) -> None:
        """Resume from the checkpoint of this exact configuration, if there is one."""
        if self.machine.rank == 0:
            for half in self.config.out.glob(".*.tmp"):  # left by a kill during a write
                half.unlink()
        found = checkpoint.load(self.config.out, self.parameters, self.optimiser, self.key)
        if found:
            self.begun, self.losses, self.selection.history, shrunk = found
            self.reporter.line(f"resumed at step {self.begun} of {self.plan.steps}")
            if shrunk:
                self._shrink_to(shrunk)
                self.reporter.line(f"forward passes of {self.batches.most()} at most, as before: memory ran out then")
        self.step = self.begun

    def loop(self) -> None:
        """Run the remaining steps, with live lines, validation and checkpoints."""
        import torch

        config, plan = self.config, self.plan
        self.reporter.line(
            f"training {count_parameters(self.parameters.values()):,} of "
            f"{count_parameters(self.model.parameters()):,} parameters on {len(self.batches.tensors):,} rows, "
            f"{plan.steps} steps of {plan.per_step} rows, {self.machine.world} process(es), {self.machine.describe()}"
        )
        last = time.perf_counter()
        self.model.train()
        while not self._ended():
            rate = config.learning_rate * schedule(config.scheduler, self.step, plan.steps, config.warmup_steps)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            torch.manual_seed(((config.seed * 1_000_003 + self.step) * 1_009 + self.machine.rank) % (1 << 63))
            with self.clock.part("train"):
                rows = plan.rows_of(self.step)
                self.losses.append(self._step(rows))
            self.counted += self.batches.tokens_of(rows)
            self.step += 1
            if config.evaluate_every and self.step % config.evaluate_every == 0:
                with self.clock.part("validation"):
                    self._measure()
            now = time.perf_counter()
            if now - last >= config.log_seconds or self.step == plan.steps:
                last = now
                self._tell(rate)
            if self.machine.rank == 0 and self._save_is_due():
                self._save()

    def _save_is_due(self) -> bool:
        """True by steps, by minutes, and after the last step: a later failure must not cost the training."""
        minutes = (time.perf_counter() - self.saved) / 60
        return self.step % self.config.save_every == 0 or minutes >= self.config.save_minutes or self._ended()

    def _ended(self) -> bool:
        return self.step >= self.plan.steps or self.selection.stops()

    def _save(self) -> None:
        with self.clock.part("checkpoint"):
            checkpoint.save(
                self.config.out,
                self.step,
                self.parameters,
                self.optimiser,
                self.losses,
                self.selection.history,
                self.key,
                self.batches.halvings,
            )
        self.saved = time.perf_counter()

    def _step(self, rows: np.ndarray) -> float:
        """Run one optimiser step; return the mean loss of its supervised tokens over all processes."""
        import torch

        divisor, before = self.batches.weight_total(rows), self.batches.halvings
        while True:
            try:
                total = self._gradients(rows, divisor)
                break
            except torch.OutOfMemoryError as error:
                self.optimiser.zero_grad()
                self._shrink(error, self.batches, f"at step {self.step + 1}")
        with self.clock.computing():
            sums = torch.stack([total, torch.full_like(total, self.batches.halvings - before)])
            self.machine.sum_gradients(list(self.parameters.values()), sums)
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm)
            self.optimiser.step()
            self.optimiser.zero_grad()
        loss, halved = sums.tolist()
        self.clock.collect()
        if halved:  # in some process: all adopt its limit, and rank 0 reports it
            self._shrink_to(self.machine.most(self.batches.halvings))
            self.reporter.line(
                f"out of memory at step {self.step + 1}: forward passes of {self.batches.most()} at most from here "
                "on, the same rows a step"
            )
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {self.step + 1}: lower IOT_LEARNING_RATE (now {self.config.learning_rate})"
            )
        return loss

    def _gradients(self, rows: np.ndarray, divisor: float) -> Any:
        """Run forward and backward on this process's share; return its part of the loss."""
        import torch

        total = torch.zeros((), device=self.machine.device)
        for batch in self.batches.of(rows):
            with self.clock.computing():
                with self.machine.autocast():
                    loss = causal_loss(self.model, batch.ids, batch.labels, batch.weights, batch.positions) / divisor
                loss.backward()
                total += loss.detach()
        return total

    def _shrink(self, error: Exception, batches: Batches, where: str) -> None:
        """Halve the forward passes of `batches` after an out-of-memory error; UserError if they cannot shrink."""
        import torch

        if self.config.shard:  # the others wait for this process's part of the next layer
            raise UserError(f"out of memory {where} with sharded layers: lower IOT_TRAIN_MICRO_ROWS") from error
        if not batches.shrink():
            raise UserError(
                f"out of memory {where} even with one row a forward pass: set IOT_GRADIENT_CHECKPOINTING=true or "
                "IOT_QUANTISATION=nf4, or take a smaller base"
            ) from error
        torch.cuda.empty_cache()

    def _shrink_to(self, halvings: int) -> None:
        """Halve the forward passes to `halvings` in total, in training and in validation."""
        for batches in filter(None, (self.batches, self.validation)):
            while batches.halvings < halvings and batches.shrink():
                pass

    def _validation_loss(self) -> float | None:
        """Return the loss on the common validation rows, None without any; halves forward passes if memory runs out."""
        import torch

        if self.validation is None:
            return None
        while True:
            try:
                part = early_stopping.loss_of_share(self.model, self.validation, self.machine)
                break
            except torch.OutOfMemoryError as error:
                self.model.train()
                self._shrink(error, self.validation, f"in validation after step {self.step}")
                self.reporter.line(
                    f"out of memory in validation: forward passes of {self.validation.most()} at most from here on"
                )
        return early_stopping.mean_loss(part, self.validation, self.machine)

    def _measure(self) -> None:
        if (loss := self._validation_loss()) is not None:
            self.selection.record(self.step, loss)
            self.reporter.line(f"step {self.step}: validation loss {loss:.4f}")

    def _tell(self, rate: float) -> None:
        seconds = sum(self.clock.seconds.values()) or 1e-9
        facts = {
            "step": self.step,
            "steps": self.plan.steps,
            "loss": round(float(np.mean(self.losses[-20:])), 5),
            **self._speed(),
            "learning_rate": rate,
            "seconds_left": round((self.plan.steps - self.step) * seconds / (self.step - self.begun), 1),
        }
        self.reporter.line(describe_progress(facts))
        self.reporter.progress(**facts)

    def _speed(self) -> dict[str, Any]:
        """Return tokens a second and MFU of training alone (no validation, no checkpoints), and peak memory.

        Tokens a second count every row read; MFU counts what was computed: equal rows once.
        """
        seconds = max(self.clock.seconds["train"], 1e-9)
        return {
            "tokens_per_second": round(self.counted / seconds, 1),
            "mfu": mfu(self.batches.real / seconds * self.work, self.machine.device_name),
            "memory_gib": peak_memory_gib(self.machine.device),
        }

    def finish(self) -> dict[str, Any]:
        """Choose the adapter, validate it, write all files; return the content of training.json."""
        self.machine.wait_for_all()  # rank 0 writes the best adapter, all read it
        kept = self.selection.restore() if self.config.keep == "best" and self.selection.history else self.step
        if self.machine.rank == 0:  # before anything that may fail
            save_adapter(self.model, self.config)
            curve = [{"step": place + 1, "loss": round(value, 6)} for place, value in enumerate(self.losses)]
            write_text(self.config.out / "loss.jsonl", "".join(json.dumps(line) + "\n" for line in curve))
        result = {
            "identity": self.key,
            "config": json.loads(self.config.model_dump_json()),
            "facts": self._facts(kept),
            "machine": self.machine.plain() | {"seed": self.config.seed},
            "timings": self._timings(),
        }
        if self.machine.rank == 0:
            write_json(self.config.out / RESULT, result)  # last: it marks the rest as complete
            for name in (checkpoint.FILE, early_stopping.FILE):
                (self.config.out / name).unlink(missing_ok=True)
            self.reporter.final(result)
            facts, seconds = result["facts"], sum(self.clock.seconds.values())
            self.reporter.line(
                f"trained in {seconds:.0f} s: loss {facts['first_loss']:.3f} -> {facts['final_loss']:.3f}"
                + (f", validation {facts['validation_loss']:.4f}" if facts["validation_loss"] is not None else "")
            )
        return result

    def _facts(self, kept: int) -> dict[str, Any]:
        """Return the facts of the training, equal on any machine except for rounding."""
        final = self.losses[-max(1, self.plan.steps // 20) :]
        return {
            "processes": self.machine.world,
            "trainable_parameters": count_parameters(self.parameters.values()),
            "total_parameters": count_parameters(self.model.parameters()),
            "held_parameters": held_parameters(self.model),
            "rows": len(self.batches.tensors),
            "distinct_rows": len(np.unique(self.batches.same_as)),
            "steps": self.step,
            "kept_step": kept,
            "rows_per_step": self.plan.per_step,
            "rows_read": self.step * self.plan.per_step,
            "tokens_read": self.plan.tokens(self.batches.lengths, self.step),
            "first_loss": round(self.losses[0], 6),
            "final_loss": round(float(np.mean(final)), 6),
            "validation_loss": self._validation_loss(),
            "validation_history": self.selection.history,
        }

    def _timings(self) -> dict[str, Any]:
        seconds = max(self.clock.seconds["train"], 1e-9)
        return {
            "setup_seconds": round(self.setup_seconds, 3),
            **{f"{name}_seconds": round(value, 3) for name, value in self.clock.seconds.items()},
            **self._speed(),
            "flops_per_token": self.work,
            "forward_pass": self.batches.most(),
            "packed": self.batches.pack_tokens is not None,
            "padding_share": round(self.batches.padding_share(), 4),
            "merged_row_share": round(self.batches.merged_share(), 4),
            "preparing_share": round(self.batches.seconds / seconds, 4),
            "outside_compute_share": round(1 - self.clock.computed / seconds, 4),
            "resumed_from_step": self.begun,
        }


def schedule(kind: str, step: int, steps: int, warmup: int) -> float:
    """Return the learning-rate factor at `step` (0-based): linear warm-up, then cosine or linear to 0, or constant."""
    warmup = min(warmup, max(1, steps // 5))
    if step < warmup:
        return (step + 1) / warmup
    part = (step - warmup) / max(1, steps - warmup)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * part)), "linear": 1 - part, "constant": 1.0}[kind]


def exit_with_parent(every: float = 2.0) -> None:
    """Exit when the process named in IOT_PARENT_PID, or this process's own parent, has ended."""
    named, own = os.environ.get("IOT_PARENT_PID"), os.getppid()
    if not named:
        return

    def watch() -> None:
        while os.getppid() == own and is_alive(int(named)):
            time.sleep(every)
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    raise SystemExit(main())
