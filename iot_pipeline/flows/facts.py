"""Published facts of a data set: the keys that the project compares with the data, and the types of their values."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import Field, Strict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

# Bounds keep every comparison finite.
Count = Annotated[int, Strict(), Field(ge=0, le=10**12)]
Number = Annotated[float, Strict(), Field(ge=-1e15, le=1e15)]
Deviation = Annotated[float, Strict(), Field(ge=1e-12, le=1e15)]
ClassTable = dict[str, Count]


class Duplicates(TypedDict, total=False):
    """Duplicate rows and distinct flows on exact values; shares from 0 to 1."""

    rows: Count
    distinct: Count
    share: Number
    by_class: dict[str, Number]


class RecoveredScale(TypedDict):
    """Scale of a feature, and published values {raw: z} that it must reproduce."""

    mean: Number
    std: Deviation
    checks: NotRequired[dict[Number, Number]]


class RawScale(TypedDict, total=False):
    """Scale of a feature by another source."""

    mean: Number
    std: Number


# Share of a class's rows whose feature is above a value.
ShareAbove = TypedDict("ShareAbove", {"class": str, "feature": str, "above": Number, "share": Number})


class Bounds(TypedDict):
    """Condition low < feature <= high of a published rule."""

    feature: str
    low: NotRequired[Number | None]
    high: NotRequired[Number | None]


class PriorRule(TypedDict):
    """Published rule for classes: conditions, or a stump, a single feature whose threshold was not published."""

    source: str
    classes: Annotated[list[str], Field(min_length=1)]
    conditions: NotRequired[Annotated[list[Bounds], Field(min_length=1)]]
    stump: NotRequired[str]


class PriorWork(TypedDict, total=False):
    """Sizes of the split in prior work, and the accuracy of its baseline."""

    train_rows: Count
    validation_rows: Count
    baseline_accuracy: Number


class ZScored(TypedDict, total=False):
    """Counts after z-scoring with the whole table and rounding to 3 decimals."""

    distinct: Count
    conflicting: Count
    duplicate_share: Number
    row_ceiling: Number


class Facts(TypedDict, total=False):
    """Published facts, beside `rows`, `class_rows` and variants of them; further keys are for the reader."""

    duplicates: Duplicates
    # {class: {feature: [25 %, 50 %, 75 %]}}, None where unknown
    quartiles: dict[str, dict[str, Annotated[list[Number | None], Field(min_length=3, max_length=3)]]]
    recovered_scales: dict[str, RecoveredScale]
    raw_scales: dict[str, RawScale]
    raw_medians: dict[str, dict[str, Number]]
    shares_above: list[ShareAbove]
    prior_rules: list[PriorRule]
    prior_work: PriorWork
    zscored_3_decimals: ZScored


def check_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts unchanged if they have these types; ValueError naming the key at fault if not."""
    try:
        TypeAdapter(Facts).validate_python(facts)
        TypeAdapter(dict[str, Count]).validate_python(row_totals(facts))
        TypeAdapter(dict[str, ClassTable]).validate_python(class_tables(facts))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for rule in facts.get("prior_rules", []):
        bounds = rule.get("conditions", [{"low": 0}] if "stump" in rule else [{}])
        if any(bound.get("low") is None and bound.get("high") is None for bound in bounds):
            raise ValueError("prior_rules: a rule needs a stump, or conditions that have low or high")
    return facts


def row_totals(facts: dict[str, Any]) -> dict[str, int]:
    """Return every published row total by key (`rows`, `rows_published`, ...)."""
    return {key: value for key, value in facts.items() if key == "rows" or key.startswith("rows_")}


def class_tables(facts: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return every published table of rows by class, by key (`class_rows`, `class_rows_published`, ...)."""
    return {key: value for key, value in facts.items() if key == "class_rows" or key.startswith("class_rows_")}
