"""Expected evidence of a class: features that an attack of its kind moves, written before any student is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Evidence(BaseModel):
    """One piece of evidence: a number's side of the train pool's median, or a category's value, and the reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    feature: str
    direction: Literal["above", "below"] | None = None
    value: Text | None = None
    why: Text

    @model_validator(mode="after")
    def one(self) -> Evidence:
        """Check that exactly one of direction and value is set."""
        if (self.direction is None) == (self.value is None):
            raise ValueError("evidence needs either direction (of a number) or value (of a category)")
        return self


Expected = dict[str, list[Evidence]]  # by class


def check_evidence(
    expected: Expected, features: Sequence[str], classes: Sequence[str], categories: Sequence[str] = ()
) -> None:
    """Raise ValueError for an unknown class or feature, a class without evidence, or a feature that stands twice.

    Args:
        expected: Evidence by class.
        features: All features.
        classes: All classes.
        categories: Features that are categories, of which a value is expected and no direction.
    """
    for name, listed in expected.items():
        where = f"expected_evidence: {name}"
        if name not in classes:
            raise ValueError(f"{where}: no such class; there are {', '.join(classes)}")
        if not listed:
            raise ValueError(f"{where}: the list is empty; leave the class out if nothing is expected of it")
        named = [item.feature for item in listed]
        if unknown := [feature for feature in named if feature not in features]:
            raise ValueError(f"{where}: no such feature: {unknown[0]}")
        if repeated := [feature for feature in named if named.count(feature) > 1]:
            raise ValueError(f"{where}: {repeated[0]} stands twice")
        for item in listed:
            if (item.feature in categories) != (item.value is not None):
                kind, needed = ("category", "value") if item.feature in categories else ("number", "direction")
                raise ValueError(f"{where}: {item.feature} is a {kind}: its evidence is a {needed}")


def inherited(base: Expected, given: Mapping[str, Any], features: Sequence[str], classes: Sequence[str]) -> Any:
    """Return the evidence of a file that extends another: its own, and the base's for classes and features it kept.

    Args:
        base: Evidence of the file that is extended.
        given: Content of the extending file.
        features: Features of the base.
        classes: Classes of the base.
    """
    own, parts = given.get("expected_evidence", {}), given.get("features")
    if not isinstance(own, dict):
        return own  # refused by the validation that follows
    kept = [part.get("name") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else features
    names = named if isinstance(named := given.get("classes"), list) else classes
    found = {name: [item.model_dump() for item in items if item.feature in kept] for name, items in base.items()}
    return {name: items for name, items in found.items() if items and name in names} | own
