"""Model cards: one Markdown file per checkpoint, with the front matter that model hubs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.reporting import tables
from iot_pipeline.reporting.blocks import MISSING
from iot_pipeline.reporting.comparison import split_key
from iot_pipeline.reporting.gather import place_of
from iot_pipeline.reporting.measured import simulated
from iot_pipeline.reporting.report import markdown
from iot_pipeline.reporting.sections_front import banner
from iot_pipeline.reporting.sections_student import decodings, limits, name_of
from iot_pipeline.reporting.tables import Column
from iot_pipeline.vocabulary import VIEWS, Partition


def model_card(context: Mapping[str, Any], key: str) -> str:
    """Return the Markdown model card of checkpoint `stage|track`, from a report context (gather.py).

    Raises UserError if the checkpoint has not been trained.
    """
    run = (context.get("training") or {}).get(key)
    if run is None:
        raise UserError(f"there is no checkpoint {key} in this lake; materialise lora_checkpoint first")
    stage, track = split_key(key)
    evaluation = (context.get("evaluation") or {}).get(key)
    explained = (context.get("explanations") or {}).get(key)
    parts = [
        _front_matter(context, key, run, evaluation),
        f"# Student of track {markdown(track)}, stage {markdown(stage)}\n",
        "".join(f"> **{mark['name']}.** {mark['text']}\n>\n" for mark in banner(context)),
        (
            "## What it is\n\nA LoRA adapter that reads one network flow as text and answers with its class"
            f" and an explanation. Base: {markdown(_base(context))}. {run['facts']['trainable_parameters']:,}"
            f" of {run['facts']['total_parameters']:,} parameters were trained.\n"
        ),
        _data(context, stage, track),
        _training(run),
        _evaluation(evaluation),
        "## Explanations\n\n" + (_means(explained) if explained else f"{MISSING}.\n"),
        "## Limits\n\n"
        + "".join(f"- {markdown(line)}\n" for line in limits(context))
        + "- It names one of the classes below for every flow, also for one that is none of them. Do not let"
        " it block traffic by itself.\n",
        _licence(context),
        _origin(context, key),
    ]
    return "\n".join(part for part in parts if part)


def _base(context: Mapping[str, Any]) -> str:
    base = context.get("base_model") or {}
    return "tiny Qwen2 built by iot_pipeline" if base.get("kind") == "tiny" else str(base.get("name", "unknown"))


def _front_matter(
    context: Mapping[str, Any], key: str, run: Mapping[str, Any], evaluation: Mapping[str, Any] | None
) -> str:
    spec, base = context.get("spec") or {}, context.get("base_model") or {}
    stage, track = split_key(key)
    values: dict[str, Any] = {
        "language": "en",
        "library_name": "peft",
        "license": "other" if base.get("kind") != "tiny" else "mit",
        "pipeline_tag": "text-generation",
        "tags": ["iot", "intrusion-detection", "lora", "iot_pipeline"],
        "datasets": [spec.get("name") or "unknown"],
    }
    if base.get("kind") == "given":
        values["base_model"] = base["name"]
        values["license_name"] = "that of the base model and of the data"
    scored = ((evaluation or {}).get("views") or {}).get("distinct")
    if scored:
        metrics = [
            {"type": name, "name": f"{name}, distinct flows, unseen in training", "value": round(scored[field], 6)}
            for name, field in (("accuracy", "accuracy"), ("f1", "macro_f1"))
        ]
        dataset = spec.get("title") or "unknown"
        values["model-index"] = [
            {
                "name": f"{track}-{stage}",
                "results": [
                    {
                        "task": {"type": "text-classification"},
                        "dataset": {
                            "name": (f"simulated: {dataset}" if simulated(context.get("used") or {}) else dataset),
                            "type": spec.get("name") or "unknown",
                            "split": "test",
                        },
                        "metrics": metrics,
                    }
                ],
            }
        ]
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---\n"


def _data(context: Mapping[str, Any], stage: str, track: str) -> str:
    spec, used = context.get("spec") or {}, context.get("used") or {}
    source = "simulated flows" if simulated(used) else "rows as delivered by the source"
    stats = (context.get("tensors") or {}).get(Partition(stage, track).key)
    rows = f"{stats['rows']:,} chat rows, {stats['tokens']:,} tokens, none truncated" if stats else MISSING
    return (
        f"## Data\n\n{markdown(spec.get('title') or spec.get('name') or 'unknown data set')}, {source};"
        f" answers by the teacher `{markdown(used.get('teacher', 'unknown'))}`. Training set: {rows}. Test"
        " flows share no prompt with them.\n"
    )


def _training(run: Mapping[str, Any]) -> str:
    facts, timings, config = run["facts"], run["timings"], run["config"]
    rows = [
        {"what": "optimiser steps", "value": tables.whole(facts["steps"])},
        {"what": "rows a step", "value": tables.whole(facts["rows_per_step"])},
        {"what": "tokens read", "value": tables.whole(facts["tokens_read"])},
        {"what": "learning rate", "value": f"{config['learning_rate']:g}, {config['scheduler']}"},
        {
            "what": "LoRA r, alpha, dropout",
            "value": f"{config['lora_r']}, {config['lora_alpha']}, {config['lora_dropout']}",
        },
        {"what": "LoRA on", "value": tables.text(config["lora_targets"])},
        {"what": "final training loss", "value": tables.accuracy(facts["final_loss"])},
        {"what": "validation loss", "value": tables.accuracy(facts["validation_loss"])},
        {
            "what": "training time",
            "value": f"{tables.seconds(timings['train_seconds'])}, {facts['processes']} process(es)",
        },
        {"what": "seed", "value": str(config["seed"])},
    ]
    return "## Training\n\n" + tables.to_markdown(rows, [Column("what"), Column("value", write=str)])


def _evaluation(evaluation: Mapping[str, Any] | None) -> str:
    if evaluation is None:
        return f"## Evaluation\n\n{MISSING}.\n"
    rows = []
    for view, meaning in VIEWS.items():
        scored = evaluation["views"].get(view)
        if scored is None:
            continue
        rows.append(
            {
                "view": meaning,
                "accuracy": tables.accuracy(scored["accuracy"], *(scored["intervals"]["accuracy"] or ())),
                "macro-F1": tables.accuracy(scored["macro_f1"], *(scored["intervals"]["macro_f1"] or ())),
                "ceiling": tables.accuracy(scored["ceiling"]),
                "ECE": tables.accuracy((scored.get("calibrated") or scored)["ece"]),
            }
        )
    scored = evaluation["views"].get("distinct")
    by_class = [{"class": name, **facts} for name, facts in scored["per_class"].items()] if scored else []
    columns = [
        Column("class"),
        *(Column(key, write=tables.accuracy, numeric=True) for key in ("precision", "recall", "f1")),
    ]
    return (
        f"## Evaluation\n\nOn {evaluation['groups']:,} distinct test flows; brackets are 95 % intervals.\n\n"
        f"{tables.to_markdown(rows)}\n{tables.to_markdown(by_class, columns)}"
    )


def _means(explained: Mapping[str, Any]) -> str:
    means = decodings(explained)
    rows = [
        {"rule": name.replace("_", " "), **{decoding: of.get(name) for decoding, of in means.items()}}
        for name in means["free"]
    ]
    return (
        "Checked by rule on explained test flows: as the student writes freely"
        + (", and with every number held to its flow by the decoder" if "grounded" in means else "")
        + ".\n\n"
        + tables.to_markdown(rows)
    )


def _licence(context: Mapping[str, Any]) -> str:
    spec = context.get("spec") or {}
    terms = [f"data: {spec['licence']}" if spec.get("licence") else "", f"DOI {spec['doi']}" if spec.get("doi") else ""]
    said = "; ".join(term for term in terms if term) or "data: not stated"
    base = context.get("base_model") or {}
    own = (
        "The base was built here (MIT)."
        if base.get("kind") == "tiny"
        else "The base's licence applies to the merged model."
    )
    return f"## Licence\n\nAdapter: MIT. {own} {markdown(said)}.\n"


def _origin(context: Mapping[str, Any], key: str) -> str:
    for row in context.get("lineage") or []:
        artefact = ArtefactId(row["asset"], row["partition"])
        if place_of(artefact) == ("lora_checkpoint", key):
            prompts = ", ".join(f"{name} {version[:12]}" for name, version in row["prompts"].items()) or "none"
            return (
                f"## Origin\n\nArtefact {markdown(str(artefact))}, data version"
                f" `{row['data_version']}`; prompts: {markdown(prompts)}; code `{row['code_commit']}`; run"
                f" `{row['run_id']}`.\n"
            )
    return f"## Origin\n\nLineage of {markdown(name_of(key))}: {MISSING}.\n"
