"""Claims of the prior work next to measurements of this lake, each with a verdict computed from the numbers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from iot_pipeline.errors import UserError
from iot_pipeline.reporting import formats
from iot_pipeline.reporting.comparison import BASELINES
from iot_pipeline.reporting.figures import seconds_a_flow
from iot_pipeline.reporting.gather import Facts, Json, checkpoint, metrics
from iot_pipeline.vocabulary import TRACKS

CLAIMS = Path(__file__).parent / "claims.yaml"
HOLDS, FAILS, INCOMPARABLE, UNMEASURED = "holds", "does not hold", "cannot be compared", "not measured here"
# Conditions that a lake must meet before a claim can be judged, each with the reason given if it does not.
CONDITIONS = {
    "real_flows": "the flows are not the real Farm-Flow table",
    "gpt_teacher": "the answers are not gpt-4o-mini's",
    "qwen_base": "the student is not built on Qwen2.5-1.5B",
    "stage_all": "the tracks were not made at stage ALL",
    "row_split": "the claim was measured on a split by row, this figure on flows that share no prompt with training",
    "gpu": "no GPU was used",
}


class Claim(BaseModel):
    """Entry of claims.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    topic: str
    kind: Literal["claim", "finding"] = "claim"
    text: str
    figure: float | dict[str, float] | None = None
    unit: str = ""
    source: str
    measure: str | None = None
    rule: Literal["equal", "at_least", "at_most", "below", "none"]
    tolerance: float = 0.0
    needs: list[Literal["real_flows", "gpt_teacher", "qwen_base", "stage_all", "row_split", "gpu"]] = []
    missing: str = "the artefact that would show it has not been materialised in this lake"
    reason: str = ""


def load_claims(path: Path = CLAIMS) -> list[Claim]:
    """Load the claims of a YAML file, in file order.

    Raises UserError with file and entry if a claim is malformed or repeated.
    """
    try:
        claims = [Claim(**entry) for entry in yaml.safe_load(path.read_text())]
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    seen: set[str] = set()
    for claim in claims:
        if claim.id in seen:
            raise UserError(f"{path}: the id {claim.id} occurs twice; give each claim its own")
        seen.add(claim.id)
    return claims


@dataclass(frozen=True)
class Measurement:
    """A figure of this lake, a number or {name: number}, the asset that it comes from, and what to know about it."""

    value: Any
    where: str
    note: str = ""


Found = dict[str, Measurement]


def claimed_costs() -> dict[str, float]:
    """Return the answer costs claimed by the prior work, track -> dollars (claims measured by `cost_<track>`)."""
    return {
        claim.measure.removeprefix("cost_"): claim.figure
        for claim in load_claims()
        if claim.measure and claim.measure.startswith("cost_") and isinstance(claim.figure, (int, float))
    }


def claims_audit(
    claims: Sequence[Claim], measured: Mapping[str, Measurement], met: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Compare each claim with its measurement; `met`: the CONDITIONS that hold.

    Returns rows {id, topic, kind, text, claimed, unit, rule, source, measured, where, verdict, why}; `claimed` and
    `measured` are values, None where absent.
    """
    rows = []
    for claim in claims:
        found = measured.get(claim.measure) if claim.measure else None
        verdict, why = judge(claim, found, met)
        rows.append(
            {
                **claim.model_dump(include={"id", "topic", "kind", "text", "unit", "rule", "source"}),
                "claimed": claim.figure,
                "measured": found.value if found else None,
                "where": found.where if found else None,
                "verdict": verdict,
                "why": why,
            }
        )
    return rows


def judge(claim: Claim, found: Measurement | None, met: Collection[str]) -> tuple[str, str]:
    """Return the verdict on a claim given its measurement, and one reason."""
    if found is None:
        return UNMEASURED, claim.missing
    if unmet := [CONDITIONS[name] for name in claim.needs if name not in met]:
        return INCOMPARABLE, _joined(*unmet, found.note)
    if claim.rule == "none" or claim.figure is None:
        return INCOMPARABLE, _joined(claim.reason, found.note)
    by_name = claim.figure if isinstance(claim.figure, dict) else {"": claim.figure}
    values = found.value if isinstance(claim.figure, dict) else {"": found.value}
    wrong = [name for name, wanted in by_name.items() if not _passes(claim, wanted, values.get(name))]
    if not wrong:
        return HOLDS, found.note
    name = max(wrong, key=lambda name: abs((values.get(name) or 0) - by_name[name]))
    figures = (show(figure, claim.unit) for figure in (by_name[name], values.get(name)))
    return FAILS, _joined((f"{name}: " if name else "") + "claimed {}, found {}".format(*figures), found.note)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _passes(claim: Claim, wanted: float, value: float | None) -> bool:
    if value is None:
        return False
    slack = claim.tolerance + 1e-12
    return {
        "equal": abs(value - wanted) <= slack,
        "at_least": value >= wanted - slack,
        "at_most": value <= wanted + slack,
        "below": value < wanted,
    }[claim.rule]


def show(value: Any, unit: str) -> str:
    """Format a figure by its unit: shares as per cent, accuracies with 4 decimals, dollars, seconds, counts."""
    if value is None:
        return formats.MISSING
    if isinstance(value, Mapping):
        return "\n".join(f"{name} {show(item, unit)}" for name, item in value.items())
    if unit.startswith("share"):
        return formats.percent(value)
    if unit.startswith(("accuracy", "macro-F1", "nats")):
        return formats.accuracy(value)
    if unit == "US dollars":
        return formats.dollars(value)
    if unit == "seconds":
        return f"{value:.4g} s"
    return formats.number(value)


SIGNS = {"at_least": "≥ ", "at_most": "≤ ", "below": "< "}


def show_claimed(row: Mapping[str, Any]) -> str:
    """Format the claimed figure of an audit row with the sign of its rule."""
    return ("" if row["claimed"] is None else SIGNS.get(row["rule"], "")) + show(row["claimed"], row["unit"])


def counted(audit: Sequence[Mapping[str, Any]]) -> str:
    """Count verdicts in words: `4 hold, 2 do not hold, 19 cannot be compared`; absent verdicts are left out."""
    words = {
        HOLDS: "hold",
        FAILS: "do not hold",
        INCOMPARABLE: "cannot be compared",
        UNMEASURED: "were not measured here",
    }
    found = [row["verdict"] for row in audit]
    return ", ".join(f"{found.count(verdict)} {text}" for verdict, text in words.items() if verdict in found)


def qwen2_parameters() -> tuple[int, int]:
    """Count (trainable, all) parameters of Qwen2.5-1.5B, which ties its embeddings, with LoRA of rank 16 on q, k, v, o.

    The shape is the published one.
    """
    hidden, intermediate, layers, vocabulary, rank = 1536, 8960, 28, 151_936, 16
    kv = hidden // 12 * 2  # 12 heads of queries, 2 of keys and values
    projections = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
    lora = layers * sum(rank * (into + out) for into, out in projections)
    biases = hidden + 2 * kv  # q, k and v have a bias, o has none
    layer = sum(into * out for into, out in projections) + biases + 3 * hidden * intermediate + 2 * hidden
    return lora, vocabulary * hidden + layers * layer + hidden + lora


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
