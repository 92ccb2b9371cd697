"""`iot-pipeline explain`: class and explanation of each flow in a file, by a trained student."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iot_pipeline.augmentation.checks import check_answer
from iot_pipeline.commands.checkpoint import find
from iot_pipeline.defs.reads import present_value
from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.conformal import prediction_sets
from iot_pipeline.evaluation.metrics import apply_temperature
from iot_pipeline.flows.rare import with_kept_classes
from iot_pipeline.flows.spec import DatasetSpec, load_spec
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.flows.unlabelled import read_unlabelled
from iot_pipeline.inference.grammar import held_to
from iot_pipeline.inference.student import Student, room_for
from iot_pipeline.lake.atomic import write_text
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.models.tokenizer import LABEL_LINE
from iot_pipeline.settings import Settings
from iot_pipeline.sft.tasks import asked
from iot_pipeline.vocabulary import Trained, staged

Log = Callable[[str], None]
LEVEL = "0.95"  # share of flows whose set holds their class


def explain(
    settings: Settings, stage: str, track: str, flows: str, out: Path, classes_only: bool, log: Log
) -> dict[str, Any]:
    """Explain the flows of a file with a trained student, and write one line of JSON per row.

    A line has row (from 1), class, probability, `set`: the classes that cannot be ruled out (conformal.py, at LEVEL; []
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
        raise UserError(f"{out} is there already; name a new file")
    lake = Lake(settings.lake_path)
    trained = Trained(settings.seeds[0], track)
    found = find(lake, stage, trained)
    if broken := lake.broken_lineage(found.artefact, present_value(lake, settings)):
        raise UserError(f"this student is not of the present settings ({broken}); `iot-pipeline run` trains one")
    spec = with_kept_classes(load_spec(settings.data.dataset), lake.folder(ArtefactId("flows")))
    writer = FlowTextWriter.load(lake.folder(ArtefactId("flow_texts")), spec)
    spec = writer.spec
    table = read_unlabelled(spec, flows, log)
    distinct = table.drop_duplicates("flow_group")
    prompts = writer.texts(distinct)
    student = Student.load(found.base, found.adapter, threads=settings.run.threads)
    fitted = fitted_on_calibration(lake, stage, trained)
    answers = named(student, prompts, spec, settings, fitted, log)
    for answer, strange in zip(answers, writer.out_of_range(distinct), strict=True):
        answer["out_of_range"] = strange
    if not classes_only:
        explained(student, prompts, answers, spec, settings, log)
    by_group = dict(zip(distinct["flow_group"], answers, strict=True))
    lines = ({"row": row, **by_group[group]} for row, group in enumerate(table["flow_group"], 1))
    write_text(out, "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines))
    counts = table["flow_group"].map(lambda group: by_group[group]["class"]).value_counts()
    return {
        "file": str(out), "rows": len(table), "distinct_flows": len(distinct),
        "classes": {name: int(count) for name, count in counts.items()},
        "decoding": None if classes_only else settings.serving.decoding,
        "explanations_borne_out": None if classes_only else sum(not answer["unsupported"] for answer in answers),
        "probabilities": "as scored" if fitted is None else f"calibrated, temperature {fitted.temperature:.3g}",
        "unsure": None if fitted is None else sum(len(by_group[group]["set"]) != 1 for group in table["flow_group"]),
        "out_of_range": sum(bool(by_group[group]["out_of_range"]) for group in table["flow_group"]),
        "made_of": found.made_of, "labels": found.labels,
    }  # fmt: skip


def named(
    student: Student, prompts: list[str], spec: DatasetSpec, settings: Settings, fitted: Fitted | None, log: Log
) -> list[dict[str, Any]]:
    """Classify each flow text.

    Args:
        student: The student.
        prompts: Flow texts.
        spec: Data set spec, for the classes.
        settings: The present settings.
        fitted: What the calibration side says; None leaves probabilities as they are and makes no sets.
        log: Called with progress messages.

    Returns:
        Class and probability of each flow, and the set of its classes.

    Raises:
        UserError: A score is NaN.
    """
    tasks = settings.student.tasks
    scores = student.score_labels([asked(text, "classify", tasks) for text in prompts], spec.classes, log=log)
    scores = apply_temperature(scores, fitted.temperature) if fitted is not None else scores
    if np.isnan(scores).any():
        raise UserError(
            f"the student scores {int(np.isnan(scores).any(axis=1).sum()):,} of {len(scores):,} distinct "
            "flows as NaN: its weights are damaged; train it again, or fetch its base again"
        )
    found = [
        {"class": spec.classes[best], "probability": round(float(np.exp(row[best])), 6)}
        for row, best in zip(scores, scores.argmax(axis=1), strict=True)
    ]
    if fitted is not None:
        for answer, members in zip(found, prediction_sets(scores, fitted.threshold), strict=True):
            answer["set"] = [spec.classes[place] for place in np.flatnonzero(members)]
    return found


def explained(
    student: Student, prompts: list[str], answers: list[dict[str, Any]], spec: DatasetSpec, settings: Settings, log: Log
) -> None:
    """Add to each answer the student's explanation of its class, and the statements that the flow does not support.

    Args:
        student: The student.
        prompts: Flow texts.
        answers: Class of each flow; extended in place.
        spec: Data set spec.
        settings: The present settings.
        log: Called with progress messages.
    """
    log(f"{len(prompts):,} distinct flows")
    questions = [asked(text, "explain", settings.student.tasks) for text in prompts]
    # Without the newline: some tokenizers make one token of it and what follows.
    heads = [f"{LABEL_LINE} {answer['class']}" for answer in answers]
    marked, classes = settings.teacher.facts == "marked", [answer["class"] for answer in answers]
    held = held_to(prompts, marked, spec, labels=classes) if settings.serving.decoding == "grounded" else {}
    longest = room_for(settings.teacher.explanation_words)
    written = student.explain(questions, longest, answers=heads, log=log, **held)
    for text, answer, (said, _ended) in zip(prompts, answers, written, strict=True):
        wrong = check_answer(
            said, text, answer["class"], spec.classes, spec.standardised, marked=marked, known=spec.known_values
        )
        answer |= {"answer": said, "decoding": settings.serving.decoding, "unsupported": wrong}


class Fitted(NamedTuple):
    """Temperature of the probabilities and threshold of the sets, both of the calibration side."""

    temperature: float
    threshold: float


def fitted_on_calibration(lake: Lake, stage: str, trained: Trained) -> Fitted | None:
    """Read what was fitted on the calibration side; None if the student was not evaluated."""
    metrics = ArtefactId(staged("eval_metrics", stage), trained.key)
    if lake.manifest(metrics) is None:
        return None
    found = json.loads((lake.verified(metrics) / "eval.json").read_text())
    return Fitted(float(found["calibration"]["temperature"]), float(found["sets"][LEVEL]["threshold"]))
