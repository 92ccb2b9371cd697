"""Meaning of every asset check, and what to do where it fails: the text beside its verdict in the UI."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

# Name -> what holds where it passes, what to do where it does not.
CHECKS: Mapping[str, tuple[str, str]] = {
    "every_class_has_rows": (
        "Every class of the data set has rows.",
        "Read more files (IOT_SOURCE), simulate more rows (IOT_ROWS), or name rare_classes in the spec.",
    ),
    "every_row_accounted_for": (
        "Rows read = rows kept + rejected + left out.",
        "Rows were lost between source and table: see the tables rejected_rows and files, and report the data set.",
    ),
    "no_group_on_two_sides": (
        "No flow text is on two sides of the split.",
        "Nothing may be trained on this split: make evaluation_split again; if it fails again, report it.",
    ),
    "every_class_on_every_side": (
        "Every class has flows on every side.",
        "A class named under `absent` has too few distinct flows: read more rows, or merge it (rare_classes).",
    ),
    "train_pool_only": (
        "The training order holds rows of the train pool alone.",
        "Make evaluation_split and training_order again; nothing may be trained on this order.",
    ),
    "texts_are_complete_and_apart": (
        "Every distinct flow has one text, and no two sides share one.",
        "Make evaluation_split and flow_texts again; with IOT_SERIALISATION=compact try `ranked`, which rounds less.",
    ),
    "quarantine_rate": (
        "Few answers of the teacher are refused by the gates.",
        "See quarantined_by_reason, mend prompt or teacher, run `iot-pipeline teacher retry`, then make the track "
        "again (limit: IOT_MAX_QUARANTINED_SHARE).",
    ),
    "yield_by_class": (
        "No class loses more of its rows than the others.",
        "See the table by_class: the prompt may not fit the classes under `below`; edit it, or accept fewer rows.",
    ),
    "near_copies": (
        "Explanations differ in their wording.",
        "The teacher repeats itself: raise the temperature in the prompt file, or ask for other words.",
    ),
    "share_varied": (
        "Most repeated rows hold a varied flow.",
        "Lower IOT_VARIATION_MIN_P, or choose IOT_VARIATION=paper: few variations keep their label.",
    ),
    "base_is_fit": (
        "The base learns, and a flow with its answer fits its context.",
        "See `problem`: raise IOT_MAX_LENGTH, use IOT_SERIALISATION=compact, or take another IOT_BASE_MODEL.",
    ),
    "rows_complete_and_supervised": (
        "Every training row is whole, and its answer is what the loss reads.",
        "See `problems`: raise IOT_MAX_LENGTH if rows are cut, else make the track and the tensors again.",
    ),
    "loss_is_finite": ("The loss stayed a number.", "Lower IOT_LEARNING_RATE or set IOT_BF16=off, then train again."),
    "adapter_moved": ("Training changed the adapter.", "Raise IOT_TRAIN_EPOCHS, IOT_TRAIN_MAX_STEPS or the rate."),
    "tokens_are_equal": (
        "Both trainings of a cell read the same number of tokens.",
        "Make the stage's student and the cell again: the budget of tokens was not kept.",
    ),
}


def check_spec(name: str, asset: str, **options: Any) -> dg.AssetCheckSpec:
    """Declare a check of an asset, described by what holds where it passes."""
    return dg.AssetCheckSpec(name, asset=asset, description=CHECKS[name][0], **options)


def describe_check(name: str, passed: bool, facts: Mapping[str, Any]) -> str:
    """Return the text of a verdict: what holds, or what does not, with the facts, and what to do."""
    meaning, remedy = CHECKS.get(name, ("", ""))
    if passed:
        return meaning
    told = ", ".join(f"{key}: {value}" for key, value in facts.items() if not isinstance(value, (list, dict)))
    facts_told = f" ({told})" if told else ""
    return f"Does not hold: {meaning.removesuffix('.')}{facts_told}. {remedy}".strip()
