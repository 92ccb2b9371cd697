"""Model cards: one Markdown file per checkpoint, with the front matter that model hubs read."""

from __future__ import annotations

from typing import Any

import yaml

from iot_pipeline.errors import UserError
from iot_pipeline.reporting.gather import Facts
from iot_pipeline.reporting.report import render
from iot_pipeline.vocabulary import Partition


def model_card(facts: Facts, partition: Partition) -> str:
    """Return the Markdown model card of a checkpoint.

    Raises UserError if the checkpoint has not been trained.
    """
    if partition not in facts.training:
        raise UserError(f"there is no checkpoint {partition.key} in this lake; materialise lora_checkpoint first")
    front = yaml.safe_dump(_front_matter(facts, partition), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n{render('model_card.md.j2', facts, partition=partition)}"


def _front_matter(facts: Facts, partition: Partition) -> dict[str, Any]:
    data, base = facts.data_set, facts.base_model or {}
    values: dict[str, Any] = {
        "language": "en",
        "library_name": "peft",
        "license": "other" if base.get("kind") != "tiny" else "mit",
        "pipeline_tag": "text-generation",
        "tags": ["iot", "intrusion-detection", "lora", "iot_pipeline"],
        "datasets": [data.name or "unknown"],
    }
    if base.get("kind") == "given":
        values["base_model"] = base["name"]
        values["license_name"] = "that of the base model and of the data"
    scored = facts.evaluation.get(partition, {"views": {}})["views"].get("distinct")
    if scored:
        title = data.title or "unknown"
        dataset = {
            "name": f"simulated: {title}" if facts.simulated else title,
            "type": data.name or "unknown",
            "split": "test",
        }
        metrics = [
            {"type": name, "name": f"{name}, distinct flows, unseen in training", "value": round(scored[field], 6)}
            for name, field in (("accuracy", "accuracy"), ("f1", "macro_f1"))
        ]
        result = {"task": {"type": "text-classification"}, "dataset": dataset, "metrics": metrics}
        values["model-index"] = [{"name": f"{partition.track}-{partition.stage}", "results": [result]}]
    return values
