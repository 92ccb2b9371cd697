"""Promises of reproducibility: which artefacts come out equal to the byte when they are made again, and which do not.

The one table; docs/reproduce.md shows it (a test compares them), `verify --replay` holds artefacts to it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from iot_pipeline.vocabulary import TRACKS, unstaged

Kind = Literal["bytes", "tolerance", "none"]


@dataclass(frozen=True)
class Promise:
    """Reproducibility of an asset that is made again from the same inputs, settings and code.

    here: on a machine of the same facts (iot_pipeline/machine.py). elsewhere: on others. tolerance: difference of its
    numbers that "tolerance" allows, relative to the larger one, or to 0.01 where both are smaller.
    """

    here: Kind
    elsewhere: Kind
    why: str
    tolerance: float = 0.0


ALWAYS = "integers, text and ordered sums; no clock, no order of threads"
FLOATS = "floating point: another processor or library adds in another order"
TRAINED = "training on another processor, library or number of threads takes another path from the first rounding on"
PROMISES: Mapping[str, Promise] = {
    **dict.fromkeys(
        ("raw_flows", "flows", "evaluation_split", "training_order", "flow_texts", "prompt"),
        Promise("bytes", "bytes", ALWAYS),
    ),
    **dict.fromkeys(
        ("dedup_report", "label_conflicts", "dataset_mismatch", "sample_comparison"), Promise("bytes", "bytes", ALWAYS)
    ),
    **dict.fromkeys(
        ("flow_profile", "attack_patterns", "leakage_report"), Promise("bytes", "tolerance", FLOATS, tolerance=1e-6)
    ),
    **dict.fromkeys(
        (*TRACKS, "validation_answers"), Promise("bytes", "bytes", "answers come from the store; nothing is asked")
    ),
    "zero_shot_teacher": Promise(
        "bytes", "tolerance", "answers come from the store; intervals are floating point", 1e-6
    ),
    "automl_baseline": Promise(
        "bytes", "tolerance", "the fixed configuration counts rounds, not seconds; IOT_AUTOML_PRESET others: none", 1e-2
    ),
    **dict.fromkeys(("baseline_probabilities", "pseudo_label_baseline"), Promise("bytes", "tolerance", FLOATS, 1e-2)),
    "base_model": Promise("bytes", "none", TRAINED),
    "training_split": Promise("bytes", "bytes", "token ids and masks"),
    "lora_checkpoint": Promise("bytes", "none", TRAINED + "; on a GPU not even there"),
    "data_grid": Promise("bytes", "none", TRAINED),
    "paper_protocol": Promise("bytes", "none", TRAINED),
    "eval_metrics": Promise("tolerance", "tolerance", "last digits of the detector of unknown flows move", 1e-3),
    "explanation_quality": Promise("bytes", "tolerance", FLOATS, tolerance=1e-3),
    "reasons": Promise(
        "tolerance", "tolerance", "differences of log-probabilities, of which the last digits move", 1e-3
    ),
    "unknown_detection": Promise("tolerance", "tolerance", FLOATS, 1e-3),
    "reason_baselines": Promise("bytes", "tolerance", FLOATS, tolerance=1e-3),
    "study": Promise("bytes", "tolerance", FLOATS, tolerance=1e-6),
    "inference_benchmark": Promise("none", "none", "it measures time"),
    **dict.fromkeys(
        ("track_comparison", "cost_report", "claims_audit", "model_card", "paper_report"),
        Promise("bytes", "bytes", "rendered from its inputs; pictures (PNG, SVG, PDF, report.html) apart"),
    ),
}


def promise_of(asset: str) -> Promise:
    """Return the promise of an asset; of one that the table does not know, none."""
    return PROMISES.get(unstaged(asset)[0], Promise("none", "none", "not in the table of promises"))


def table() -> Iterator[tuple[str, str, str, str]]:
    """Yield assets of one promise, promise on the same machine, promise elsewhere, and why, as the docs show them."""
    for promise in dict.fromkeys(PROMISES.values()):
        assets = ", ".join(f"`{name}`" for name, theirs in PROMISES.items() if theirs == promise)
        yield assets, _told(promise.here, promise), _told(promise.elsewhere, promise), promise.why


def _told(kind: Kind, promise: Promise) -> str:
    within = f"within {promise.tolerance:g}"
    return {"bytes": "equal to the byte", "tolerance": within, "none": "nothing"}[kind]
