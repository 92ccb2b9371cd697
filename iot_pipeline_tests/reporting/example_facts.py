"""The facts of a whole example lake: every part of a report, hostile text included."""

from __future__ import annotations

from typing import Any

from iot_pipeline.inference.projection import projection
from iot_pipeline.reporting.claims import claims_audit, load_claims
from iot_pipeline.reporting.comparison import track_comparison
from iot_pipeline.reporting.cost import cost_report
from iot_pipeline.reporting.gather import DataSet, Example, Facts, Origin, Prompt, Track, Used
from iot_pipeline.reporting.measurements import collect
from iot_pipeline.vocabulary import Partition
from iot_pipeline_tests.reporting.audited import protocol
from iot_pipeline_tests.reporting.example import (
    CLASSES,
    FEATURES,
    HOSTILE,
    POPULATION,
    TRACKS,
    automl,
    conflicts,
    duplicates,
    evaluation,
    leakage,
    measured,
    profile_rows,
    reasons,
    run,
    student_evaluation,
    study,
    zero_shot,
)


def make_facts() -> Facts:
    """All facts of a lake with simulated flows, the embedded teacher, a tiny base and stage 10K."""
    students = {track: Partition("10K", track) for track in TRACKS}
    evals = {students[track]: student_evaluation(0.921 + 0.004 * n) for n, track in enumerate(TRACKS)}
    baselines = {
        "10K": {
            "automl": evaluation(0.951) | automl("fixed", "XGBoost", 22.0),
            "lightgbm": evaluation(0.948),
            "hash_lookup": evaluation(0.31, 0.02),
        },
        "ALL": {
            "automl": evaluation(0.966) | automl("fixed", "LightGBM", 54.1),
            "automl_best_quality": evaluation(0.967) | automl("best_quality", "LightGBMXT_BAG_L1", 615.0),
            "lightgbm": evaluation(0.963),
            "hash_lookup": evaluation(0.31, 0.02),
        },
    }
    usage = {
        students[track]: {
            "rows": 10000,
            "requests": 4100,
            "distinct_requests": 4100 + 100 * n,
            "prompt_tokens": 3_100_000,
            "completion_tokens": 560_000,
            "billed_usd": 0.0,
            "model": "embedded-analyst",
            "embedded": True,
            "quarantined": 2,
        }
        for n, track in enumerate(TRACKS)
    }
    answer = f"CLASSIFICATION: TCP_Flood\nANALYSIS: One packet, no answer {HOSTILE}\n\nKEY_INDICATORS: orig_pkts -0.068"
    found: dict[str, Any] = {
        "data_set": {
            "name": "farm_flow",
            "title": f"Farm-Flow {HOSTILE}",
            "citation": "Ferreira et al.",
            "doi": "10.5281/zenodo.10964647",
            "licence": "as stated by the publisher",
            "scaling": "given",
            "scaling_note": f"Scaled before any split {HOSTILE}",
            "facts": {
                "zscored_3_decimals": {
                    "row_split_prompt_leak": 0.918,
                    "random_forest_distinct": {"accuracy": 0.973, "macro_f1": 0.77},
                },
                "binary_test_f1": {"random_forest": 0.9224},
            },
        },
        "used": {
            "source": "simulate",
            "teacher": "embedded",
            "base_model": "tiny",
            "dataset": "farm_flow",
            "seed": 42,
            "serialisation": "ranked",
            "answer_order": "label_first",
            "automl_preset": "fixed",
        },
        "labels": [f"SIMULATED flows {HOSTILE}"],
        "dedup_report": duplicates(),
        "label_conflicts": conflicts(),
        "raw_flows": {
            "rows": 347685,
            "rejected": {"too many columns": 2},
            "files": [{"name": f"flows{HOSTILE}.csv", "rows": 347685, "sha256": "ab" * 32}],
        },
        "flows": {"rows_kept": 347680, "rejected": {HOSTILE: 5}, "left_out": {}},
        "dataset_mismatch": {
            "checked": 121,
            "disagreeing": 2,
            "note": None,
            "agreements": [],
            "findings": [
                {
                    "kind": "facts",
                    "what": "sum of class_rows_prior_work against the stated rows",
                    "expected": 347685,
                    "found": 347634,
                    "difference": -51,
                    "agrees": False,
                    "source": "class_rows_prior_work",
                },
                {
                    "kind": "data",
                    "what": f"rows of {HOSTILE}",
                    "expected": None,
                    "found": 3,
                    "difference": None,
                    "agrees": False,
                    "source": "class_rows",
                },
            ],
        },
        "flow_profile": {
            "rows": 347685,
            "zero_variance": {"(all)": ["missed_bytes"]},
            "scales": {
                "orig_pkts": {"recovered": {"quantum": 0.4735, "share_on_grid": 1.0}},
                "flow_iat.avg": {"recovered": None},
            },
            "table": profile_rows(),
        },
        "attack_patterns": {
            "learned_on": "distinct flows of the train side",
            "measured_on": "test side",
            "classes": {
                name: {
                    "rules": [
                        {
                            "text": ("resp_pkts <= -0.5 (raw <= 0 packets) AND orig_pkts > -0.3 (raw > 0.5 packets)"),
                            "distinct": {"coverage": 0.93, "precision": None},
                            "row": {"coverage": 0.9, "precision": None},
                        }
                    ],
                    "combined": None,
                }
                for name in CLASSES
            },
            "prior_rules": [
                {
                    "classes": [CLASSES[0]],
                    "text": "orig_pkts <= 5",
                    "source": f"published {HOSTILE}",
                    "distinct": {"coverage": 1.0, "precision": 0.99},
                    "row": {"coverage": 1.0, "precision": 0.99},
                }
            ],
        },
        "sample_comparison": {
            "rows": {name: [n] for n, name in enumerate(CLASSES)},
            "marked": FEATURES[:4],
            "table": [
                {
                    "class": name,
                    "sample": 0,
                    "row_id": 1,
                    "feature": feature,
                    "value": -0.068,
                    "printed": "-0.068",
                    "raw": 1.0,
                    "unit": "packets",
                    "marked": True,
                }
                for name in CLASSES
                for feature in FEATURES
            ],
        },
        "evaluation_split": {
            "seed": 42,
            "rows": {"train": 278101, "validation": 17380, "calibration": 17390, "test": 34814},
            "groups": {"train": 34568, "validation": 2160, "calibration": 2161, "test": 4321},
            "row_ceiling": {"train": 0.83, "test": 0.99},
            "by_class": {
                side: {name: {"groups": groups} for name in CLASSES} for side, groups in (("train", 9), ("test", 3))
            },
        },
        "leakage_report": leakage(),
        "prompts": {track: Prompt(f"---\nmodel: gpt-4o-mini\n---\n{HOSTILE}", "ab" * 32) for track in TRACKS},
        "tracks": {
            students[track]: Track(
                report={"rows": 10000, "distinct_answers": 4100, "label": HOSTILE},
                examples=[Example("orig_pkts: -0.068\nresp_pkts: -0.500", answer)] * 3,
            )
            for track in TRACKS
        },
        "tensors": {
            students[track]: {
                "rows": 10000,
                "tokens": 2_900_000,
                "supervised_tokens": 800_000,
                "longest": 377,
                "rows_label_and_end_supervised": 10000,
                "rows_cut": 0,
                "distinct_rows": 4100,
            }
            for track in TRACKS
        },
        "base_model": {
            "kind": "tiny",
            "name": "model",
            "pool": "train",
            "pool_rows": 278101,
            "pool_flows": 34568,
            "read_flows": 30000,
        },
        "training": {students[track]: run(n) for n, track in enumerate(TRACKS)},
        "evaluation": evals,
        "study": study(3),
        "zero_shot_teacher": zero_shot(embedded=True),
        "baselines": baselines,
        "explanations": {
            students[track]: {
                "aggregate": {
                    "explained": 48,
                    "numbers_grounded": 0.997,
                    "features_real": 1.0,
                    "directions_true": 0.98,
                },
                "grounded": {"aggregate": {"explained": 48, "numbers_grounded": 1.0}},
                "items": [{"cited_features": ["orig_pkts", "flow_iat.avg"]}, {"cited_features": ["resp_pkts"]}],
            }
            for track in TRACKS
        },
        "reasons": {students[track]: reasons() for track in TRACKS},
        "reason_baselines": {
            "10K": {"flows": 48, "tree_depth": 5, "teacher": {"measures": [measured("faultless", 1.0)]}}
        },
        "paper_protocol": protocol(True, scorable=False, named=False),
        "inference_benchmark": {
            "stage": "10K",
            "track": "original",
            "old_way": {
                "measured": True,
                "old_way": "explanation, fp32, batch 1, 512 tokens (the old way)",
                "best": "label only, openvino-bf16, batched",
                "times": 1400.0,
                "times_cpu": 1499.4,
            },
            "profiles": {
                "balanced": {
                    "offered": True,
                    "engine": "openvino-fp32",
                    "times_reference": 1.7,
                    "agreement": 1.0,
                    "flows": 2048,
                },
                "aggressive": {"offered": False, "reason": "compared on 540 flows; 99.9 % needs 1,000"},
            },
            "projection": projection()[:2],
            "variants": [
                {
                    "name": "label only, fp32, adapter, batch 1",
                    "run": True,
                    "reason": "",
                    "device": "cpu",
                    "flows": 40,
                    "seconds_p50": 0.021,
                    "seconds_p95": 0.029,
                    "flows_per_second": 46.0,
                    "label_agreement": 1.0,
                },
                {
                    "name": "label only, fp32, merged, batched",
                    "run": True,
                    "reason": "",
                    "device": "cpu",
                    "flows": 256,
                    "flows_per_second": 164.0,
                    "label_agreement": 0.996,
                },
                {
                    "name": "explanation, fp32, merged, batch 1",
                    "run": True,
                    "reason": "",
                    "device": "cpu",
                    "flows": 8,
                    "seconds_p50": 1.21,
                    "seconds_p95": 1.63,
                    "flows_per_second": 0.81,
                },
                {
                    "name": f"explanation {HOSTILE}",
                    "run": True,
                    "reason": "",
                    "device": "cpu",
                    "flows": 32,
                    "flows_per_second": 12.1,
                    "new_tokens_per_second": 1100.0,
                    "ended_share": 1.0,
                },
                {"name": "vLLM engine", "run": False, "reason": "vLLM needs a CUDA GPU"},
            ],
        },
        "lineage": [
            Origin(
                asset="lora_checkpoint_10K",
                partition=f"42|{track}",
                data_version="0123456789ab" * 5,
                code_version="1",
                prompts={track: "ab" * 32},
                settings={"learning_rate": 0.002, "lora_r": 16},
                seed=42,
                code_commit="abc123",
                run_id="11111111-2222",
            )
            for track in TRACKS
        ],
    }
    facts = Facts(**found | {"data_set": DataSet(**found["data_set"]), "used": Used(**found["used"])})
    facts.track_comparison = track_comparison(
        evals, baselines, facts.study, {"10K": 10000, "ALL": 278101}, {"10K": POPULATION, "ALL": POPULATION}
    )
    facts.cost_report = cost_report(usage, {"original": 150, "paraphrased": 200, "feature_varied": 211})
    facts.claims_audit = claims_audit(load_claims(), *collect(facts))
    return facts
