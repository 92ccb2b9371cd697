"""Which rows each optimiser step reads.

Belongs here: the order of rows over steps and epochs. Does not belong here: their arrays (batches.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Plan:
    """The rows of each step; the same for any number of processes at equal effective batch."""

    rows: int
    per_step: int
    steps: int
    seed: int

    def rows_of(self, step: int) -> np.ndarray:
        """Row numbers of a step, repeats included; epochs follow each other without a break."""
        first = step * self.per_step
        wanted = range(first, first + self.per_step)
        epochs = sorted({place // self.rows for place in wanted})
        orders = {epoch: np.random.default_rng([self.seed, epoch]).permutation(self.rows) for epoch in epochs}
        return np.array([orders[place // self.rows][place % self.rows] for place in wanted])


def make_plan(rows: int, per_step: int, epochs: float, max_steps: int | None, seed: int) -> Plan:
    """A plan of `epochs` passes in steps of `per_step` rows; the last step takes its rest from the next pass."""
    steps = max_steps or max(1, int(np.ceil(rows * epochs / per_step - 1e-9)))
    return Plan(rows, per_step, steps, seed)


def within_tokens(plan: Plan, lengths: np.ndarray, most: int | None) -> Plan:
    """The plan, ended before it reads more than `most` tokens (at least one step): runs of equal tokens compare."""
    if most is None:
        return plan
    read = 0
    for step in range(plan.steps):
        read += int(lengths[plan.rows_of(step)].sum())
        if read > most:
            return replace(plan, steps=max(1, step))
    return plan
