"""Facts of a lake, read from its artefacts once for report, model cards and audit.

This is the one module of reporting that knows assets, partition keys and file names.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from iot_pipeline.flows.rare import RARE
from iot_pipeline.lake.atomic import read_json
from iot_pipeline.lake.store import MANIFEST, ArtefactId
from iot_pipeline.reporting.artefact_json import artefact_json, parse, read, read_optional
from iot_pipeline.vocabulary import ARMS, STAGES, TRACKS, Partition, Trained, partition_parts, staged, unstaged

Json = dict[str, Any]
TABLES = {"flow_profile": "flow_profile.parquet", "sample_comparison": "sample_comparison.parquet"}
EXAMPLES = 3
# Files of the other artefacts that `gather` reads, as patterns; of an asset with one file its field in Facts says it.
READ: Mapping[str, Sequence[str]] = {
    "flow_profile": ("flow_profile.parquet",),
    "sample_comparison": ("sample_comparison.parquet",),
    "flows": (RARE,),
    "automl_baseline": ("eval_*.json", "timing_*.json", "row_split.json"),
    "prompt": ("prompt.md",),
    **dict.fromkeys(TRACKS, ("report.json", "usage.json", "track.jsonl")),
    "training_split": ("stats.json",),
    "lora_checkpoint": ("training.json", "loss.jsonl"),
    "eval_metrics": ("eval.json",),
    "explanation_quality": ("quality.json",),
    "reasons": ("reasons.json",),
    "reason_baselines": ("reason_baselines.json",),
    "paper_report": ("exhibits.json",),
}
PREFIX = "setting "
PROMPTS = "iot_pipeline/prompts"  # as manifests record the folder that comes with the project


@dataclass(frozen=True)
class DataSet:
    """The part of a data set's description that a reader must know."""

    name: str = ""
    title: str = ""
    citation: str = ""
    doi: str | None = None
    licence: str = ""
    scaling: str = ""
    scaling_note: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def published(self, name: str) -> Any:
        """Return a published fact, at the top level of the facts or one below; None if unpublished."""
        places = [self.facts, *(value for value in self.facts.values() if isinstance(value, Mapping))]
        return next((place[name] for place in places if name in place), None)


@dataclass(frozen=True)
class Used:
    """Settings that the artefacts were made with; None where none read it."""

    dataset: str | None = None
    source: str | None = None
    teacher: str | None = None
    teacher_model: str | None = None
    base_model: str | None = None
    serialisation: str | None = None
    answer_order: str | None = None
    automl_preset: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Prompt:
    """A prompt file and its data version."""

    text: str
    version: str


@dataclass(frozen=True)
class Example:
    """A flow as the teacher read it, and the answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Track:
    """One increment of a track: reports, examples of different classes, mean length of its answers."""

    report: Json = field(default_factory=dict)
    usage: Json = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    answer_characters_mean: float | None = None


@dataclass(frozen=True)
class Run:
    """One training: the parts of training.json, and the loss curve."""

    facts: Json
    config: Json = field(default_factory=dict)
    timings: Json = field(default_factory=dict)
    curve: list[Json] = field(default_factory=list)


@dataclass(frozen=True)
class Origin:
    """One artefact's versions, seed, settings, the prompts upstream of it (name -> version) and its inputs.

    `inputs`: artefact -> data version.
    """

    asset: str
    partition: str
    data_version: str
    code_version: str
    prompts: dict[str, str]
    settings: Json
    seed: int | None
    code_commit: str | None
    run_id: str | None
    inputs: Mapping[ArtefactId, str] = field(default_factory=dict)

    @property
    def artefact(self) -> ArtefactId:
        """Identifier of the artefact."""
        return ArtefactId(self.asset, self.partition)


@dataclass
class Facts:
    """A lake's facts: typed parts, and the JSON of each single report as its asset wrote it.

    A part whose artefact is absent is None or empty. A field with a file is named like the asset that writes it.
    """

    data_set: DataSet = field(default_factory=DataSet)
    used: Used = field(default_factory=Used)
    labels: list[str] = field(default_factory=list)
    lineage: list[Origin] = field(default_factory=list)
    prompts: dict[str, Prompt] = field(default_factory=dict)
    tracks: dict[Partition, Track] = field(default_factory=dict)
    baselines: dict[str, dict[str, Json]] = field(default_factory=dict)
    """Stage -> model -> evaluation, with `model` and `timings`; `row_split` with AutoML on the whole train pool."""
    tensors: dict[Partition, Json] = field(default_factory=dict)
    training: dict[Partition, Run] = field(default_factory=dict)
    evaluation: dict[Partition, Json] = field(default_factory=dict)
    explanations: dict[Partition, Json] = field(default_factory=dict)
    unknown: dict[str, Json] = field(default_factory=dict)
    """Stage -> classes that were kept from student and baseline, each in turn."""
    reasons: dict[Partition, Json] = field(default_factory=dict)
    reason_baselines: dict[str, Json] = field(default_factory=dict)
    raw_flows: Json | None = field(default=None, metadata={"file": "source.json"})
    flows: Json | None = field(default=None, metadata={"file": "flows.json"})
    """With `rare_classes`, what became of the classes of too few distinct flows; None if there are none."""
    dedup_report: Json | None = field(default=None, metadata={"file": "dedup_report.json"})
    label_conflicts: Json | None = field(default=None, metadata={"file": "label_conflicts.json"})
    dataset_mismatch: Json | None = field(default=None, metadata={"file": "dataset_mismatch.json"})
    flow_profile: Json | None = field(default=None, metadata={"file": "flow_profile.json"})
    """With `table`: rows; likewise sample_comparison."""
    attack_patterns: Json | None = field(default=None, metadata={"file": "attack_patterns.json"})
    sample_comparison: Json | None = field(default=None, metadata={"file": "sample_comparison.json"})
    evaluation_split: Json | None = field(default=None, metadata={"file": "split.json"})
    leakage_report: Json | None = field(default=None, metadata={"file": "leakage.json"})
    base_model: Json | None = field(default=None, metadata={"file": "base.json"})
    paper_protocol: Json | None = field(default=None, metadata={"file": "paper_protocol.json"})
    study: Json | None = field(default=None, metadata={"file": "study.json"})
    zero_shot_teacher: Json | None = field(default=None, metadata={"file": "zero_shot.json"})
    inference_benchmark: Json | None = field(default=None, metadata={"file": "inference.json"})
    track_comparison: Json | None = field(default=None, metadata={"file": "track_comparison.json"})
    cost_report: Json | None = field(default=None, metadata={"file": "cost_report.json"})
    claims_audit: list[Json] | None = field(default=None, metadata={"file": "claims_audit.json"})

    @property
    def simulated(self) -> bool:
        """True if the flows were simulated."""
        return self.used.source == "simulate"

    @property
    def embedded_teacher(self) -> bool:
        """True if the embedded teacher is set or wrote answers, here or as a separate server."""
        return self.used.teacher == "embedded" or any(track.usage.get("embedded") for track in self.tracks.values())

    @property
    def tiny_base(self) -> bool:
        """True if students start from the tiny base."""
        return self.used.base_model == "tiny"

    def importances(self, stage: str) -> dict[str, float]:
        """Return the increase in AutoML's loss by feature at a stage; empty if it was not measured."""
        model = self.baselines.get(stage, {}).get("automl", {}).get("model") or {}
        return dict(model.get("importances") or {})

    def origin(self, partition: Partition, name: str = "lora_checkpoint") -> Origin | None:
        """Return the lineage of a student's checkpoint, or of another asset of that student, if it is known."""
        made = (origin for origin in self.lineage if origin.asset == staged(name, partition.stage))
        return next((origin for origin in made if partition_parts(origin.partition)[-1] == partition.track), None)

    def artefact(self, name: str, partition: Partition) -> str:
        """Return the artefact of a student as captions cite it: `eval_metrics_10K[2027|original]`."""
        origin = self.origin(partition, name)
        return str(origin.artefact) if origin is not None else staged(name, partition.stage)


def checkpoint(partition: Partition) -> str:
    """Return the asset of a checkpoint."""
    return staged("lora_checkpoint", partition.stage)


def metrics(partition: Partition) -> str:
    """Return the asset of a student's evaluation."""
    return staged("eval_metrics", partition.stage)


def partition_of(artefact: ArtefactId) -> Partition:
    """Return stage and track of an artefact that has both."""
    name, stage = unstaged(artefact.asset)
    return (
        Partition(artefact.partition, name)
        if name in TRACKS
        else Partition(stage, partition_parts(artefact.partition)[-1])
    )


def gather(folders: Mapping[ArtefactId, Path], spec: Any = None) -> Facts:
    """Read the facts of the artefacts in `folders`; `spec`: the data set's description (flows.spec)."""
    about = {part.name: getattr(spec, part.name) for part in fields(DataSet)} if spec else {}
    facts = Facts(data_set=DataSet(**about))
    manifests: dict[str, Json] = {}
    for artefact, folder in sorted(folders.items()):
        manifests[f"{artefact.asset}@{artefact.partition}"] = read_json(folder / MANIFEST)
    for artefact, folder in sorted(folders.items(), key=lambda one: _place(one[0])):
        _read(facts, artefact, folder)
    settings = {name: value for record in manifests.values() for name, value in _settings(record).items()}
    facts.used = Used(**{part.name: settings.get(part.name) for part in fields(Used)})
    labels = (record["provenance"].get("label") for record in manifests.values())
    facts.labels = list(dict.fromkeys(label for label in labels if label))
    facts.lineage = [_origin(key, manifests) for key in manifests]
    return facts


def _place(artefact: ArtefactId) -> tuple[int, int, ArtefactId]:
    """Return the place of an artefact in the report: by stage, then by track, as `vocabulary` orders both."""
    parts = {*unstaged(artefact.asset), *partition_parts(artefact.partition)}
    stage, arm = (next((n for n, name in enumerate(names) if name in parts), -1) for names in (STAGES, ARMS))
    return stage, arm, artefact


def files_read(artefact: ArtefactId, names: Iterable[str]) -> list[str]:
    """Return those of an artefact's files that the report reads; all of them if it reads none."""
    single = {part.name: part.metadata["file"] for part in fields(Facts) if part.metadata}
    asset, names = unstaged(artefact.asset)[0], sorted(names)
    patterns = [*([single[asset]] if asset in single else []), *READ.get(asset, ())]
    found = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    return found or names


def _read(facts: Facts, artefact: ArtefactId, folder: Path) -> None:
    """Read one artefact into its place in `facts`."""
    asset, key = unstaged(artefact.asset)[0], artefact.partition
    single = {part.name: part.metadata["file"] for part in fields(Facts) if part.metadata}
    if asset in single and (folder / single[asset]).is_file():
        found = read(folder / single[asset], artefact)
        if asset in TABLES:
            rows = pq.read_table(folder / TABLES[asset]).to_pylist()
            found["table"] = [artefact_json(artefact, row) for row in rows]
        if asset == "flows":
            found["rare_classes"] = read_optional(folder / RARE, artefact)
        setattr(facts, asset, found)
    elif asset == "automl_baseline":
        facts.baselines[key] = {}
        for path in sorted(folder.glob("eval_*.json")):
            name = path.stem.removeprefix("eval_")
            facts.baselines[key][name] = found = read(path, artefact)
            found["timings"] = read_optional(folder / f"timing_{name}.json", artefact)
        if split := read_optional(folder / "row_split.json", artefact):
            facts.baselines[key]["automl"]["row_split"] = split
    elif asset == "prompt":
        facts.prompts[key] = Prompt(
            (folder / "prompt.md").read_text(encoding="utf-8"), read_json(folder / MANIFEST)["data_version"]
        )
    elif asset in TRACKS:
        report, usage = (read_optional(folder / name, artefact) for name in ("report.json", "usage.json"))
        facts.tracks[partition_of(artefact)] = Track(report, usage, *_answers(folder / "track.jsonl"))
    elif asset == "training_split":
        facts.tensors[partition_of(artefact)] = read(folder / "stats.json", artefact)
    elif asset == "lora_checkpoint":
        parts = read(folder / "training.json", artefact)
        curve = [parse(line, artefact) for line in (folder / "loss.jsonl").read_text(encoding="utf-8").splitlines()]
        config, timings = (artefact_json(artefact, parts.get(name, {})) for name in ("config", "timings"))
        run = Run(parts["facts"], config, timings, curve)
        facts.training[partition_of(artefact)] = run
    elif asset == "eval_metrics":
        facts.evaluation[partition_of(artefact)] = read(folder / "eval.json", artefact)
    elif asset == "explanation_quality":
        facts.explanations[partition_of(artefact)] = read(folder / "quality.json", artefact)
    elif asset == "unknown_detection":
        facts.unknown[unstaged(artefact.asset)[1]] = read(folder / "unknown.json", artefact)
    elif asset == "reasons":
        facts.reasons[partition_of(artefact)] = read(folder / "reasons.json", artefact)
    elif asset == "reason_baselines":
        facts.reason_baselines[key] = read(folder / "reason_baselines.json", artefact)


def _answers(path: Path) -> tuple[list[Example], float | None]:
    """Read the first rows of different classes from a track's JSONL, and the mean length of all answers."""
    seen: dict[str, Example] = {}
    characters = rows = 0
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            user, assistant = json.loads(line)["messages"]
            answer = assistant["content"]
            rows += 1
            characters += len(answer)
            if len(seen) < EXAMPLES:
                label = next((part for part in answer.split("\n") if part.startswith("CLASSIFICATION:")), "")
                seen.setdefault(label, Example(user["content"], answer))
    return list(seen.values()), characters / rows if rows else None


def _settings(record: Json) -> Json:
    """Return the settings that an artefact read, by name; of a file the name alone, since folders are a machine's."""
    return {
        name.removeprefix(PREFIX): placeless(value)
        for name, value in record["settings"].items()
        if name.startswith(PREFIX)
    }


def placeless(value: Any) -> Any:
    """Return a setting without the folders of the machine: `/data/a.csv,/data/b.csv` is `a.csv,b.csv`."""
    if not isinstance(value, str):
        return value
    if value == PROMPTS:  # a bundle brings the same files in a folder of its own
        return Path(value).name
    return ",".join(Path(part).name if part.startswith(("/", "~")) else part for part in value.split(","))


def _origin(key: str, manifests: Mapping[str, Json]) -> Origin:
    record, settings = manifests[key], _settings(manifests[key])
    parts = partition_parts(record["partition"])
    seed = Trained.parse(record["partition"]).seed if len(parts) == len(Trained._fields) else None
    upstream: set[str] = set()
    todo = [key]
    while todo:
        name = todo.pop()
        if name in manifests and name not in upstream:
            upstream.add(name)
            todo += manifests[name]["inputs"]
    return Origin(
        asset=record["asset"],
        partition=record["partition"],
        data_version=record["data_version"],
        code_version=record["code_version"],
        prompts={
            name.removeprefix("prompt@"): manifests[name]["data_version"]
            for name in sorted(upstream)
            if name.startswith("prompt@")
        },
        seed=settings.pop("seed", None) if seed is None else seed,
        settings=settings,
        code_commit=record["provenance"].get("code_commit"),
        run_id=record["provenance"].get("run_id"),
        inputs={ArtefactId.of_input(key): version for key, version in record["inputs"].items()},
    )
