"""Report chapter on the prior work's training protocol: its effect on rows, loss and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iot_pipeline.reporting import tables
from iot_pipeline.reporting.blocks import Section
from iot_pipeline.reporting.tables import Column

NAMES = {"paper": "prior work's protocol", "leak_free": "this project's protocol"}


def protocol(context: Mapping[str, Any]) -> Section:
    """Build the protocol chapter: short trainings on the same rows, from the old protocol to this one."""
    section = Section("protocol", "What the old training protocol does")
    found = context.get("paper_protocol")
    if not found:
        section.missing("paper_protocol")
        return section
    old, ours, long = found["paper"], found["leak_free"], found["long_answers"]
    kept = found["long_answers_by_ours"]
    section.text(
        f"Answers of the prior work's length make rows of {long['row_tokens_mean']:.0f} tokens (tokenizer:"
        f" {found['tokenizer']}), {long['prompt_tokens_mean']:.0f} of them prompt; cut to {long['limit']},"
        f" {tables.percent(long['rows_cut_share'])} of {long['rows']} such rows lose their end,"
        f" {tables.percent(long['label_survives_share'])} keep their label, and"
        f" {tables.percent(long['answer_kept_share'])} of an answer is left. This project's tensors of the same rows"
        f" lose none: {kept['rows_cut']} rows cut, {kept['rows_label_and_end_supervised']} of {kept['rows']} train"
        f" label and end, and IOT_MAX_LENGTH must be at least the longest row's {kept['longest']:,} tokens."
    )
    section.text(
        f"The same {old['rows']:,} rows of this lake were then trained on twice, reading equally many rows: by the old"
        " recipe to the letter (that share of each answer, the class at its end, the loss on everything, the end of"
        " turn masked as padding, 16 rows a step, a learning rate of 2e-4, attention only), and as this project does;"
        f" between the two, one change at a time. {found['scored_flows']:,} distinct test flows were classified by"
        " scoring every label. An audit on few rows: neither model is used for anything else."
    )
    rows = [
        {
            "protocol": NAMES["paper"],
            "label": old["label_survives_share"],
            "end": old["end_supervised_share"],
            "prompt": old["prompt_share_of_loss"],
            "accuracy": found["accuracy"]["paper"],
        },
        {
            "protocol": NAMES["leak_free"],
            "label": ours["rows_label_and_end_supervised"] / ours["rows"],
            "end": ours["rows_label_and_end_supervised"] / ours["rows"],
            "prompt": 0.0,
            "accuracy": found["accuracy"]["leak_free"],
        },
    ]
    section.table(
        rows,
        [
            Column("protocol"),
            Column("label", "rows that train their label", tables.percent, True),
            Column("end", "rows that train an end", tables.percent, True),
            Column("prompt", "share of the loss on prompts", tables.percent, True),
            Column("accuracy", "accuracy, distinct test flows", tables.accuracy, True),
        ],
        "The two protocols on the same rows, steps and base.",
        "paper_protocol",
    )
    section.table(
        [{**arm, "arm": arm["arm"].replace("_", " ")} for arm in found["arms"]],
        [
            Column("arm", "rows and recipe"),
            Column("accuracy", "accuracy, distinct test flows", tables.accuracy, True),
            Column("interval", "95 % interval", lambda found: f"{found[0]:.3f} to {found[1]:.3f}", True),
        ],
        "From the old protocol to this one, one change at a time: the recipe, the rows, the label's weight.",
        "paper_protocol",
    )
    section.text(
        f"Held out by row, as in the prior work, {tables.percent(found['held_out_prompts_seen_share'])} of"
        f" {found['held_out_rows']} validation rows have a prompt that was trained on."
    )
    return section
