"""Report context: the artefacts of a lake read into one structure for reports, cards and the audit.

Keys of a context, each absent if its artefact is: used (settings of the artefacts), labels (provenance sentences), spec
(name, title, citation, doi, licence, scaling, scaling_note, facts), raw_flows, flows, dedup_report, label_conflicts,
dataset_mismatch, flow_profile and sample_comparison (summary and `table`: rows), attack_patterns, evaluation_split,
training_order, leakage_report, base_model, paper_protocol, inference_benchmark, track_comparison, cost_report,
claims_audit; by `stage|track`: tracks (report, usage, examples, answer_characters_mean), tensors, training
(training.json and `curve`), evaluation, explanations; baselines (stage -> model -> evaluation with `model` and
`timings`), prompts (track -> text, version), lineage (rows).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iot_pipeline.lake.store import MANIFEST, ArtefactId
from iot_pipeline.vocabulary import TRACKS, Partition, Trained, partition_parts, unstaged

SINGLE = {
    "raw_flows": "source.json",
    "flows": "flows.json",
    "dedup_report": "dedup_report.json",
    "label_conflicts": "label_conflicts.json",
    "dataset_mismatch": "dataset_mismatch.json",
    "flow_profile": "flow_profile.json",
    "attack_patterns": "attack_patterns.json",
    "sample_comparison": "sample_comparison.json",
    "evaluation_split": "split.json",
    "training_order": "order.json",
    "leakage_report": "leakage.json",
    "base_model": "base.json",
    "paper_protocol": "paper_protocol.json",
    "inference_benchmark": "inference.json",
    "track_comparison": "track_comparison.json",
    "cost_report": "cost_report.json",
    "claims_audit": "claims_audit.json",
}
TABLES = {"flow_profile": "flow_profile.parquet", "sample_comparison": "sample_comparison.parquet"}
EXAMPLES = 3


def gather(folders: Mapping[ArtefactId, Path], spec: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Build the report context of the artefacts in `folders`; `spec`: facts about the data set, by name."""
    context: dict[str, Any] = {"spec": dict(spec or {})}
    manifests: dict[str, dict[str, Any]] = {}
    for artefact, folder in sorted(folders.items()):
        manifests[f"{artefact.asset}@{artefact.partition}"] = _json(folder / MANIFEST)
        _read(context, artefact, folder)
    context["used"] = used_settings(manifests)
    context["labels"] = list(
        dict.fromkeys(label for record in manifests.values() if (label := record["provenance"].get("label")))
    )
    context["lineage"] = lineage(manifests)
    return context


def _read(context: dict[str, Any], artefact: ArtefactId, folder: Path) -> None:
    """Read one artefact into its place in `context`."""
    asset, key = place_of(artefact)
    if asset in SINGLE and (folder / SINGLE[asset]).is_file():
        context[asset] = _json(folder / SINGLE[asset])
        if asset in TABLES and (folder / TABLES[asset]).is_file():
            context[asset]["table"] = _rows(folder / TABLES[asset])
    elif asset == "automl_baseline":
        context.setdefault("baselines", {})[key] = {
            name: {**_json(path), **_optional(folder / f"timing_{name}.json", "timings")}
            for path in sorted(folder.glob("eval_*.json"))
            for name in [path.stem.removeprefix("eval_")]
        }
    elif asset == "prompt":
        version = _json(folder / MANIFEST)["data_version"]
        context.setdefault("prompts", {})[key] = {"text": (folder / "prompt.md").read_text(), "version": version}
    elif asset in TRACKS:
        context.setdefault("tracks", {})[key] = {
            **_optional(folder / "report.json", "report"),
            **_optional(folder / "usage.json", "usage"),
            **_answers(folder / "track.jsonl"),
        }
    elif asset == "training_split":
        context.setdefault("tensors", {})[key] = _json(folder / "stats.json")
    elif asset == "lora_checkpoint":
        curve = [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]
        context.setdefault("training", {})[key] = {**_json(folder / "training.json"), "curve": curve}
    elif asset == "eval_metrics":
        context.setdefault("evaluation", {})[key] = _json(folder / "eval.json")
    elif asset == "explanation_quality":
        context.setdefault("explanations", {})[key] = _json(folder / "quality.json")


def place_of(artefact: ArtefactId) -> tuple[str, str]:
    """Return the asset's name without its stage, and the key of the artefact in the context (`10K|original`)."""
    (name, stage), partition = unstaged(artefact.asset), artefact.partition
    if name in TRACKS:
        return name, Partition(partition, name).key
    if stage:
        return name, Partition(stage, partition_parts(partition)[-1]).key
    return name, partition


def training_seed(partition: str) -> int | None:
    """Return the training seed of a student's partition; None for any other."""
    return Trained.parse(partition).seed if len(partition_parts(partition)) == len(Trained._fields) else None


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _optional(path: Path, name: str) -> dict[str, Any]:
    return {name: _json(path)} if path.is_file() else {}


def _rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return list(pq.read_table(path).to_pylist())


def _answers(path: Path) -> dict[str, Any]:
    """Read `examples` and `answer_characters_mean` from a track's JSONL.

    Examples are the first rows of different classes, as {prompt, answer}; the mean is over all rows, None without rows.
    """
    seen: dict[str, dict[str, str]] = {}
    characters = rows = 0
    with path.open() as lines:
        for line in lines:
            user, assistant = json.loads(line)["messages"]
            answer = assistant["content"]
            rows += 1
            characters += len(answer)
            if len(seen) < EXAMPLES:
                label = next((part for part in answer.split("\n") if part.startswith("CLASSIFICATION:")), "")
                seen.setdefault(label, {"prompt": user["content"], "answer": answer})
    return {"examples": list(seen.values()), "answer_characters_mean": characters / rows if rows else None}


def used_settings(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return every setting that an artefact read, by name; the last artefact in order wins where they differ."""
    return {
        name.removeprefix("setting "): value
        for record in manifests.values()
        for name, value in record["settings"].items()
        if name.startswith("setting ")
    }


def lineage(manifests: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return lineage rows, one per artefact.

    A row has asset, partition, data_version, code_version, prompts (versions of all prompts upstream), inputs, its own
    seed and settings, code_commit and run_id.
    """
    rows = []
    for key, record in manifests.items():
        settings = {
            name.removeprefix("setting "): value
            for name, value in record["settings"].items()
            if name.startswith("setting ")
        }
        prompts = sorted(item for item in _upstream(key, manifests) if item.startswith("prompt@"))
        rows.append(
            {
                "asset": record["asset"],
                "partition": record["partition"],
                "data_version": record["data_version"],
                "code_version": record["code_version"],
                "prompts": {item.removeprefix("prompt@"): manifests[item]["data_version"] for item in prompts},
                "inputs": dict(record["inputs"]),
                "seed": training_seed(record["partition"]) or settings.pop("seed", None),
                "settings": settings,
                "code_commit": record["provenance"].get("code_commit"),
                "run_id": record["provenance"].get("run_id"),
            }
        )
    return rows


def _upstream(key: str, manifests: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the keys of all known artefacts upstream of `key`, including `key`."""
    found: set[str] = set()
    todo = [key]
    while todo:
        name = todo.pop()
        if name in found or name not in manifests:
            continue
        found.add(name)
        todo += list(manifests[name]["inputs"])
    return found
