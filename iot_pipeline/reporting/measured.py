"""Measurements of a lake that the claims audit compares with claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iot_pipeline.reporting.claims import qwen2_parameters
from iot_pipeline.reporting.comparison import BASELINES, split_key
from iot_pipeline.reporting.figures import seconds_a_flow
from iot_pipeline.vocabulary import TRACKS, staged

Context = Mapping[str, Any]
Measured = dict[str, dict[str, Any]]


def collect(context: Context) -> tuple[Measured, set[str]]:
    """Collect measurements and conditions that hold from a report context (gather.py); absent parts are skipped.

    Returns (key -> {value, where, note}, names of the conditions).
    """
    found: Measured = {}
    used = context.get("used") or {}
    note = "measured on simulated flows" if simulated(used) else f"measured on {used.get('dataset', 'this data set')}"

    def put(key: str, value: Any, where: str, text: str = note) -> None:
        if value is not None:
            found[key] = {"value": value, "where": where, "note": text}

    trainable, total = qwen2_parameters()
    put("qwen_lora_parameters", trainable, "arithmetic on the published shape", "")
    put("qwen_total_parameters", total, "arithmetic on the published shape", "")
    _data(context, put)
    _models(context, put)
    _protocol(context, put)
    _answers(context, put)
    return found, conditions(context)


def simulated(used: Mapping[str, Any]) -> bool:
    """Return True if the flows were simulated."""
    return used.get("source") == "simulate"


def embedded_teacher(context: Context) -> bool:
    """Return True if the embedded teacher is set or wrote answers, here or as a separate server."""
    written = any((track.get("usage") or {}).get("embedded") for track in (context.get("tracks") or {}).values())
    return written or (context.get("used") or {}).get("teacher") == "embedded"


def conditions(context: Context) -> set[str]:
    """Return the claims.CONDITIONS that hold, from the settings of the artefacts."""
    used = context.get("used") or {}
    base = str(used.get("base_model") or "")
    tracks = context.get("tracks") or {}
    checks = {
        "real_flows": used.get("dataset") == "farm_flow" and not simulated(used),
        "gpt_teacher": (
            used.get("teacher") == "openai" and "gpt-4o-mini" in str(used.get("teacher_model") or "gpt-4o-mini")
        ),
        "qwen_base": "qwen2.5-1.5b" in base.lower(),
        "stage_all": any(split_key(key)[0] == "ALL" for key in tracks),
        "gpu": any(rung.get("device") not in (None, "cpu") for rung in _rungs(context)),
    }
    return {name for name, holds in checks.items() if holds}


def _data(context: Context, put: Any) -> None:
    if report := context.get("dedup_report"):
        put("rows", report["rows"], "dedup_report")
        put("duplicate_share", report["raw"]["duplicate_share"], "dedup_report")
        put("distinct_flows", report["raw"]["distinct"], "dedup_report")
        by_class = {name: facts["duplicate_share_raw"] for name, facts in report["by_class"].items()}
        put("duplicate_share_by_class", by_class, "dedup_report")
    if report := context.get("dataset_mismatch"):
        for item in [*report["findings"], *report["agreements"]]:
            if item["kind"] == "facts" and item["what"].startswith("sum of class_rows_prior_work"):
                put("prior_class_table_sum", item["found"], "dataset_mismatch", "the published table, added up")
    if report := context.get("label_conflicts"):
        put("row_ceiling", report["ceilings"]["row"], "label_conflicts")
    if report := context.get("leakage_report"):
        put("row_split_shared_share", report["row_wise"]["shared_test_share"], "leakage_report")
    if report := context.get("evaluation_split"):
        put("train_pool_rows", report["rows"]["train"], "evaluation_split")


def _models(context: Context, put: Any) -> None:
    trained = (context.get("baselines") or {}).get("ALL") or {}
    # The claims are about best_quality; if it was not run, the fixed configuration represents AutoML.
    name = next((name for name in ("automl_best_quality", "automl") if name in trained), None)
    if name and (scored_rows := trained[name]["views"].get("row")):
        where = f"automl_baseline[ALL], {BASELINES[name]}"
        put("automl_accuracy", scored_rows["accuracy"], where)
        put("automl_macro_f1", scored_rows["macro_f1"], where)
    scored = {
        key: found["views"]["row"]["accuracy"]
        for key, found in (context.get("evaluation") or {}).items()
        if found["views"].get("row")
    }
    if scored:
        best = max(scored, key=lambda key: scored[key])
        stage, _ = split_key(best)
        put(
            "student_accuracy",
            scored[best],
            f"{staged('eval_metrics', stage)}[{best}]",
            "best track; flows unseen in training",
        )
    losses: dict[tuple[str, str], float] = {}
    for key, found in (context.get("training") or {}).items():
        loss = found["facts"].get("validation_loss")
        if loss is not None:
            stage, track = split_key(key)
            losses[stage, track] = loss
            put(
                f"validation_loss_{track}_{stage}",
                loss,
                f"{staged('lora_checkpoint', stage)}[{key}]",
                "here: answers only, one validation set for all tracks",
            )
    for track in TRACKS[1:]:
        stages = [stage for stage, name in losses if name == track and (stage, "original") in losses]
        if stages:
            stage = stages[-1]
            ratio = losses[stage, "original"] / losses[stage, track]
            put(
                f"loss_ratio_{track}",
                ratio,
                staged("lora_checkpoint", stage),
                f"at {stage}, on one common validation set",
            )


def _protocol(context: Context, put: Any) -> None:
    found = context.get("paper_protocol")
    if not found:
        return
    long, old = found["long_answers"], found["paper"]
    note = f"{long['rows']} answers of the prior work's length, tokenizer: {found['tokenizer']}"
    put("rows_cut_at_512", long["rows_cut_share"], "paper_protocol", note)
    put("paper_rows_with_label", long["label_survives_share"], "paper_protocol", note)
    put("prompt_token_share", long["prompt_share_of_loss"], "paper_protocol", note)
    note = f"the old protocol on {old['rows']:,} rows of this lake"
    put("paper_rows_with_end", old["end_supervised_share"], "paper_protocol", note)
    put("paper_held_out_seen", found["held_out_prompts_seen_share"], "paper_protocol", note)
    lost = found["accuracy"]["leak_free"] - found["accuracy"]["paper"]
    put("paper_accuracy_lost", lost, "paper_protocol", f"{note}; equally many rows read, distinct test flows")


def _answers(context: Context, put: Any) -> None:
    lengths: dict[str, float] = {}
    for key, track in (context.get("tracks") or {}).items():
        _, name = split_key(key)
        length = track.get("answer_characters_mean")
        if length is not None:
            lengths[name] = length
    for name, length in lengths.items():
        put(f"answer_characters_{name}", length, name, "mean over the rows")
    for row in (context.get("cost_report") or {}).get("rows", []):
        if row["stage"] == "ALL" or not any(
            other["stage"] == "ALL" and other["track"] == row["track"] for other in context["cost_report"]["rows"]
        ):
            text = f"stage {row['stage']} only" if row["stage"] != "ALL" else ""
            put(f"cost_{row['track']}", row["billed_usd"], "cost_report", text)
    explained = [rung for rung in _rungs(context) if rung["rung"].startswith("explanation")]
    alone = [rung for rung in explained if rung.get("seconds_p50")]
    if alone:
        best = min(alone, key=seconds_a_flow)
        put("seconds_a_flow", seconds_a_flow(best), "inference_benchmark", f"{best['rung']}, on {best['device']}")
    for kind in ("bf16", "int8", "int4"):
        if matching := [rung for rung in explained if kind in rung["rung"]]:
            best = min(matching, key=seconds_a_flow)
            put(
                f"seconds_a_flow_{kind}",
                seconds_a_flow(best),
                "inference_benchmark",
                f"{best['rung']}, on {best['device']}",
            )


def _rungs(context: Context) -> list[Mapping[str, Any]]:
    """Return the variants of the inference benchmark that ran."""
    return [rung for rung in (context.get("inference_benchmark") or {}).get("rungs", []) if rung["run"]]
