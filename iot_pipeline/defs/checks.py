"""Every asset check: its meaning, what to do where it fails, and whether it then blocks what follows."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import dagster as dg


class Check(NamedTuple):
    """The state that holds where a check passes, and what to do where it does not.

    blocking: nothing is made of an artefact whose check does not pass; otherwise it warns.
    """

    meaning: str
    remedy: str
    blocking: bool = True


CHECKS: Mapping[str, Check] = {
    "every_class_has_rows": Check(
        "Every class of the data set has rows.",
        "Read more files (IOT_SOURCE), simulate more rows (IOT_ROWS), or name rare_classes in the spec.",
    ),
    "every_row_accounted_for": Check(
        "Rows read = rows kept + rejected + left out.",
        "Rows were lost between source and table: see the tables rejected_rows and files, and report the data set.",
    ),
    "no_group_on_two_sides": Check(
        "No flow text is on two sides of the split.",
        "Nothing may be trained on this split: make evaluation_split again; if it fails again, report it.",
    ),
    "every_class_on_every_side": Check(
        "Every class has flows on every side.",
        "A class named under `absent` has too few distinct flows: read more rows, or merge it (rare_classes).",
        blocking=False,
    ),
    "train_pool_only": Check(
        "The training order holds rows of the train pool alone.",
        "Make evaluation_split and training_order again; nothing may be trained on this order.",
    ),
    "texts_are_complete_and_apart": Check(
        "Every distinct flow has one text, and no two sides share one.",
        "Make evaluation_split and flow_texts again; with IOT_SERIALISATION=compact try `ranked`, which rounds less.",
    ),
    "quarantine_rate": Check(
        "Few answers of the teacher are refused by the gates.",
        "See quarantined_by_reason, mend prompt or teacher, run `iot-pipeline teacher retry`, then make the track "
        "again (limit: IOT_MAX_QUARANTINED_SHARE).",
    ),
    "yield_by_class": Check(
        "No class loses more of its rows than the others.",
        "See the table by_class: the prompt may not fit the classes under `below`; edit it, or accept fewer rows.",
        blocking=False,
    ),
    "near_copies": Check(
        "Explanations differ in their wording.",
        "The teacher repeats itself: raise the temperature in the prompt file, or ask for other words.",
        blocking=False,
    ),
    "share_varied": Check(
        "Most repeated rows hold a varied flow.",
        "Lower IOT_VARIATION_MIN_P, or choose IOT_VARIATION=paper: few variations keep their label.",
        blocking=False,
    ),
    "base_is_fit": Check(
        "The base learns, and a flow with its answer fits its context.",
        "See `problem`: raise IOT_MAX_LENGTH, use IOT_SERIALISATION=compact, or take another IOT_BASE_MODEL.",
    ),
    "rows_complete_and_supervised": Check(
        "Every training row is whole, and its answer is what the loss reads.",
        "See `problems`: raise IOT_MAX_LENGTH if rows are cut, else make the track and the tensors again.",
    ),
    "loss_is_finite": Check(
        "The loss stayed a number.", "Lower IOT_LEARNING_RATE or set IOT_BF16=off, then train again."
    ),
    "adapter_moved": Check(
        "Training changed the adapter.", "Raise IOT_TRAIN_EPOCHS, IOT_TRAIN_MAX_STEPS or the rate.", blocking=False
    ),
    "tokens_are_equal": Check(
        "Both trainings of a cell read the same number of tokens.",
        "Make the stage's student and the cell again: the budget of tokens was not kept.",
    ),
}


def check_specs(asset: str, *names: str, partitions: dg.PartitionsDefinition | None = None) -> list[dg.AssetCheckSpec]:
    """Declare the checks that an asset's own step makes.

    Args:
        asset: Name of the asset.
        names: Names in CHECKS.
        partitions: Partitions of the asset, each of which has a verdict of its own.
    """
    return [
        dg.AssetCheckSpec(
            name,
            asset=asset,
            description=CHECKS[name].meaning,
            blocking=CHECKS[name].blocking,
            partitions_def=partitions,
        )
        for name in names
    ]


def describe_check(name: str, passed: bool, facts: Mapping[str, Any]) -> str:
    """Return the text of a verdict: what holds, or what does not, with the facts, and what to do."""
    meaning, remedy, _ = CHECKS.get(name, Check("", ""))
    if passed:
        return meaning
    told = ", ".join(f"{key}: {value}" for key, value in facts.items() if not isinstance(value, (list, dict)))
    facts_told = f" ({told})" if told else ""
    return f"Does not hold: {meaning.removesuffix('.')}{facts_told}. {remedy}".strip()
