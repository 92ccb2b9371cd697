"""Lakes made for the audit: one in which the claims hold, one in which they fail, one with other flows and models."""

from __future__ import annotations

from typing import Any, Literal

from iot_pipeline.reporting.gather import DataSet, Facts, Run, Track, Used
from iot_pipeline.vocabulary import STAGES, TRACKS, Partition
from iot_pipeline_tests.reporting.example import PUBLISHED

Kind = Literal["right", "wrong", "simulated"]
LENGTHS = {"original": 4800.0, "paraphrased": 5289.0, "feature_varied": 4350.0}
DOLLARS = {"original": 150.0, "paraphrased": 200.0, "feature_varied": 211.0}
CHANGED = {"original": "original", "paraphrased": "paraphrase", "feature_varied": "varied"}


def make_lake(kind: Kind) -> Facts:
    """Facts of a lake: `right` and `wrong` are of real Farm-Flow, gpt-4o-mini and Qwen2.5-1.5B up to stage ALL."""
    right = kind != "wrong"
    real = kind != "simulated"
    return Facts(
        data_set=DataSet(name="farm_flow"),
        used=Used(
            dataset="farm_flow",
            source="Farm-Flow_*.csv" if real else "simulate",
            teacher="openai" if real else "embedded",
            base_model="Qwen/Qwen2.5-1.5B-Instruct" if real else "tiny",
        ),
        tracks={Partition(stage, track): increment(track, right) for track in TRACKS for stage in sorted(STAGES)},
        cost_report={"rows": [cost(track, stage, right) for track in TRACKS for stage in sorted(STAGES)]},
        training=trainings(right),
        evaluation={
            Partition("10K", "original"): student(0.96 if right else 0.90, validation=0.97),
            Partition("10K", "paraphrased"): student(0.90 if right else 0.99, validation=0.80),
        },
        baselines={"ALL": {"automl": automl(right)}},
        dedup_report=duplicates(right, PUBLISHED),
        dataset_mismatch={
            "findings": [
                {
                    "kind": "facts",
                    "what": "sum of class_rows_prior_work against the stated rows",
                    "found": 347685 if right else 347634,
                }
            ],
            "agreements": [],
        },
        label_conflicts={
            "classes": list(PUBLISHED),
            "ceilings": {"row": 0.98 if right else 1.0},
            "raw": {"row_ceiling": 0.98 if right else 0.9},
        },
        leakage_report={"row_wise": {"shared_test_share": 0.9 if right else 0.1}},
        evaluation_split={"rows": {"train": 278101}},
        paper_protocol=protocol(right, scorable=real, named=real and right),
        inference_benchmark={"variants": speeds(right, "NVIDIA H100 80GB HBM3" if real else "cpu")},
    )


def increment(track: str, right: bool) -> Track:
    """One stage's increment of a track, a fifth of its rows."""
    length = LENGTHS[track] * (1 if right else 1.5)
    report = {"rows": 1000, "kinds": {CHANGED[track]: 900, "original": 100}}
    return Track(report=report, usage={"model": "gpt-4o-mini-2024-07-18"}, answer_characters_mean=length)


def cost(track: str, stage: str, right: bool) -> dict[str, Any]:
    """A fifth of the track's dollars; in the wrong lake each increment costs what the whole track is said to."""
    return {"track": track, "stage": stage, "billed_usd": DOLLARS[track] / (len(STAGES) if right else 1)}


def trainings(right: bool) -> dict[Partition, Run]:
    """Losses whose ratio at the last stage, 150K, differs from that at 30K, which comes last among strings."""
    losses = {"original": 0.344, "paraphrased": 0.1, "feature_varied": 0.11}
    found = {}
    for stage in sorted(("10K", "30K", "150K", "ALL")):
        for track in TRACKS if stage != "ALL" else ("original",):
            holds = right == (stage == "150K") or track == "original"
            found[Partition(stage, track)] = Run({"validation_loss": losses[track] if holds else 0.3})
    return found


def student(accuracy: float, validation: float) -> dict[str, Any]:
    return {"views": {"row": {"accuracy": accuracy}}, "validation": {"views": {"distinct": {"accuracy": validation}}}}


def automl(right: bool) -> dict[str, Any]:
    """AutoML whose row split has the claimed accuracy and F1 only if those apart from training are not the claimed."""
    apart, split = (0.93, 0.967) if right else (0.9695, 0.99)
    f1_apart, f1_split = (0.89, 0.91) if right else (0.91, 0.89)
    return {
        "classes": list(PUBLISHED),
        "views": {"row": {"accuracy": apart, "macro_f1": f1_apart}},
        "row_split": {"accuracy": split, "macro_f1": f1_split, "shared_test_share": 0.9},
    }


def duplicates(right: bool, by_class: dict[str, float], rows: int = 347685) -> dict[str, Any]:
    """dedup_report JSON."""
    distinct, off = (51071, 0.0) if right else (50000, 0.1)
    return {
        "rows": rows if right else rows - 1,
        "raw": {"distinct": distinct, "duplicate_share": 1 - distinct / 347685},
        "by_class": {name: {"duplicate_share_raw": share - off} for name, share in by_class.items()},
    }


def protocol(right: bool, scorable: bool, named: bool) -> dict[str, Any]:
    """paper_protocol JSON. scorable: the cut arms were trained; named: no class is named behind the cut."""
    cut = {"accuracy": 0.3 if right else 0.65, "interval": [0.2, 0.7], "where": "from the answer it writes"}
    none = {"accuracy": None, "interval": None, "where": "cannot be scored: no class token is trained"}
    arms = {
        "paper": {**cut, "accuracy": 0.25} if scorable else none,
        "paper_rows_our_recipe": cut if scorable else none,
        "paper_rows_uncut": {**cut, "accuracy": 0.5 if right else 0.64},
        # With the label's weight, which is ours, the wrong lake would lose more than 0.05.
        "our_rows_label_weight_1": {**cut, "accuracy": 0.66},
        "leak_free": {**cut, "accuracy": 0.95},
    }
    share = 0.0 if named else 1.0
    rows = {"answer_kept_share": 0.22, "prompt_tokens_mean": 101.0, "row_tokens_mean": 1900.0}
    return {
        "long_answers": {
            **rows,
            "rows": 64,
            "limit": 512,
            "rows_cut_share": 1.0 if right else 0.1,
            "label_survives_share": 0.0 if right else 0.9,
            "class_named_share": share,
            "prompt_share_of_loss": 0.7 if right else 0.3,
        },
        "long_answers_by_ours": {"rows": 64, "rows_cut": 0, "rows_label_and_end_supervised": 64, "longest": 2100},
        "paper": {**rows, **trained(0.0, share), "end_supervised_share": 0.0 if right else 0.5},
        "paper_uncut": {**rows, **trained(1.0, 1.0), "end_supervised_share": 0.0},
        "leak_free": {"rows": 2048, "rows_label_and_end_supervised": 2048},
        "held_out_rows": 512,
        "held_out_prompts_seen_share": 0.8 if right else 0.2,
        "scored_flows": 990,
        "tokenizer": "qwen2.5-tokenizer",
        "variation": {
            "features": ["orig_pkts"],
            "count_values": 500,
            "not_whole_share": 0.97 if right else 0.1,
            "not_whole_before": 0.0,
            "values": 2000,
            "zero_share": 0.25,
        },
        "majority": {"class": "Normal", "accuracy": 0.4},
        "arms": [{"arm": name, **found} for name, found in arms.items()],
    }


def trained(label: float, named: float) -> dict[str, Any]:
    """Statistics of tensors of the old protocol by the shares of rows that keep their line and name their class."""
    return {
        "rows": 2048,
        "label_survives_share": label,
        "class_named_share": named,
        "class_told_share": named,
        "prompt_share_of_loss": 0.6,
    }


def speeds(right: bool, device: str) -> list[dict[str, Any]]:
    """Variants of the inference benchmark: the old way and another timed call by call, the others by throughput."""
    seconds = {"bf16": 1.0, "int8": 0.5, "int4": 0.3}
    common = {"run": True, "device": device}
    old = "explanation, fp32, batch 1, 512 tokens (the old way)"
    timed = {**common, "name": old, "seconds_p50": 47.0 if right else 9.0}
    ours = {**common, "name": "explanation, fp32, batch 1, stop at end of turn", "seconds_p50": 9.0 if right else 47.0}
    return [timed, ours] + [
        {**common, "name": f"explanation, {kind}, batched", "flows_per_second": 1 / (each * (1 if right else 3))}
        for kind, each in seconds.items()
    ]
