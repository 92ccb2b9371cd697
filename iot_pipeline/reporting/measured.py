"""Measurements of a lake that the claims audit compares with claims."""

from typing import Any

from iot_pipeline.reporting.claims import Measurement, qwen2_parameters
from iot_pipeline.reporting.comparison import BASELINES
from iot_pipeline.reporting.figures import seconds_a_flow
from iot_pipeline.reporting.gather import Facts, Json, checkpoint, metrics
from iot_pipeline.vocabulary import TRACKS

Found = dict[str, Measurement]


def collect(facts: Facts) -> tuple[Found, set[str]]:
    """Collect the measurements that a lake's facts allow, by key, and the names of the conditions that hold."""
    source = "simulated flows" if facts.simulated else facts.used.dataset or "this data set"
    trainable, total = qwen2_parameters()
    shape = "arithmetic on the published shape"
    found = {
        "qwen_lora_parameters": Measurement(trainable, shape),
        "qwen_total_parameters": Measurement(total, shape),
        **_data(facts, f"measured on {source}"),
        **_models(facts, f"measured on {source}"),
        **_protocol(facts),
        **_answers(facts),
    }
    return {key: measured for key, measured in found.items() if measured.value is not None}, conditions(facts)


def conditions(facts: Facts) -> set[str]:
    """Return the claims.CONDITIONS that hold, from the settings of the artefacts."""
    used = facts.used
    checks = {
        "real_flows": used.dataset == "farm_flow" and not facts.simulated,
        "gpt_teacher": used.teacher == "openai" and "gpt-4o-mini" in (used.teacher_model or "gpt-4o-mini"),
        "qwen_base": "qwen2.5-1.5b" in (used.base_model or "").lower(),
        "stage_all": any(partition.stage == "ALL" for partition in facts.tracks),
        "gpu": any(variant.get("device") not in (None, "cpu") for variant in _variants(facts)),
    }
    return {name for name, holds in checks.items() if holds}


def _data(facts: Facts, note: str) -> Found:
    found = {}

    def put(key: str, value: Any, where: str) -> None:
        found[key] = Measurement(value, where, note)

    if report := facts.dedup_report:
        put("rows", report["rows"], "dedup_report")
        put("duplicate_share", report["raw"]["duplicate_share"], "dedup_report")
        put("distinct_flows", report["raw"]["distinct"], "dedup_report")
        by_class = {name: shares["duplicate_share_raw"] for name, shares in report["by_class"].items()}
        put("duplicate_share_by_class", by_class, "dedup_report")
    if report := facts.dataset_mismatch:
        for item in [*report["findings"], *report["agreements"]]:
            if item["kind"] == "facts" and item["what"].startswith("sum of class_rows_prior_work"):
                total = Measurement(item["found"], "dataset_mismatch", "the published table, added up")
                found["prior_class_table_sum"] = total
    if report := facts.label_conflicts:
        put("row_ceiling", report["ceilings"]["row"], "label_conflicts")
    if report := facts.leakage_report:
        put("row_split_shared_share", report["row_wise"]["shared_test_share"], "leakage_report")
    if report := facts.evaluation_split:
        put("train_pool_rows", report["rows"]["train"], "evaluation_split")
    return found


def _models(facts: Facts, note: str) -> Found:
    found = {}
    trained = facts.baselines.get("ALL", {})
    # The claims are about best_quality; if it was not run, the fixed configuration represents AutoML.
    name = next((name for name in ("automl_best_quality", "automl") if name in trained), None)
    if name and (scored_rows := trained[name]["views"].get("row")):
        where = f"automl_baseline[ALL], {BASELINES[name]}"
        found["automl_accuracy"] = Measurement(scored_rows["accuracy"], where, note)
        found["automl_macro_f1"] = Measurement(scored_rows["macro_f1"], where, note)
    scored = {
        partition: result["views"]["row"]["accuracy"]
        for partition, result in facts.evaluation.items()
        if result["views"].get("row")
    }
    if scored:
        best = max(scored, key=lambda partition: scored[partition])
        where = f"{metrics(best)}[{best.key}]"
        found["student_accuracy"] = Measurement(scored[best], where, "best track; flows unseen in training")
    losses = {
        partition: loss
        for partition, run in facts.training.items()
        if (loss := run.facts.get("validation_loss")) is not None
    }
    note = "here: answers only, one validation set for all tracks"
    for partition, loss in losses.items():
        key = f"validation_loss_{partition.track}_{partition.stage}"
        found[key] = Measurement(loss, f"{checkpoint(partition)}[{partition.key}]", note)
    for track in TRACKS[1:]:
        for partition in losses:  # the last stage at which both were trained remains
            original = losses.get(partition._replace(track="original"))
            if partition.track == track and original is not None:
                note = f"at {partition.stage}, on one common validation set"
                found[f"loss_ratio_{track}"] = Measurement(original / losses[partition], checkpoint(partition), note)
    return found


def _protocol(facts: Facts) -> Found:
    audit = facts.paper_protocol
    if not audit:
        return {}
    long, old = audit["long_answers"], audit["paper"]
    of_long = f"{long['rows']} answers of the prior work's length, tokenizer: {audit['tokenizer']}"
    of_old = f"the old protocol on {old['rows']:,} rows of this lake"
    lost = audit["accuracy"]["leak_free"] - audit["accuracy"]["paper"]
    equal = f"{of_old}; equally many rows read, distinct test flows"
    values = {
        "rows_cut_at_512": (long["rows_cut_share"], of_long),
        "paper_rows_with_label": (long["label_survives_share"], of_long),
        "prompt_token_share": (long["prompt_share_of_loss"], of_long),
        "paper_rows_with_end": (old["end_supervised_share"], of_old),
        "paper_held_out_seen": (audit["held_out_prompts_seen_share"], of_old),
        "paper_accuracy_lost": (lost, equal),
    }
    return {key: Measurement(value, "paper_protocol", note) for key, (value, note) in values.items()}


def _answers(facts: Facts) -> Found:
    found = {}
    for partition, track in facts.tracks.items():
        mean = Measurement(track.answer_characters_mean, partition.track, "mean over the rows")
        found[f"answer_characters_{partition.track}"] = mean
    rows = (facts.cost_report or {"rows": []})["rows"]
    whole = {row["track"] for row in rows if row["stage"] == "ALL"}
    for row in rows:
        if row["stage"] == "ALL" or row["track"] not in whole:
            part = f"stage {row['stage']} only" if row["stage"] != "ALL" else ""
            found[f"cost_{row['track']}"] = Measurement(row["billed_usd"], "cost_report", part)
    explained = [variant for variant in _variants(facts) if variant["name"].startswith("explanation")]
    candidates = {"seconds_a_flow": [variant for variant in explained if variant.get("seconds_p50")]} | {
        f"seconds_a_flow_{kind}": [variant for variant in explained if kind in variant["name"]]
        for kind in ("bf16", "int8", "int4")
    }
    for key, variants in candidates.items():
        if variants:
            best = min(variants, key=seconds_a_flow)
            found[key] = Measurement(
                seconds_a_flow(best), "inference_benchmark", f"{best['name']}, on {best['device']}"
            )
    return found


def _variants(facts: Facts) -> list[Json]:
    """Return the variants of the inference benchmark that ran."""
    return [variant for variant in (facts.inference_benchmark or {"variants": []})["variants"] if variant["run"]]
