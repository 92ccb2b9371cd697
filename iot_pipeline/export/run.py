"""Export of a student from reading it to the finished folder: write, ask both, compare, refuse or sign."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iot_pipeline import __version__
from iot_pipeline.errors import UserError
from iot_pipeline.export import llama_cpp
from iot_pipeline.export.card import card
from iot_pipeline.export.compare import NEEDED, Log, Said, Sample, ask, compare
from iot_pipeline.export.folder import digests, new_folder
from iot_pipeline.export.formats import GGUF, OLLAMA, About, Written, write
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.inference.scoring import Labels
from iot_pipeline.inference.student import Student, room_for
from iot_pipeline.lake.atomic import write_json, write_text
from iot_pipeline.models.tokenizer import encode, end_of_turn, plain, prompt_text
from iot_pipeline.settings import Settings
from iot_pipeline.sft.tasks import asked

FORM_NAMES = {
    "merged": "one model in the layout of transformers (safetensors)",
    "gguf": "a GGUF for llama.cpp",
    "ollama": "a GGUF with a Modelfile for Ollama",
    "openvino": "an OpenVINO model",
}


@dataclass(frozen=True)
class Job:
    """Student to export, format, and all that its figures and its card need.

    `facts`: stage, track, base, dataset, licence, made_of, labels. `load(device, dtype)` reads the student.
    """

    out: Path
    form: str
    quantisation: str
    force: bool
    sample: Sample
    writer: FlowTextWriter
    settings: Settings
    temperature: float | None
    facts: dict[str, Any]
    load: Callable[[str, str], Student]


def export(job: Job, log: Log) -> dict[str, Any]:
    """Write the folder of an export, with its figures beside the student's.

    Returns:
        Content of export.json: facts of the job, comparison, engine, files.

    Raises:
        UserError: The folder exists, the base does not fit the format, or labels agree too rarely and `force` is unset.
    """
    classes = list(job.writer.spec.classes)
    with new_folder(job.out) as folder:
        student, before, reference = _asked_first(job, classes, log)
        log(f"writing {job.form}, {job.quantisation}")
        about = _about(job, classes)
        questions = job.sample.questions(job.settings)
        written = write(job.form, student, folder, job.quantisation, about, questions)
        tokenizer = student.tokenizer
        architecture = student.model.config.model_type
        student.model = None  # the exported one takes its place in memory
        gc.collect()
        exported = written.load()
        after = ask(exported, job.sample, classes, job.settings, log)
        exported.close()
        found = compare(before, after, job.sample, job.writer, job.settings, job.temperature)
        engine = None
        if job.form in (GGUF, OLLAMA) and llama_cpp.installed():
            engine = _in_engine(job, folder / written.file, tokenizer, before, log)
        least = min(found["agreement"], engine["agreement"] if engine else 1.0)
        forced = least < NEEDED
        if forced and not job.force:
            raise UserError(_refusal(job, found, engine))
        facts = _facts(job, written, found, engine, reference, architecture, forced)
        files = digests(folder)
        write_json(folder / "export.json", facts | {"files": files})
        told = {"prompt": plain(prompt_text(tokenizer, "<text of a flow>")), "needed": NEEDED, "classes": classes}
        end = tokenizer.decode([end_of_turn(tokenizer)])
        title = f"Student of track {job.facts['track']}, stage {job.facts['stage']}"
        text = card(facts | told | {"files": files, "end": end, "title": title, "form_name": FORM_NAMES[job.form]})
        write_text(folder / "README.md", text)
    return facts | {"files": files}


def _asked_first(job: Job, classes: list[str], log: Log) -> tuple[Student, Said, str]:
    """Ask the student; return it in fp32 on the CPU, what it said, and how it was asked."""
    import torch

    student = job.load("auto", "auto")
    log("asking the student")
    said = ask(student, job.sample, classes, job.settings, log)
    device, dtype = student.device.type, next(student.model.parameters()).dtype
    reference = f"{str(dtype).removeprefix('torch.')} on {'the CPU' if device == 'cpu' else 'a GPU'}"
    if device != "cpu" or dtype != torch.float32:
        student.close()
        student = job.load("cpu", "fp32")
    return student, said, reference


def _about(job: Job, classes: list[str]) -> About:
    labels = "; ".join(job.facts["labels"])
    return About(
        classes=classes,
        name=f"iot_pipeline student {job.facts['stage']} {job.facts['track']}",
        description=f"Names the class of a network flow and says why. Data: {job.facts['dataset']}. {labels}".strip(),
        licence=job.facts["licence"],
        answer_tokens=room_for(job.settings.teacher.explanation_words),
    )


def _in_engine(job: Job, model: Path, tokenizer: Any, before: Said, log: Log) -> dict[str, Any]:
    """Let llama.cpp read the prompts and score the classes; return how often it gives the student's."""
    labels = Labels.of(tokenizer, list(job.writer.spec.classes))
    texts = [prompt_text(tokenizer, text) for text in job.sample.questions(job.settings)]
    ours = encode(tokenizer, texts)
    longest = max(map(len, ours)) + len(labels.begun) + max(map(len, labels.tree)) + 8
    other, rows = 0, []
    with llama_cpp.serving(model, longest, job.settings.run.threads or 1) as engine:
        for done, (text, known) in enumerate(zip(texts, ours, strict=True), 1):
            tokens = engine.tokens(plain(text))
            other += tokens != known
            rows.append(engine.scores(tokens, labels))
            if done % 100 == 0:
                log(f"scored {done:,} of {len(texts):,} flows in {engine.name}")
        name = engine.name
    agreeing = int((np.array(rows).argmax(axis=1) == before.scores.argmax(axis=1)).sum())
    return {
        "engine": name, "flows": len(texts), "agreeing": agreeing, "agreement": agreeing / len(texts),
        "other_tokens": other,
    }  # fmt: skip


def _refusal(job: Job, found: dict[str, Any], engine: dict[str, Any] | None) -> str:
    worst = found if engine is None or found["agreement"] <= engine["agreement"] else engine
    where = f" in {worst['engine']}" if "engine" in worst else ""
    return (
        f"not exported: as {job.form} in {job.quantisation} the student's class is kept for {worst['agreeing']:,} of "
        f"{worst['flows']:,} test flows ({worst['agreement']:.2%}){where}, fewer than {NEEDED:.1%}; take a finer "
        "--quantisation, or --force, which the card then says"
    )


def _facts(
    job: Job,
    written: Written,
    found: dict[str, Any],
    engine: dict[str, Any] | None,
    reference: str,
    architecture: str,
    forced: bool,
) -> dict[str, Any]:
    vocabulary = written.vocabulary
    told = None
    if vocabulary is not None:
        tensors = ", ".join(f"{number} {kind}" for kind, number in sorted((written.tensors or {}).items()))
        told = {
            "rules": vocabulary.pre, "tried": vocabulary.tried, "differing": vocabulary.differing, "tensors": tensors
        }  # fmt: skip
    return job.facts | {
        "form": job.form, "quantisation": job.quantisation, "file": written.file, "how": written.how,
        "reference": reference, "comparison": found, "engine": engine, "vocabulary": told, "forced": forced,
        "architecture": architecture, "other_tokens": written.other_tokens,
        "temperature": job.temperature, "version": __version__, "sample_seed": job.settings.data.seed,
        "question": asked("{flow}", "classify", job.settings.student.tasks),
    }  # fmt: skip
