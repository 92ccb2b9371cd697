"""Bundle for gpu_student.py: what a GPU machine needs to train and score students, made from a lake on any machine.

bundle.json           recipe, classes, base, and where the rows come from
10K/*.safetensors.xz  tensors of explained rows and of class rows, by the base's tokenizer
validation, test      records and texts of the distinct flows (Parquet)
gguf/                 SmolLM2's GGUF in parts (gguf_parts.py)
"""

import argparse
import lzma
import sys
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from gguf_parts import split

from iot_pipeline.defs.inputs import printed_spec, records_of, texts_of
from iot_pipeline.defs.reads import recorded, to_json
from iot_pipeline.defs.recipe import recipe_of
from iot_pipeline.defs.training.assets import split_tensors
from iot_pipeline.defs.training.class_rows import write_class_rows
from iot_pipeline.defs.training.rows import training_rows
from iot_pipeline.errors import UserError
from iot_pipeline.flows.dataset import side_records, side_texts
from iot_pipeline.flows.spec import DatasetSpec, load_spec
from iot_pipeline.lake.atomic import sha256_file, write_json
from iot_pipeline.lake.code_version import code_commit
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.models.smollm2 import FACTS, INSTALL, SHA256, SMOLLM2, convert, installed_gguf
from iot_pipeline.models.tokenizer import encode, load_tokenizer, prompt_text
from iot_pipeline.settings import Settings, load_settings

# The base is loaded in what the GPU computes in, and validation tensors stay behind: nothing is chosen there.
ELSEWHERE = {"bf16": "auto", "evaluate_every": None, "patience": None, "keep": "last"}
PRESET = 3  # of xz: rows repeat within its 4 MiB


class LakeReader:
    """Reader of a finished lake, in the place of an asset's step; writes into `folder`."""

    def __init__(self, lake: Lake, settings: Settings, folder: Path) -> None:
        self.lake, self.settings, self.folder = lake, settings, folder
        self.labels: set[str] = set()

    @cached_property
    def spec(self) -> DatasetSpec:
        """Spec of the data set."""
        return load_spec(self.settings.data.dataset)

    def input(self, asset: str, partition: str = "") -> Path:
        """Folder of an intact artefact; UserError if it was made with other settings than these."""
        artefact = ArtefactId(asset, partition)
        folder, manifest = self.lake.verified(artefact), self.lake.manifest(artefact)
        assert manifest is not None
        self.labels |= set(manifest.provenance.get("labels", []))
        for read, made in manifest.settings.items():
            kind, _, name = read.partition(" ")
            if kind == "setting" and (now := recorded(self.settings.value(name))) != made:
                raise UserError(f"{artefact} was made with IOT_{name.upper()}={made}, now it is {now}; set it as then")
        return folder

    def json(self, name: str, value: Any, volatile: bool = False) -> None:
        """Write JSON into the folder."""
        write_json(self.folder / name, to_json(value))

    def summarise(self, **facts: Any) -> None:
        """Show facts."""
        self.log(", ".join(f"{name} {value}" for name, value in facts.items()))

    def log(self, text: str) -> None:
        """Show progress."""
        print(text, file=sys.stderr)


def prepare(chosen: argparse.Namespace) -> None:
    """Write the bundle; settings are those of the lake (IOT_ variables), but for row length and learning rate."""
    settings = load_settings(lake=str(chosen.lake) if chosen.lake else None)
    own = {"max_length": chosen.max_length, "learning_rate": chosen.learning_rate}
    settings = settings.model_copy(update={"student": settings.student.model_copy(update=own)})
    reader: Any = LakeReader(Lake(settings.lake_path, read_only=True), settings, chosen.prepare)
    chosen.prepare.mkdir(parents=True, exist_ok=True)
    tokenizer, facts = base_tokenizer(chosen)
    for side in ("validation", "test"):
        side_records(records_of(reader), side).to_parquet(chosen.prepare / f"{side}-records.parquet")
        texts = side_texts(texts_of(reader), records_of(reader), side)
        texts.to_parquet(chosen.prepare / f"{side}-texts.parquet")
    stages = {stage: stage_tensors(reader, stage, chosen, tokenizer) for stage in chosen.stages}
    first = str(texts["text"][0])
    spec = printed_spec(reader)
    told = {
        "dataset": settings.data.dataset,
        "classes": list(spec.classes),
        "standardised": sorted(spec.standardised),
        "seed": settings.data.seed,
        "tasks": settings.student.tasks,
        "words": settings.teacher.explanation_words,
        "marked": settings.teacher.facts == "marked",
        "arm": chosen.arm,
        "recipe": to_json(recipe_of(reader, settings.seeds[0]) | ELSEWHERE),
        "stages": stages,
        "base": facts,
        "probe": {"text": first, "ids": encode(tokenizer, [prompt_text(tokenizer, first)])[0]},
        "made_with": sorted(reader.labels),
        "prepared_by_commit": code_commit(),
    }
    write_json(chosen.prepare / "bundle.json", told)
    size = sum(path.stat().st_size for path in chosen.prepare.rglob("*") if path.is_file())
    reader.log(f"{chosen.prepare}: {size / 2**20:.1f} MiB")


def stage_tensors(reader: Any, stage: str, chosen: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    """Write the tensors of one stage; return their statistics."""
    reader.folder = chosen.prepare / stage
    reader.folder.mkdir(exist_ok=True)
    rows = training_rows(reader, chosen.arm, stage, tokenizer)
    made = split_tensors(reader, rows, "train.jsonl", "train.safetensors", tokenizer)
    if made.problems:
        raise UserError(f"tensors of {stage}: {'; '.join(made.problems)}")
    (reader.folder / "train.jsonl").unlink()
    if reader.settings.student.class_rows:
        write_class_rows(reader, chosen.arm, stage, tokenizer)
    for path in reader.folder.glob("*.safetensors"):
        with lzma.open(f"{path}.xz", "wb", preset=PRESET) as packed:
            packed.write(path.read_bytes())
        path.unlink()
    return made.stats.plain()


def base_tokenizer(chosen: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """(tokenizer, facts) of the base; SmolLM2's GGUF is written in parts. UserError if it is not here or another."""
    if chosen.base:
        return load_tokenizer(chosen.base), {"kind": "given"}
    path = chosen.gguf or installed_gguf()
    if path is None or (found := sha256_file(path)) != SHA256:
        raise UserError(f"--gguf: {path} is not the GGUF of {FACTS['package']}, sha256 {SHA256}; {INSTALL}")
    split(path, chosen.prepare / "gguf", chosen.part_mib)
    with tempfile.TemporaryDirectory() as work:
        convert(path, Path(work) / "base")
        return load_tokenizer(Path(work) / "base"), {"kind": SMOLLM2, **FACTS, "sha256": found}
