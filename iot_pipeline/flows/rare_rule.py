"""Key `rare_classes` of a data set file: what to do with classes of too few distinct flows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# With one flow on each side a class can be trained on, chosen by, calibrated and measured at all, and the split has
# always given as much to a class of four distinct flows: RT-IoT2022's smallest has 5, so no data set changes by it.
MINIMUM = 1
A_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


class RareClasses(BaseModel):
    """Treatment of classes that cannot have `minimum` distinct flows on each side of the split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minimum: int = Field(default=MINIMUM, ge=1, le=1000)
    then: Literal["group", "leave_out"]
    into: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def fitting(self) -> RareClasses:
        """Check that `into` is given with `group`, and only then."""
        if (self.into is None) == (self.then == "group"):
            raise ValueError("then: group needs `into: NAME`, the class that they become; then: leave_out has no into")
        return self


def check_classes(classes: Sequence[str], absent: Sequence[str], rule: RareClasses | None) -> list[str]:
    """Return all class names of a spec; ValueError if one is a bare number or both declared and absent."""
    grouped = [rule.into] if rule is not None and rule.into is not None else []
    if bare := [name for name in [*classes, *grouped] if A_NUMBER.fullmatch(name)]:
        raise ValueError(f"class {bare[0]!r} is a number, which texts cannot tell from a value: name it in `labels`")
    if both := [name for name in classes if name in absent]:
        raise ValueError(f"class {both[0]!r} is an absent class too, whose rows are left out: remove it from one list")
    if set(grouped) & set(absent):
        raise ValueError(f"rare_classes: {grouped[0]} is an absent class, whose rows are left out: name another")
    return [*classes, *absent, *grouped]
