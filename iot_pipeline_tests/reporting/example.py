"""A realistic context built in memory, with hostile text wherever data or a model could write.

Belongs here: the example. Does not belong here: assertions.
"""

from __future__ import annotations

import random
from typing import Any

from iot_pipeline.reporting.claims import claims_audit, load_claims
from iot_pipeline.reporting.comparison import track_comparison
from iot_pipeline.reporting.cost import cost_report
from iot_pipeline.reporting.measured import collect

HOSTILE = "<script>alert('x')</script>"
CLASSES = ["Normal", "Arp_Spoofing", "HTTP_Flood", "ICMP_Flood", "MQTT_Flood", "Port_Scanning", "TCP_Flood"]
TRACKS = ("original", "paraphrased", "feature_varied")
FEATURES = ["orig_pkts", "resp_pkts", "orig_ip_bytes", "flow_pkts_per_sec", "fwd_header_size_max", "flow_iat.avg"]
PUBLISHED = {
    "HTTP_Flood": 0.9723, "MQTT_Flood": 0.9716, "Port_Scanning": 0.9553, "Arp_Spoofing": 0.9139, "ICMP_Flood": 0.8591,
    "TCP_Flood": 0.4619, "Normal": 0.4116,
}  # fmt: skip


def evaluation(accuracy: float, spread: float = 0.008, ceiling: float = 0.972) -> dict[str, Any]:
    """An evaluate_predictions result whose distinct accuracy is `accuracy`."""
    matrix = [
        [200 * accuracy if i == j else 200 * (1 - accuracy) / 6 for j in range(7)] for i in range(7)
    ]
    bins = [
        {"weight": 90.0, "confidence": 0.55 + 0.029 * i, "accuracy": 0.5 + 0.031 * i} for i in range(15)
    ]

    def view(value: float, top: float) -> dict[str, Any]:
        return {
            "accuracy": value, "macro_f1": value - 0.04, "log_loss": 0.21, "brier": 0.1, "ece": 0.031,
            "reliability": bins, "weight": 1400.0, "records": 1450, "confusion": matrix, "ceiling": top,
            "share_of_ceiling": value / top,
            "per_class": {
                name: {"precision": 0.9, "recall": value, "f1": 0.91, "support": 200.0, "predicted": 198.0}
                for name in CLASSES
            },
            "intervals": {"accuracy": [value - spread, value + spread], "macro_f1": [value - 0.06, value - 0.02]},
            "calibrated": {"log_loss": 0.19, "brier": 0.09, "ece": 0.012, "reliability": bins},
        }  # fmt: skip

    return {
        "classes": CLASSES, "groups": 1400, "records": 1450, "resamples": 1000, "seed": 42, "temperature": 1.31,
        "views": {"row": view(accuracy - 0.02, 0.95), "distinct": view(accuracy, ceiling), "clean": view(accuracy + 0.01, 1.0)},
    }  # fmt: skip


def run(seed: int) -> dict[str, Any]:
    """training.json with its curve."""
    dice = random.Random(seed)
    curve = [{"step": n + 1, "loss": round(2.4 * 0.985**n + 0.35 + dice.uniform(-0.05, 0.05), 6)} for n in range(312)]
    return {
        "config": {
            "learning_rate": 0.002, "scheduler": "cosine", "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05,
            "lora_targets": ["q_proj", "k_proj", "v_proj", "o_proj"], "seed": 42,
        },
        "facts": {
            "processes": 1, "trainable_parameters": 98304, "total_parameters": 1_250_000, "rows": 10000,
            "distinct_rows": 4100, "steps": 312, "rows_per_step": 32, "rows_read": 9984, "tokens_read": 2_900_000,
            "first_loss": 2.7, "final_loss": 0.37, "validation_loss": 0.38 + 0.01 * seed,
        },
        "machine": {"device": "cpu"},
        "timings": {"setup_seconds": 3.0, "train_seconds": 71.2, "tokens_per_second": 40_700.0},
        "curve": curve,
    }  # fmt: skip


def duplicates() -> dict[str, Any]:
    """dedup_report JSON."""
    return {
        "rows": 347685,
        "raw": {"distinct": 51071, "duplicate_rows": 296614, "duplicate_share": 296614 / 347685},
        "text": {"distinct": 43210, "duplicate_rows": 304475, "duplicate_share": 304475 / 347685},
        "by_class": {
            name: {
                "rows": 57611, "distinct_raw": 2000, "distinct_text": 1900, "duplicate_share_raw": share,
                "duplicate_share_text": min(1.0, share + 0.02), "published_share": share,
            }
            for name, share in PUBLISHED.items()
        },
        "largest_groups": [], "group_sizes": [], "published": {"share": 0.8531},
    }  # fmt: skip


def conflicts() -> dict[str, Any]:
    """label_conflicts JSON."""
    matrix = [[0] * 7 for _ in CLASSES]
    matrix[2] = [0, 0, 48210, 0, 5120, 3100, 18]
    matrix[4] = [3, 0, 9800, 0, 41000, 2210, 0]
    matrix[5] = [0, 0, 4000, 0, 1200, 39000, 7]
    text = {
        "groups": 43210, "conflicting_groups": 312, "rows": 347685, "conflicting_rows": 151000,
        "unavoidable_errors": 25455, "row_ceiling": 0.9268, "distinct_ceiling": 0.996,
    }  # fmt: skip
    return {
        "rows": 347685, "classes": CLASSES, "text": text, "raw": text, "matrix": matrix, "pairs": [], "by_class": {},
        "ceilings": {"row": 0.9268, "distinct": 0.996, "clean": 1.0}, "largest": [],
    }  # fmt: skip


def leakage() -> dict[str, Any]:
    """leakage_report JSON."""
    def side(shared: float, row: float, unseen: float) -> dict[str, Any]:
        scores = {"row": row, "distinct": 0.9, "seen_rows": None, "never_seen_rows": unseen, "never_seen_distinct": 0.8}
        return {"shared_test_share": shared, "model": scores, "lookup": {**scores, "row": row - 0.1}, "row_ceiling": 0.93}

    return {"passed": True, "leak_free": side(0.0, 0.901, 0.901), "row_wise": side(0.918, 0.921, 0.88), "seed": 42}


def profile_rows() -> list[dict[str, Any]]:
    """The table of flow_profile as rows."""
    rows = []
    for number, feature in enumerate(FEATURES):
        rows.append({"class": "(all)", "feature": feature, "p25": 0.0, "median": 0.1, "p75": 1.0, "std": 1.0})
        for place, name in enumerate(CLASSES):
            middle = (place * (number + 1)) % 5 / 2
            rows.append(
                {"class": name, "feature": feature, "p25": middle - 0.4, "median": middle, "p75": middle + 0.7, "std": 0.5,
                 "published_median": middle + 0.1 if place == 1 else float("nan")}
            )  # fmt: skip
    return rows


def context() -> dict[str, Any]:
    """A full context: simulated flows, embedded teacher, tiny base, stage 10K."""
    evals = {f"10K|{track}": evaluation(0.921 + 0.004 * n) for n, track in enumerate(TRACKS)}
    baselines = {
        "10K": {"automl": evaluation(0.951), "lightgbm": evaluation(0.948), "hash_lookup": evaluation(0.31, 0.02)},
        "ALL": {"automl": evaluation(0.966), "lightgbm": evaluation(0.963), "hash_lookup": evaluation(0.31, 0.02)},
    }
    paired = [
        {
            "stage": "10K", "first": "paraphrased", "second": "original",
            "views": {"distinct": {"difference": 0.004, "interval": [-0.002, 0.01], "excludes_zero": False}},
            "mcnemar": {"only_first": 30, "only_second": 25, "p_exact": 0.59, "p_mid": 0.5}, "resamples": 1000, "seed": 42,
        }
    ]  # fmt: skip
    usage = {
        f"10K|{track}": {
            "rows": 10000, "requests": 4100, "distinct_requests": 4100 + 100 * n, "cached": 0, "prompt_tokens": 3_100_000,
            "completion_tokens": 560_000, "billed_usd": 0.0, "model": "embedded-analyst", "embedded": True, "quarantined": 2,
        }
        for n, track in enumerate(TRACKS)
    }  # fmt: skip
    answer = f"CLASSIFICATION: TCP_Flood\nANALYSIS: One packet, no answer {HOSTILE}\n\nKEY_INDICATORS: orig_pkts -0.068"
    found: dict[str, Any] = {
        "spec": {
            "name": "farm_flow", "title": f"Farm-Flow {HOSTILE}", "citation": "Ferreira et al.", "doi": "10.5281/zenodo.10964647",
            "licence": "as stated by the publisher",
        },
        "used": {
            "source": "simulate", "teacher": "embedded", "base_model": "tiny", "dataset": "farm_flow", "seed": 42,
            "serialisation": "values", "answer_order": "label_first", "automl_preset": "fixed",
        },
        "labels": [f"SIMULATED flows {HOSTILE}"],
        "dedup_report": duplicates(),
        "label_conflicts": conflicts(),
        "dataset_mismatch": {
            "checked": 121, "disagreeing": 2, "note": None, "agreements": [],
            "findings": [
                {"kind": "facts", "what": "sum of class_rows_prior_work against the stated rows", "expected": 347685,
                 "found": 347634, "difference": -51, "agrees": False, "source": "class_rows_prior_work"},
                {"kind": "data", "what": f"rows of {HOSTILE}", "expected": None, "found": 3, "difference": None,
                 "agrees": False, "source": "class_rows"},
            ],
        },
        "flow_profile": {"rows": 347685, "zero_variance": {"(all)": ["missed_bytes"]}, "table": profile_rows()},
        "attack_patterns": {
            "learned_on": "distinct flows of the train side", "measured_on": "test side",
            "classes": {
                name: {"rules": [{"text": "resp_pkts <= -0.5 (raw <= 0 packets) AND orig_pkts > -0.3 (raw > 0.5 packets)",
                                  "distinct": {"coverage": 0.93, "precision": None}}], "combined": None}
                for name in CLASSES
            },
        },
        "sample_comparison": {
            "rows": {name: [n] for n, name in enumerate(CLASSES)}, "marked": FEATURES[:4],
            "table": [
                {"class": name, "sample": 0, "row_id": 1, "feature": feature, "printed": "-0.068", "raw": 1.0,
                 "unit": "packets", "marked": True}
                for name in CLASSES for feature in FEATURES
            ],
        },
        "evaluation_split": {
            "seed": 42, "rows": {"train": 278101, "validation": 17380, "calibration": 17390, "test": 34814},
            "groups": {"train": 34568, "validation": 2160, "calibration": 2161, "test": 4321},
        },
        "training_order": {"rows": 278101},
        "leakage_report": leakage(),
        "prompts": {track: {"text": f"---\nmodel: gpt-4o-mini\n---\n{HOSTILE}", "version": "ab" * 32} for track in TRACKS},
        "tracks": {
            f"10K|{track}": {
                "report": {"rows": 10000, "distinct_answers": 4100, "label": HOSTILE},
                "examples": [{"prompt": "orig_pkts: -0.068\nresp_pkts: -0.500", "answer": answer}] * 3,
            }
            for track in TRACKS
        },
        "tensors": {
            f"10K|{track}": {"rows": 10000, "tokens": 2_900_000, "supervised_tokens": 800_000, "longest": 377,
                             "rows_label_and_end_supervised": 10000, "rows_cut": 0, "distinct_rows": 4100}
            for track in TRACKS
        },
        "base_model": {"kind": "tiny", "name": "model"},
        "training": {f"10K|{track}": run(n) for n, track in enumerate(TRACKS)},
        "evaluation": evals,
        "baselines": baselines,
        "explanations": {
            f"10K|{track}": {"aggregate": {"explained": 48, "numbers_grounded": 0.997, "features_real": 1.0, "directions_true": 0.98}}
            for track in TRACKS
        },
        "inference_benchmark": {
            "stage": "10K", "track": "original",
            "rungs": [
                {"rung": "label only, fp32, adapter, batch 1", "run": True, "reason": "", "device": "cpu", "flows": 40,
                 "seconds_p50": 0.021, "seconds_p95": 0.029, "flows_per_second": 46.0, "label_agreement": 1.0},
                {"rung": "label only, fp32, merged, batched", "run": True, "reason": "", "device": "cpu", "flows": 256,
                 "flows_per_second": 164.0, "label_agreement": 0.996},
                {"rung": "explanation, fp32, merged, batch 1", "run": True, "reason": "", "device": "cpu", "flows": 8,
                 "seconds_p50": 1.21, "seconds_p95": 1.63, "flows_per_second": 0.81},
                {"rung": f"explanation {HOSTILE}", "run": True, "reason": "", "device": "cpu", "flows": 32,
                 "flows_per_second": 12.1, "new_tokens_per_second": 1100.0, "ended_share": 1.0},
                {"rung": "vLLM engine", "run": False, "reason": "vLLM needs a CUDA GPU"},
            ],
        },
        "lineage": [
            {"asset": f"lora_checkpoint/{stage}", "partition": f"{stage}|{track}", "data_version": "0123456789ab" * 5, "code_version": "1",
             "prompts": {track: "ab" * 32}, "inputs": {}, "settings": {"learning_rate": 0.002, "lora_r": 16}, "seed": 42,
             "code_commit": "abc123", "run_id": "11111111-2222"}
            for stage in ("10K",) for track in TRACKS
        ],
    }  # fmt: skip
    found["track_comparison"] = track_comparison(evals, baselines, paired, {"10K": 10000, "ALL": 278101})
    found["cost_report"] = cost_report(usage, {"original": 150, "paraphrased": 200, "feature_varied": 211})
    found["claims_audit"] = claims_audit(load_claims(), *collect(found))
    return found
