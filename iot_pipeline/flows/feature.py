"""Parts of a data set spec that describe one feature: its kind, scale and number format."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from iot_pipeline.flows.expression import parse_expression
from iot_pipeline.flows.sql import identifier

Line = Annotated[str, StringConstraints(strip_whitespace=True)]


class Strict(BaseModel):
    """Base of all parts: a misspelt key in a YAML file is an error and never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Scale(Strict):
    """Mapping from raw units to published values: z = (raw - mean) / std, or (raw - min) / (max - min).

    `basis` is the origin of the scale: `recovered` from published values, `assumed` (a guess, with which the simulator
    publishes), `simulated` (an assumed one, of rows that the simulator published with it), or `fitted` by this project
    on the train pool.
    """

    kind: Literal["zscore", "minmax"]
    mean: float | None = None
    std: float | None = Field(default=None, gt=0)
    min: float | None = None
    max: float | None = None
    basis: Literal["recovered", "assumed", "simulated", "fitted"] = "recovered"

    @model_validator(mode="after")
    def complete(self) -> Scale:
        """Check that a z-score has mean and std, and a min-max scale has min < max."""
        if self.kind == "zscore" and (self.mean is None or self.std is None):
            raise ValueError("a zscore scale needs mean and std")
        if self.kind == "minmax" and (self.min is None or self.max is None or self.min >= self.max):
            raise ValueError("a minmax scale needs min below max")
        return self

    @property
    def offset(self) -> float:
        """Raw value that is published as 0."""
        value = self.mean if self.kind == "zscore" else self.min
        assert value is not None  # checked by `complete`
        return value

    @property
    def width(self) -> float:
        """Raw units per published unit."""
        if self.kind == "zscore":
            assert self.std is not None
            return self.std
        assert self.max is not None and self.min is not None
        return self.max - self.min

    def to_raw(self, value: Any) -> Any:
        """Convert a published value (number or array) to raw units."""
        return value * self.width + self.offset

    def from_raw(self, raw: Any) -> Any:
        """Convert raw units (number or array) to the published value, unrounded."""
        return (raw - self.offset) / self.width


CATEGORY = "category"  # in place of a unit where prompts list features


class Feature(Strict):
    """One feature of a flow, a number or a category; without an `expression` it is the source column of its name.

    `expression` is one DuckDB scalar over double-quoted source columns (expression.py). It sees source columns as
    numbers, a non-numeric cell as NULL; a column where at least half of the non-empty cells are not numbers it sees as
    text: CASE WHEN "proto" = 'tcp' THEN 1 ELSE 0 END. The values of a category are texts (categories.py); `blank` is
    its value where the cell is blank. Without `blank` such a row is rejected.
    """

    name: str
    unit: Line
    meaning: Line
    kind: Literal["number", "category"] = "number"
    expression: str | None = None
    blank: Line | None = Field(default=None, min_length=1)
    scale: Scale | None = None
    values: tuple[str, ...] = Field(default=(), max_length=0, exclude=True)  # of a category in the train pool

    @model_validator(mode="after")
    def fitting(self) -> Feature:
        """Check that a category has no scale and a number no value for blanks."""
        if self.is_category and self.scale is not None:
            raise ValueError(f"feature {self.name} is a category, which has no scale: remove it")
        if self.blank is not None and not self.is_category:
            raise ValueError(f"feature {self.name} is a number: only a category has a value for blanks")
        return self

    @property
    def is_category(self) -> bool:
        """True for a feature whose values are texts."""
        return self.kind == "category"

    @property
    def is_plain_category(self) -> bool:
        """True for a category that is a source column as it stands."""
        return self.is_category and self.expression is None

    @property
    def sql(self) -> str:
        """Checked DuckDB expression that computes the feature from the source columns."""
        return parse_expression(self.expression).sql if self.expression is not None else identifier(self.name)

    @property
    def standardised(self) -> bool:
        """True with a z-score scale: the mean is 0, so a value's sign says on which side of it the value is."""
        return self.scale is not None and self.scale.kind == "zscore"

    @property
    def known_scale(self) -> Scale | None:
        """Scale by which raw values may be told; None if it is a guess, which says nothing of captured rows."""
        return None if self.scale is None or self.scale.basis == "assumed" else self.scale

    @property
    def source_columns(self) -> list[str]:
        """Source columns that the feature needs, in order of first use."""
        return list(parse_expression(self.expression).columns) if self.expression is not None else [self.name]


class Format(Strict):
    """Number format of the flow text: fixed decimals, or significant digits."""

    decimals: int | None = Field(default=None, ge=0, le=9)
    significant: int | None = Field(default=None, ge=1, le=15)

    @model_validator(mode="after")
    def one(self) -> Format:
        """Check that exactly one of the two is set."""
        if (self.decimals is None) == (self.significant is None):
            raise ValueError("format needs either decimals or significant")
        return self
