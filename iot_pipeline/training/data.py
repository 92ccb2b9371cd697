"""Data order: the rows that each optimiser step reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Plan:
    """Row plan: the rows of each step, equal for any number of processes at equal effective batch."""

    rows: int
    per_step: int
    steps: int
    seed: int

    def rows_of(self, step: int) -> np.ndarray:
        """Return the row numbers of a step, repeats included; epochs follow each other without a break."""
        first = step * self.per_step
        wanted = range(first, first + self.per_step)
        return np.array([_order(self.rows, self.seed, place // self.rows)[place % self.rows] for place in wanted])

    def tokens(self, lengths: np.ndarray, steps: int) -> int:
        """Count the tokens that the first `steps` steps read of rows of these `lengths`, repeats included."""
        passes, rest = divmod(steps * self.per_step, self.rows)
        return passes * int(lengths.sum()) + int(lengths[_order(self.rows, self.seed, passes)[:rest]].sum())


@lru_cache(maxsize=2)  # a step may span the end of one epoch and the beginning of the next
def _order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """Return the row order of one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def make_plan(rows: int, per_step: int, epochs: float, max_steps: int | None, seed: int) -> Plan:
    """Build a plan of `epochs` epochs, or `max_steps` steps, in steps of `per_step` rows.

    The last step takes its remaining rows from the next epoch.
    """
    steps = max_steps or max(1, int(np.ceil(rows * epochs / per_step - 1e-9)))
    return Plan(rows, per_step, steps, seed)


def within_tokens(plan: Plan, lengths: np.ndarray, most: int | None) -> Plan:
    """Shorten the plan to read at most `most` tokens (at least one step), so that runs of equal tokens compare."""
    if most is None:
        return plan
    ends = (step for step in range(plan.steps) if plan.tokens(lengths, step + 1) > most)
    return replace(plan, steps=max(1, next(ends, plan.steps)))
