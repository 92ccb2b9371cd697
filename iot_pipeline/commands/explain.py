"""`iot-pipeline explain`: class and explanation of each flow in a file, by a trained student."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iot_pipeline.commands.checkpoint import open_classifier, words_of_expressions
from iot_pipeline.errors import UserError
from iot_pipeline.flows.unlabelled import read_unlabelled
from iot_pipeline.lake.atomic import replacing
from iot_pipeline.serving.classifier import Verdict
from iot_pipeline.settings import Settings

Log = Callable[[str], None]


def explain(
    settings: Settings, stage: str, track: str, flows: str, out: Path, classes_only: bool, log: Log
) -> dict[str, Any]:
    """Explain the flows of a file with a trained student, and write one line of JSON per row.

    A line has row (from 1), class (`unknown` for a flow of no class that the student learnt, with `unknown_because`),
    `nearest_class` and its probability, `set`: the classes that cannot be ruled out (conformal.py, at 0.95; []
    if none is likely enough), and `out_of_range`: the features whose value no row of the train pool reaches. With
    explanations also answer, decoding (IOT_DECODING), and `unsupported`: the statements of the answer that the flow
    does not support, [] if it supports all.

    Args:
        settings: The present settings.
        stage: Stage of the checkpoint.
        track: Track of the checkpoint.
        flows: Files as in IOT_SOURCE.
        out: File to write.
        classes_only: True to write no explanations.
        log: Called with each line of progress.

    Returns:
        Facts about the file: rows, classes, decoding, supported explanations, calibration, data versions, labels.

    Raises:
        UserError: The checkpoint does not exist or has other settings, a flow is invalid, or `out` exists.
    """
    if out.exists():
        raise UserError(f"{out} already exists; name a new file")
    with replacing(out) as temporary:
        temporary.touch()  # a place that cannot be written is told before hours of work
        classifier = open_classifier(settings, stage, track, log)
        table = read_unlabelled(classifier.spec, flows, log, words_of_expressions(settings, classifier.spec))
        distinct = table.drop_duplicates("flow_group")
        verdicts = classifier.classify(distinct, log)
        if not classes_only:
            log(f"{len(distinct):,} distinct flows")
            verdicts = classifier.explain(distinct, verdicts, log)
        by_group = dict(zip(distinct["flow_group"], verdicts, strict=True))
        told = {group: line(verdict) for group, verdict in by_group.items()}
        lines = ({"row": row, **told[group]} for row, group in enumerate(table["flow_group"], 1))
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        temporary.write_text(text, encoding="utf-8")
    counts = table["flow_group"].map(lambda group: by_group[group].name).value_counts()
    borne_out = sum(verdict.explanation is not None and not verdict.explanation.unsupported for verdict in verdicts)
    fitted, groups = classifier.fitted, table["flow_group"]
    return {
        "file": str(out), "rows": len(table), "distinct_flows": len(distinct),
        "classes": {name: int(count) for name, count in counts.items()},
        "decoding": None if classes_only else settings.serving.decoding,
        "explanations_borne_out": None if classes_only else borne_out,
        "probabilities": "as scored" if fitted is None else f"calibrated, temperature {fitted.temperature:.3g}",
        "unsure": None if fitted is None else sum(by_group[group].unsure for group in groups),
        "out_of_range": sum(bool(by_group[group].out_of_range) for group in groups),
        "made_of": classifier.origin.made_of, "labels": classifier.origin.labels,
    }  # fmt: skip


def line(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as a line of the file."""
    found: dict[str, Any] = {"class": verdict.name, "probability": round(verdict.probability, 6)}
    found["nearest_class"] = verdict.label
    if verdict.unknown and verdict.strange is not None:
        found["unknown_because"] = verdict.strange.reasons
    if verdict.members is not None:
        found["set"] = verdict.members
    found["out_of_range"] = verdict.out_of_range
    if (said := verdict.explanation) is not None:
        found |= {"answer": said.text, "decoding": said.decoding, "unsupported": said.unsupported}
    return found
