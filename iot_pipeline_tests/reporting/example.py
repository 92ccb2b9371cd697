"""A realistic context built in memory, with hostile text wherever data or a model could write."""

from __future__ import annotations

import random
from typing import Any

from iot_pipeline.reporting.gather import Run

HOSTILE = "<script>alert('x')</script>"
CLASSES = ["Normal", "Arp_Spoofing", "HTTP_Flood", "ICMP_Flood", "MQTT_Flood", "Port_Scanning", "TCP_Flood"]
TRACKS = ("original", "paraphrased", "feature_varied")
FEATURES = ["orig_pkts", "resp_pkts", "orig_ip_bytes", "flow_pkts_per_sec", "fwd_header_size_max", "flow_iat.avg"]
PUBLISHED = {
    "HTTP_Flood": 0.9723,
    "MQTT_Flood": 0.9716,
    "Port_Scanning": 0.9553,
    "Arp_Spoofing": 0.9139,
    "ICMP_Flood": 0.8591,
    "TCP_Flood": 0.4619,
    "Normal": 0.4116,
}
POPULATION = {
    "rows": 1000,
    "seen_share": 0.5,
    "seen_groups": 3,
    "seen_ceiling": 0.8,
    "seen_lookup": 0.7,
    "unseen_ceiling": 0.95,
    "ceiling": 0.875,
}


def student_evaluation(accuracy: float, validation: float | None = None) -> dict[str, Any]:
    """The evaluation of a student, with that of the validation side."""
    alarms = {alarm: {"share": float(alarm) * 1.1, "by_class": dict.fromkeys(CLASSES)} for alarm in ("0.01", "0.05")}
    unknown = {"score": "features+whitened", "means": {}, "false_alarms": alarms}
    validation = accuracy if validation is None else validation
    return evaluation(accuracy) | {"validation": evaluation(validation), "unknown": unknown}


def evaluation(accuracy: float, spread: float = 0.008, ceiling: float = 0.972) -> dict[str, Any]:
    """An evaluate_predictions result whose distinct accuracy is `accuracy`, and HTTP_Flood's recall half of it."""
    matrix = [[200 * accuracy if i == j else 200 * (1 - accuracy) / 6 for j in range(7)] for i in range(7)]
    bins = [{"weight": 90.0, "confidence": 0.55 + 0.029 * i, "accuracy": 0.5 + 0.031 * i} for i in range(15)]

    def view(value: float, top: float) -> dict[str, Any]:
        return {
            "accuracy": value,
            "macro_f1": value - 0.04,
            "log_loss": 0.21,
            "brier": 0.1,
            "ece": 0.031,
            "reliability": bins,
            "weight": 1400.0,
            "records": 1450,
            "confusion": matrix,
            "ceiling": top,
            "share_of_ceiling": value / top,
            "per_class": {
                name: {
                    "precision": 0.9,
                    "recall": value / (1 + (name == "HTTP_Flood")),
                    "f1": 0.91,
                    "support": 200.0,
                    "predicted": 198.0,
                    "effective_size": 180.5,
                }
                for name in CLASSES
            },
            "intervals": {"accuracy": [value - spread, value + spread], "macro_f1": [value - 0.06, value - 0.02]},
            "calibrated": {"log_loss": 0.19, "brier": 0.09, "ece": 0.012, "reliability": bins},
        }

    return {
        "classes": CLASSES,
        "groups": 1400,
        "records": 1450,
        "resamples": 1000,
        "seed": 42,
        "temperature": 1.31,
        "views": {
            "row": view(accuracy - 0.02, 0.95),
            "distinct": view(accuracy, ceiling),
            "clean": view(accuracy + 0.01, 1.0),
        },
    }


def automl(preset: str, model: str, seconds: float) -> dict[str, Any]:
    """What AutoML's evaluation holds of its models, and its timings."""
    return {
        "model": {
            "config": {"preset": preset, "seconds": 600, "seed": 42, "cores": 2},
            "reproducible": preset == "fixed",
            "models": [{"model": model, "validation_log_loss": 0.2}],
            "importances": {"orig_pkts": 0.4, "resp_pkts": 0.1, "flow_iat.avg": -0.01},
        },
        "timings": {"total_s": seconds},
        "calibration": {"temperature": 1.31, "log_loss_before": 0.22, "log_loss_after": 0.2},
    }


def run(seed: int) -> Run:
    """A training with its curve."""
    dice = random.Random(seed)
    curve = [{"step": n + 1, "loss": round(2.4 * 0.985**n + 0.35 + dice.uniform(-0.05, 0.05), 6)} for n in range(312)]
    return Run(
        config={
            "learning_rate": 0.002,
            "scheduler": "cosine",
            "lora_r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.05,
            "lora_targets": ["q_proj", "k_proj", "v_proj", "o_proj"],
            "seed": 42,
        },
        facts={
            "processes": 1,
            "trainable_parameters": 98304,
            "total_parameters": 1_250_000,
            "rows": 10000,
            "distinct_rows": 4100,
            "steps": 312,
            "rows_per_step": 32,
            "rows_read": 9984,
            "tokens_read": 2_900_000,
            "first_loss": 2.7,
            "final_loss": 0.37,
            "validation_loss": 0.38 + 0.01 * seed,
        },
        timings={"setup_seconds": 3.0, "train_seconds": 71.2, "tokens_per_second": 40_700.0},
        curve=curve,
    )


def duplicates() -> dict[str, Any]:
    """dedup_report JSON."""
    return {
        "rows": 347685,
        "raw": {"distinct": 51071, "duplicate_rows": 296614, "duplicate_share": 296614 / 347685},
        "text": {"distinct": 43210, "duplicate_rows": 304475, "duplicate_share": 304475 / 347685},
        "by_class": {
            name: {
                "rows": 57611,
                "distinct_raw": 2000,
                "distinct_text": 1900,
                "duplicate_share_raw": share,
                "duplicate_share_text": min(1.0, share + 0.02),
                "published_share": share,
            }
            for name, share in PUBLISHED.items()
        },
        "largest_groups": [],
        "group_sizes": [],
        "published": {"share": 0.8531},
    }


def conflicts() -> dict[str, Any]:
    """label_conflicts JSON."""
    matrix = [[0] * 7 for _ in CLASSES]
    matrix[2] = [0, 0, 48210, 0, 5120, 3100, 18]
    matrix[4] = [3, 0, 9800, 0, 41000, 2210, 0]
    matrix[5] = [0, 0, 4000, 0, 1200, 39000, 7]
    text = {
        "groups": 43210,
        "conflicting_groups": 312,
        "rows": 347685,
        "conflicting_rows": 151000,
        "unavoidable_errors": 25455,
        "row_ceiling": 0.9268,
        "distinct_ceiling": 0.996,
    }
    return {
        "rows": 347685,
        "classes": CLASSES,
        "text": text,
        "raw": text,
        "matrix": matrix,
        "pairs": [],
        "by_class": {},
        "ceilings": {"row": 0.9268, "distinct": 0.996, "clean": 1.0},
        "largest": [],
    }


def leakage() -> dict[str, Any]:
    """leakage_report JSON."""

    def side(shared: float, row: float, unseen: float) -> dict[str, Any]:
        scores = {"row": row, "distinct": 0.9, "seen_rows": None, "never_seen_rows": unseen, "never_seen_distinct": 0.8}
        return {
            "shared_test_share": shared,
            "model": scores,
            "lookup": {**scores, "row": row - 0.1},
            "row_ceiling": 0.93,
        }

    found = {"test_flows": 4321, "median": 2.0, "within": {"1": 0.402, "3": 0.731}}
    near = {"features": 29, "train_flows": 34568, **found, "by_class": {"HTTP_Flood": {**found, "test_flows": 77}}}
    protocols = {"leak_free": side(0.0, 0.901, 0.901), "row_wise": side(0.918, 0.921, 0.88)}
    return {"passed": True, **protocols, "seed": 42, "near_duplicates": near}


def profile_rows() -> list[dict[str, Any]]:
    """The table of flow_profile as rows."""
    rows = []
    for number, feature in enumerate(FEATURES):
        rows.append({"class": "(all)", "feature": feature, "p25": 0.0, "median": 0.1, "p75": 1.0, "std": 1.0,
                     "max": 9.0, "outlier_share": 0.3})  # fmt: skip
        for place, name in enumerate(CLASSES):
            middle = (place * (number + 1)) % 5 / 2
            rows.append(
                {
                    "class": name,
                    "feature": feature,
                    "p25": middle - 0.4,
                    "median": middle,
                    "p75": middle + 0.7,
                    "std": 0.5,
                    "max": 9.0,
                    "outlier_share": 0.01 * place * (number == 1),
                    "published_median": middle + 0.1 if place == 1 else float("nan"),
                }
            )
    return rows


def study(seeds: int) -> dict[str, Any]:
    """study.json of two tracks and AutoML at 10K."""
    several = seeds > 1
    metric = {"mean": 0.93, "spread": 0.004 if several else None, "low": 0.92, "high": 0.94, "by_seed": [0.93] * seeds}
    row = {
        "difference": 0.004,
        "low": -0.002,
        "high": 0.01,
        "spread": 0.005 if several else None,
        "p": 0.19 if several else None,
        "p_holm": 0.76 if several else None,
        "p_equivalent": 0.4 if several else None,
        "verdict": "no difference shown" if several else "one seed: no verdict",
    }
    pairs = [("paraphrased 10K", "original 10K"), ("original 10K", "AutoML 10K")]
    arms = ("original 10K", "paraphrased 10K", "AutoML 10K")
    return {
        "view": "distinct",
        "seeds": seeds,
        "least_seeds": 5,
        "margin": 0.005,
        "level": 0.05,
        "resamples": 2000,
        "arms": {name: dict.fromkeys(("accuracy", "macro_f1", "lowest_recall"), metric) for name in arms},
        "contrasts": [
            {"first": a, "second": b, "metric": name, **row} for a, b in pairs for name in ("accuracy", "macro_f1")
        ],
        "left_out": [],
        "explanations": [
            {
                "arm": "original 10K",
                "way": way,
                "seeds": seeds,
                "faultless": {"mean": share, "spread": 0.0125},
                "numbers_grounded": {"mean": 0.8642, "spread": 0.011},
                "values_true": {"mean": 0.7842, "spread": 0.013},
                "directions_true": None,
            }
            for way, share in (("free", 0.4812), ("grounded", 0.9712))
        ],
    }


def zero_shot(embedded: bool) -> dict[str, Any]:
    """zero_shot.json of a teacher, compared with one student."""
    found = study(3)
    metrics, (row, *_) = found["arms"]["original 10K"], found["contrasts"]
    pair = {"first": "original 10K", "second": "zero-shot some-model", "metric": "accuracy"}
    outcomes = {"named a class": 190, "no valid class": 9, "refused": 1}
    told = {"asked": 200, "outcomes": outcomes, "embedded": embedded, "teacher": "zero-shot some-model", "left_out": []}
    arms = dict.fromkeys(("zero-shot some-model", "original 10K"), metrics)
    return found | told | {"arms": arms, "contrasts": [row | pair]}


def measured(name: str, value: float) -> dict[str, Any]:
    """Row of a measure of right reasons."""
    told = {"value": value, "low": value - 0.1, "high": value + 0.1, "chance": 0.25, "other_class": None}
    return {"measure": name, "explanations": 48, **told}


def reasons() -> dict[str, Any]:
    """reasons.json of a student that the template beats in one measure."""
    verdict = {
        "measure": "evidence_share",
        "flows": 48,
        "difference": -0.2,
        "low": -0.3,
        "high": -0.1,
        "p_holm": 0.001,
        "verdict": "worse",
    }
    flow = "orig_pkts: -0.068 p45"
    return {
        "explanations": 48,
        "deletion_flows": 48,
        "measures": {
            who: [measured("evidence_share", n / 10)] for n, who in enumerate(("student", "template", "tree"))
        },
        "verdicts": {"template": [verdict], "tree": []},
        "sentences": {"template": f"Over 48 flows the student is worse in evidence share {HOSTILE}."},
        "not_judged": {"explanations": 3, "reason": "cannot be judged: the spec has no expected evidence"},
        "human": {"source": "arXiv 2604.22001", "right_class": 0.83, "right_class_and_reason": 0.39},
        "examples": [{"flow": flow, "student": HOSTILE, "template": "orig_pkts -0.068", "tree": "orig_pkts -0.068"}],
    }
