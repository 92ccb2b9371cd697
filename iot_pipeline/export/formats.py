"""Formats of an export: each writes its files into a folder and says how to load from them what will be asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from iot_pipeline.errors import UserError
from iot_pipeline.export import gguf_file, openvino
from iot_pipeline.export.as_llama import auto_tokenizer, readable
from iot_pipeline.export.modelfile import modelfile
from iot_pipeline.export.vocabulary import Vocabulary, vocabulary_of
from iot_pipeline.inference.grammar import class_gbnf
from iot_pipeline.inference.openvino_engine import openvino_module
from iot_pipeline.inference.student import Student
from iot_pipeline.lake.atomic import write_text
from iot_pipeline.models.tokenizer import LABEL_LINE, literal, prompt_text, served_template

MERGED, GGUF, OLLAMA, OPENVINO = "merged", "gguf", "ollama", "openvino"
FORMATS = {  # data types of the weights, the first by default
    MERGED: ("fp32", "bf16"),
    GGUF: ("bf16", *(name for name in gguf_file.QUANTISATIONS if name != "bf16")),
    OLLAMA: ("bf16", *(name for name in gguf_file.QUANTISATIONS if name != "bf16")),
    OPENVINO: openvino.QUANTISATIONS,
}
SYNONYMS = {"fp32": "f32", "fp16": "f16"}


@dataclass(frozen=True)
class About:
    """Words in the files themselves: classes, name, description, licence, longest answer in tokens."""

    classes: Sequence[str]
    name: str
    description: str
    licence: str
    answer_tokens: int


@dataclass(frozen=True)
class Written:
    """Files that were written: `file` has the weights, `how` says in words how `load` asks them.

    `other_tokens`: prompts that others read as other tokens than the student, of those tried; None for a vocabulary,
    which counts its own.
    """

    file: str
    how: str
    load: Callable[[], Student]
    other_tokens: int | None = None
    vocabulary: Vocabulary | None = None
    tensors: dict[str, int] | None = None


@dataclass
class EngineStudent(Student):
    """Student whose prompts `read` cuts by an engine's rules."""

    read: Callable[[str], Sequence[int]] | None = None

    def _prompts(self, texts: Sequence[str]) -> list[list[int]]:
        assert self.read is not None
        return [list(self.read(prompt_text(self.tokenizer, text))) for text in texts]


def chosen_quantisation(form: str, quantisation: str | None) -> str:
    """Return the data type to write; UserError names those that a format has."""
    if form not in FORMATS:
        raise UserError(f"--format {form}: one of {', '.join(FORMATS)}")
    names = FORMATS[form]
    wanted = names[0] if quantisation is None else quantisation.lower()
    wanted = SYNONYMS.get(wanted, wanted) if form in (GGUF, OLLAMA) else wanted
    if wanted not in names:
        raise UserError(f"--quantisation {quantisation}: --format {form} has {', '.join(names)}")
    return wanted


def check_packages(form: str) -> None:
    """Raise UserError if a package that a format needs is missing."""
    if form in (GGUF, OLLAMA):
        gguf_file.require_gguf()
    if form == OPENVINO:
        openvino_module()


def write(
    form: str, student: Student, folder: Path, quantisation: str, about: About, questions: Sequence[str]
) -> Written:
    """Write a student in a format.

    Args:
        form: One of FORMATS.
        student: Merged student in fp32 on the CPU.
        folder: Empty folder.
        quantisation: Data type of the weights.
        about: Words in the files themselves.
        questions: User texts on which the vocabulary is tried.

    Raises:
        UserError: The base has a shape or tokenizer that the format cannot hold.
    """
    import torch

    if form in (GGUF, OLLAMA):
        return _gguf(form, student, folder, quantisation, about, questions)
    student.tokenizer.chat_template = served_template(student.tokenizer)
    wrong = readable(student, questions)
    if form == OPENVINO:
        file = openvino.write_openvino(student, folder, quantisation)
        how = "run in OpenVINO on the CPU, computed in fp32 with its keys and values in fp32"
        return Written(file, how, lambda: openvino.load_openvino(folder, student, auto_tokenizer(folder)), wrong)
    if quantisation == "bf16":
        student.model.to(torch.bfloat16)
    student.save(folder)

    def load() -> Student:
        loaded = Student.load(folder, None, device="cpu", dtype=quantisation)
        loaded.tokenizer = auto_tokenizer(folder)
        return loaded

    return Written("model.safetensors", f"loaded by transformers on the CPU in {quantisation}", load, wrong)


def _gguf(
    form: str, student: Student, folder: Path, quantisation: str, about: About, questions: Sequence[str]
) -> Written:
    import torch

    model, tokenizer = student.model, student.tokenizer
    gguf_file.check_shape(model.config)
    rows = model.get_input_embeddings().weight.shape[0]
    lines = [literal(tokenizer, f"{LABEL_LINE} {name}") for name in about.classes]
    vocabulary = vocabulary_of(tokenizer, rows, [*(prompt_text(tokenizer, text) for text in questions), *lines])
    file = f"student-{quantisation}.gguf"
    words = {"name": about.name, "description": about.description, "licence": about.licence}
    told = gguf_file.write_gguf(model, tokenizer, vocabulary, folder / file, quantisation, words)
    write_text(folder / "classes.gbnf", class_gbnf(about.classes))
    tokenizer.chat_template = served_template(tokenizer)
    tokenizer.save_pretrained(folder / "tokenizer")
    if form == OLLAMA:
        context = model.config.max_position_embeddings
        says = [about.name, about.description, "Made by iot_pipeline; README.md has its figures."]
        write_text(folder / "Modelfile", modelfile(tokenizer, file, context, about.answer_tokens, says))

    def load() -> Student:
        read = gguf_file.read_gguf(folder / file, torch.float32)
        return EngineStudent(read, tokenizer, student.device, student.pad, read=vocabulary.read)

    how = "its weights as they were read back from the file, dequantised to fp32, and prompts cut by llama.cpp's rules"
    return Written(file, how, load, None, vocabulary, told["tensors"])
