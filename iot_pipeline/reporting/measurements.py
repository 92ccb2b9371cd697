"""Measurements of a lake that claims are held against, and the conditions under which the two can be compared."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from iot_pipeline.models.folder import read_settings
from iot_pipeline.reporting import formats
from iot_pipeline.reporting.arithmetic import (
    PUBLISHED_ACCURACY,
    PUBLISHED_F1,
    QWEN,
    fitting_shares,
    nearest_f1,
    published_binary_table,
    qwen2_parameters,
)
from iot_pipeline.reporting.comparison import BASELINES, MAIN_VIEW
from iot_pipeline.reporting.figures import seconds_a_flow
from iot_pipeline.reporting.gather import Facts, Json, checkpoint, metrics
from iot_pipeline.vocabulary import STAGES, TRACKS, Partition

# Conditions under which a claim can be judged, each with the reason given if it is not met.
Condition = Literal[
    "real_flows", "seven_classes", "eight_classes", "captured_flows", "gpt_teacher", "qwen_base", "stage_all", "gpu"
]
CONDITIONS: dict[Condition, str] = {
    "real_flows": "the flows are not the real Farm-Flow table",
    "seven_classes": "the table is not the prior work's of 7 classes",
    "eight_classes": "the table is not the publishers' of 8 classes",
    "captured_flows": "the flows are simulated",
    "gpt_teacher": "the answers are not gpt-4o-mini's",
    "qwen_base": "the student is not built on Qwen2.5-1.5B-Instruct",
    "stage_all": "the track was not made up to stage ALL",
    "gpu": "no GPU was used",
}
# A model, or a dated version of it; the answers of several models are joined by +.
GPT = re.compile(r"gpt-4o-mini(-\d{4}-\d{2}-\d{2})?")
QWEN_NAME = re.compile(r"([^/]+/)?qwen2\.5-1\.5b-instruct")
FARM_FLOW = ("farm_flow", "farm_flow_8")
SPEEDS = ("bf16", "int8", "int4")
OLD_WAY = "(the old way)"  # as the inference benchmark names the variant: what the claims of today's seconds are about


@dataclass(frozen=True)
class Measurement:
    """A figure of this lake, a number or {name: number}, the asset that it comes from, and what to know about it.

    The value is None if the asset cannot give the figure; `note` says why. lacks: CONDITIONS that the lake may meet and
    this figure does not.
    """

    value: Any
    where: str
    note: str = ""
    lacks: frozenset[Condition] = frozenset()


Found = dict[str, Measurement]


def collect(facts: Facts) -> tuple[Found, set[str]]:
    """Collect the measurements that a lake's facts allow, by key, and the names of the conditions that hold."""
    source = "simulated flows" if facts.simulated else facts.used.dataset or "this data set"
    found = {
        **_arithmetic(),
        **_data(facts, f"measured on {source}"),
        **_baselines(facts, f"measured on {source}"),
        **_students(facts),
        **_losses(facts),
        **_protocol(facts),
        **_tracks(facts),
        **_costs(facts),
        **_speeds(facts),
    }
    return found, conditions(facts)


def conditions(facts: Facts) -> set[str]:
    """Return the CONDITIONS that hold, from the settings and reports of the artefacts."""
    used = facts.used
    data_set = facts.data_set.name or Path(used.dataset or "").stem
    captured = used.source is not None and not facts.simulated
    checks = {
        "real_flows": captured and data_set in FARM_FLOW,
        "seven_classes": _classes(facts) == 7,
        "eight_classes": _classes(facts) == 8,
        "captured_flows": captured,
        "gpt_teacher": used.teacher == "openai" and all(map(is_gpt, _teachers(facts))),
        "qwen_base": is_qwen(used.base_model or ""),
        "stage_all": any(STAGES.index(partition.stage) >= STAGES.index("ALL") for partition in facts.tracks),
        "gpu": any(_on_gpu(variant) for variant in _variants(facts)),
    }
    return {name for name, holds in checks.items() if holds}


def is_gpt(name: str) -> bool:
    """Return True if every model of a name such as `a+b` is gpt-4o-mini or a dated version of it."""
    return all(GPT.fullmatch(part) for part in name.lower().split("+"))


def is_qwen(base: str) -> bool:
    """Return True for Qwen2.5-1.5B-Instruct: a folder by its config.json, a hub id by its name."""
    folder = Path(base)
    if base and folder.is_dir():
        config = read_settings(folder / "config.json")
        return all(config.get(name) == value for name, value in QWEN.items())
    return QWEN_NAME.fullmatch(base.lower()) is not None


def _teachers(facts: Facts) -> set[str]:
    """Return the models that were asked, as the tracks report them; before there is a track, the one that is set."""
    asked = {str(model) for track in facts.tracks.values() if (model := track.usage.get("model"))}
    return asked or {facts.used.teacher_model or "gpt-4o-mini"}


def _classes(facts: Facts) -> int:
    """Return the number of classes of the table; 0 if no report tells it."""
    if facts.dedup_report:
        return len(facts.dedup_report["by_class"])
    if facts.label_conflicts:
        return len(facts.label_conflicts["classes"])
    models = (model for stage in facts.baselines.values() for model in stage.values())
    return len(next(models, {}).get("classes", []))


def _arithmetic() -> Found:
    (trainable, total), (normal, rows) = qwen2_parameters(), published_binary_table()
    shape, table = "arithmetic on the published shape", "arithmetic on the published table"
    low, high = fitting_shares(PUBLISHED_ACCURACY, PUBLISHED_F1)
    nearest = nearest_f1(PUBLISHED_ACCURACY, PUBLISHED_F1, normal, rows)
    fits = f"they fit a class of {formats.percent(low)} to {formats.percent(high)} of the rows; Normal has "
    return {
        "qwen_lora_parameters": Measurement(trainable, shape),
        "qwen_total_parameters": Measurement(total, shape),
        "nearest_f1": Measurement(nearest, table, fits + formats.percent(normal / rows)),
        "always_attack_accuracy": Measurement(1 - normal / rows, table),
    }


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
        put("raw_row_ceiling", report["raw"]["row_ceiling"], "label_conflicts")
    if report := facts.leakage_report:
        put("row_split_shared_share", report["row_wise"]["shared_test_share"], "leakage_report")
    if report := facts.evaluation_split:
        put("train_pool_rows", report["rows"]["train"], "evaluation_split")
    return found


def _baselines(facts: Facts, note: str) -> Found:
    found = {}
    trained = facts.baselines.get("ALL", {})
    # The claims are about best_quality; if it was not run, the fixed configuration represents AutoML.
    name = next((name for name in ("automl_best_quality", "automl") if name in trained), None)
    if name and (scored := trained[name]["views"].get("row")):
        where = f"automl_baseline[ALL], {BASELINES[name]}"
        apart = f"{note}, on flows that share no prompt with training"
        found["automl_accuracy"] = Measurement(scored["accuracy"], where, apart)
    if split := trained.get("automl", {}).get("row_split"):
        shared = formats.percent(split["shared_test_share"])
        told = f"{note}, the fixed configuration; {shared} of the held-out rows have a flow that was trained on"
        for metric in ("accuracy", "macro_f1"):
            found[f"automl_row_split_{metric}"] = Measurement(split[metric], "automl_baseline[ALL]", told)
    return found


def _students(facts: Facts) -> Found:
    """Return the accuracy of the student that the validation side chooses."""
    scored = {
        partition: result["validation"]["views"][MAIN_VIEW]["accuracy"]
        for partition, result in facts.evaluation.items()
        if result["views"].get("row") and (result.get("validation") or {"views": {}})["views"].get(MAIN_VIEW)
    }
    if not scored:
        return {}
    best = max(scored, key=lambda partition: scored[partition])
    value = facts.evaluation[best]["views"]["row"]["accuracy"]
    where = f"{metrics(best)}[{best.key}]"
    return {"student_accuracy": Measurement(value, where, "chosen on validation; flows unseen in training")}


def _losses(facts: Facts) -> Found:
    losses = {
        partition: loss
        for partition, run in facts.training.items()
        if (loss := run.facts.get("validation_loss")) is not None
    }
    note = "here: answers only, one validation set for all tracks"
    found = {
        f"validation_loss_{partition.track}_{partition.stage}": Measurement(
            loss, f"{checkpoint(partition)}[{partition.key}]", note
        )
        for partition, loss in losses.items()
    }
    for track in TRACKS[1:]:
        both = [stage for stage in STAGES if {Partition(stage, track), Partition(stage, TRACKS[0])} <= losses.keys()]
        if both:
            partition, original = Partition(both[-1], track), Partition(both[-1], TRACKS[0])
            note = f"at {partition.stage}, on one common validation set"
            ratio = losses[original] / losses[partition]
            found[f"loss_ratio_{track}"] = Measurement(ratio, checkpoint(partition), note)
    return found


def _protocol(facts: Facts) -> Found:
    audit = facts.paper_protocol
    if not audit:
        return {}
    long, old, moved = audit["long_answers"], audit["paper"], audit["variation"]
    writer = "the embedded teacher" if facts.embedded_teacher else "+".join(sorted(_teachers(facts)))
    of_long = f"{long['rows']} answers by {writer} of the prior work's length, tokenizer: {audit['tokenizer']}"
    of_old = f"the old protocol on {old['rows']:,} rows of this lake"
    values = {
        "rows_cut_at_512": (long["rows_cut_share"], of_long),
        "paper_rows_with_label": (long["label_survives_share"], of_long),
        "paper_rows_naming_class": (long["class_named_share"], of_long),
        "prompt_token_share": (long["prompt_share_of_loss"], of_long),
        "paper_rows_with_end": (old["end_supervised_share"], f"{of_old}; padding and end are one token there"),
        "paper_held_out_seen": (audit["held_out_prompts_seen_share"], of_old),
        "paper_variation_impossible_share": (moved["not_whole_share"], _of_variation(moved)),
    }
    found = {key: Measurement(value, "paper_protocol", note) for key, (value, note) in values.items()}
    return found | {
        "paper_accuracy_lost": _lost(audit, "paper_rows_our_recipe"),
        "paper_accuracy_lost_uncut": _lost(audit, "paper_rows_uncut"),
    }


def _of_variation(moved: Mapping[str, Any]) -> str:
    if moved["not_whole_share"] is None:
        return "no feature is a count on a known scale"
    before, zeros = (formats.percent(moved[name]) for name in ("not_whole_before", "zero_share"))
    return (
        f"{moved['count_values']:,} counts of {len(moved['features'])} features on a known scale, {before} of them not"
        f" whole before; {zeros} of all values are 0 and stay"
    )


def _lost(audit: Mapping[str, Any], name: str) -> Measurement:
    """Return the accuracy that an old arm lacks of our rows: same recipe and steps, no label weight in either."""
    arms = {arm["arm"]: arm for arm in audit["arms"]}
    old, ours = arms[name], arms["our_rows_label_weight_1"]
    if old["accuracy"] is None:
        return Measurement(None, "paper_protocol", old["where"])
    note = (
        f"{ours['accuracy']:.4f} and {old['accuracy']:.4f} by the same recipe, steps and rows, label weight 1 in both, "
        f"one training each; the old arm is read {old['where']}; majority class {audit['majority']['accuracy']:.4f}"
    )
    return Measurement(ours["accuracy"] - old["accuracy"], "paper_protocol", note)


def _made(facts: Facts, track: str) -> list[Partition]:
    """Return the increments of a track in the order of the stages."""
    return sorted((made for made in facts.tracks if made.track == track), key=lambda made: STAGES.index(made.stage))


def _tracks(facts: Facts) -> Found:
    """Return lengths of answers over all increments of each track, and rows by stage that were really changed."""
    found = {}
    for track in TRACKS:
        made = {partition.stage: facts.tracks[partition] for partition in _made(facts, track)}
        rows = {stage: part.report.get("rows", 0) for stage, part in made.items()}
        lengths = {stage: length for stage, part in made.items() if (length := part.answer_characters_mean) is not None}
        if total := sum(rows[stage] for stage in lengths):
            mean = sum(length * rows[stage] for stage, length in lengths.items()) / total
            found[f"answer_characters_{track}"] = Measurement(mean, track, f"mean over {total:,} rows")
    for key, track, kind in (
        ("paraphrased_rows", "paraphrased", "paraphrase"),
        ("varied_rows", "feature_varied", "varied"),
    ):
        changed: dict[str, int] = {}
        total = 0
        for partition in _made(facts, track):
            total += facts.tracks[partition].report.get("kinds", {}).get(kind, 0)
            changed[partition.stage] = total
        if changed:
            found[key] = Measurement(changed, track, "rows up to each stage")
    return found


def _costs(facts: Facts) -> Found:
    """Return the dollars of each track, summed over its increments."""
    found = {}
    for track in TRACKS:
        rows = [row for row in (facts.cost_report or {"rows": []})["rows"] if row["track"] == track]
        if rows:
            stages = {row["stage"] for row in rows}
            whole = stages.issuperset(STAGES)
            note = "" if whole else f"increments {', '.join(stage for stage in STAGES if stage in stages)} only"
            lacks = frozenset[Condition]() if whole else frozenset[Condition]({"stage_all"})
            spent = sum(row["billed_usd"] for row in rows)
            found[f"cost_{track}"] = Measurement(spent, "cost_report", note, lacks)
    return found


def _speeds(facts: Facts) -> Found:
    """Return the seconds of an explained flow: the prior work's way, and the fastest variant of each number format."""
    explained = [variant for variant in _variants(facts) if variant["name"].startswith("explanation")]
    candidates = {"seconds_a_flow_old_way": [one for one in explained if one["name"].endswith(OLD_WAY)]} | {
        f"seconds_a_flow_{kind}": [variant for variant in explained if kind in variant["name"]] for kind in SPEEDS
    }
    return {key: _fastest(variants) for key, variants in candidates.items() if variants}


def _fastest(variants: Iterable[Json]) -> Measurement:
    best = min(variants, key=seconds_a_flow)
    lacks = frozenset[Condition]() if _on_gpu(best) else frozenset[Condition]({"gpu"})
    return Measurement(seconds_a_flow(best), "inference_benchmark", f"{best['name']}, on {best['device']}", lacks)


def _variants(facts: Facts) -> list[Json]:
    """Return the variants of the inference benchmark that ran."""
    return [variant for variant in (facts.inference_benchmark or {"variants": []})["variants"] if variant["run"]]


def _on_gpu(variant: Mapping[str, Any]) -> bool:
    return variant.get("device") not in (None, "cpu")
