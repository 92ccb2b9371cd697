"""Lookup of a trained student in the lake, and its opening for use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from iot_pipeline.commands.data_set import writer_of
from iot_pipeline.defs.reads import present_value
from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.unknown.detector import Unknown
from iot_pipeline.flows.spec import DatasetSpec, load_spec
from iot_pipeline.inference.engines import (
    REFERENCE,
    Opening,
    Profile,
    device_here,
    kind_of,
    open_engine,
    replica_engine,
)
from iot_pipeline.lake.atomic import read_json
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.serving.classifier import LEVEL, Classifier, Fitted, Origin
from iot_pipeline.settings import Settings
from iot_pipeline.vocabulary import CONTROLS, DISTILLED, STAGE_ROWS, STAGES, TRACKS, Trained, staged


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint of a student with its base.

    `base`: folder or hub id; `name`: the base by its own name; `made_of`: data versions of base and adapter; `labels`:
    parts that are not real (simulated flows, embedded teacher, tiny base).
    """

    artefact: ArtefactId
    base: str
    name: str
    adapter: Path
    made_of: dict[str, str]
    labels: list[str]


def find(lake: Lake, stage: str, trained: Trained) -> Checkpoint:
    """Find the checkpoint of a stage, training seed and track.

    Raises UserError if it or its base is missing, a file of one was altered, or it is a control's.
    """
    if trained.track in CONTROLS:
        raise UserError(f"{trained.track} is a control of the study and cannot be used; name a track")
    check_names(stage, trained.track)
    lake.check_exists()
    base, adapter = ArtefactId("base_model"), ArtefactId(staged("lora_checkpoint", stage), trained.key)
    versions: dict[str, str] = {}
    provenance: dict[str, Any] = {}
    for artefact in (base, adapter):
        manifest = lake.manifest(artefact)
        if manifest is None:
            raise UserError(f"{artefact} has not been made; `iot-pipeline run --stages {stage}` makes it")
        lake.verified(artefact)
        versions[str(artefact)], provenance = manifest.data_version, manifest.provenance
    named = read_json(lake.folder(base) / "base.json")
    location = str(named["name"]) if named["kind"] == "given" else str(lake.folder(base) / "model")
    name = "tiny" if named["kind"] == "tiny" else str(named["name"])  # that of a built one is a folder's
    return Checkpoint(adapter, location, name, lake.folder(adapter), versions, provenance.get("labels", []))


def find_present(lake: Lake, settings: Settings, stage: str, trained: Trained) -> Checkpoint:
    """Find a checkpoint that follows from the present settings and files.

    Args:
        lake: The lake.
        settings: The present settings.
        stage: Stage of the checkpoint.
        trained: Training seed and track.

    Raises:
        UserError: As `find`, or it no longer follows from them.
    """
    found = find(lake, stage, trained)
    if broken := lake.broken_lineage(found.artefact, present_value(lake, settings)):
        raise UserError(f"this student is not of the present settings ({broken}); `iot-pipeline run` trains one")
    return found


def open_classifier(
    settings: Settings, stage: str, track: str, log: Callable[[str], None] = lambda _text: None, apart: bool = False
) -> Classifier:
    """Load the student of a stage and track, trained with the first seed, by the engine of IOT_INFERENCE.

    Args:
        settings: The present settings.
        stage: Stage of the checkpoint.
        track: Track of the checkpoint.
        log: Called with which engine was taken, and why.
        apart: Load no student: replicas do, by the `Opening` that stands in its place.

    Raises:
        UserError: It does not exist, a file of it was altered, or it was made with other settings.
    """
    lake, trained = Lake(settings.lake_path), Trained(settings.seeds[0], track)
    found, writer = find_present(lake, settings, stage, trained), writer_of(lake, settings)
    prompt = lake.manifest(ArtefactId("prompt", "original" if track == DISTILLED else track))
    model = found.made_of[str(found.artefact)]
    version = prompt.data_version if prompt is not None else ""
    origin = Origin(
        stage, track, found.name, model, found.made_of, version, found.labels, lake_versions(lake, stage, trained)
    )
    profile, evidence = settings.serving.inference, engine_evidence(lake)
    fitted, folder = fitted_on_calibration(lake, stage, trained), evaluation_of(lake, stage, trained)
    detector = Unknown.load(folder) if folder is not None else None
    student: Any
    if apart:
        states = detector is not None and detector.needs_states
        on_cluster = settings.run.ray_address is not None
        usual = partial(engine_apart, profile, evidence, on_cluster, log, model)
        student = Opening(found.base, found.adapter, replica_engine(settings.run.ray_engine, usual, states))
    else:
        threads = settings.run.threads
        student = open_engine(found.base, found.adapter, profile, evidence, log, model=model, threads=threads)
    learnt = learnt_groups(lake, stage) if detector is not None else frozenset()
    return Classifier(student, writer.spec, writer, settings, fitted, origin, detector, learnt)


def engine_apart(
    profile: Profile, evidence: dict[str, Any] | None, on_cluster: bool, log: Callable[[str], None], model: str
) -> str:
    """Return the kind of engine of replicas: of a cluster the reference, since no speed was measured there.

    Args:
        profile: IOT_INFERENCE.
        evidence: Content of `inference.json`.
        on_cluster: True for replicas on other machines.
        log: Called with which engine was taken, and why.
        model: Data version of the adapter.
    """
    if not on_cluster:
        return kind_of(profile, evidence, device_here(), log, model).name
    if profile != REFERENCE:
        log(f"IOT_INFERENCE={profile}: the reference answers, since speed was not measured on the Ray cluster")
    return REFERENCE


def learnt_groups(lake: Lake, stage: str) -> frozenset[str]:
    """Return the flow groups of a stage's rows."""
    order, rows = lake.folder(ArtefactId("training_order")) / "order.parquet", STAGE_ROWS[stage]
    wanted = [("position", "<", rows)] if rows is not None else None
    return frozenset(pq.read_table(order, columns=["flow_group"], filters=wanted)["flow_group"].unique().to_pylist())


def engine_evidence(lake: Lake) -> dict[str, Any] | None:
    """Read what inference_benchmark measured of engines; None if it has not been made."""
    artefact = ArtefactId("inference_benchmark")
    if lake.manifest(artefact) is None:
        return None
    found: dict[str, Any] = read_json(lake.verified(artefact) / "inference.json")
    return found


def check_names(stage: str | None, track: str | None) -> None:
    """Raise UserError for a stage or track that does not exist."""
    for name, value, known in (("stage", stage, STAGES), ("track", track, [*TRACKS, DISTILLED])):
        if value is not None and value not in known:
            raise UserError(f"there is no {name} {value}: use one of {', '.join(known)}")


def newest(settings: Settings, stage: str | None, track: str | None) -> tuple[str, str]:
    """Return stage and track of the student to use: the largest stage made, and of it `original` or the first made.

    What is given is kept. Raises UserError if no such student was trained, or the stage or track does not exist.
    """
    check_names(stage, track)
    lake, seed = Lake(settings.lake_path), settings.seeds[0]
    lake.check_exists()
    made = [
        (one, other)
        for one in ([stage] if stage else reversed(STAGES))
        for other in ([track] if track else [*TRACKS, DISTILLED])
        if lake.manifest(ArtefactId(staged("lora_checkpoint", one), Trained(seed, other).key)) is not None
    ]
    if made:
        return made[0]
    wanted = " ".join(filter(None, ["iot-pipeline run", stage and f"--stages {stage}", track and f"--tracks {track}"]))
    raise UserError(f"no student was trained in {lake.address}; `{wanted}` trains one")


def words(settings: Settings) -> frozenset[str]:
    """Return the source columns that expressions see as text, as they did in the training source."""
    from iot_pipeline.serving.features import words_of

    folder = Lake(settings.lake_path).verified(ArtefactId("raw_flows"))
    return words_of(load_spec(settings.data.dataset), folder / "raw.parquet")


def words_of_expressions(settings: Settings, spec: DatasetSpec) -> frozenset[str] | None:
    """Return `words`; None if the lake no longer has the training source, and an expression may need them."""
    if all(feature.expression is None for feature in spec.features):
        return frozenset()
    return words(settings) if Lake(settings.lake_path).manifest(ArtefactId("raw_flows")) is not None else None


def lake_versions(lake: Lake, stage: str, trained: Trained) -> dict[str, str]:
    """Return the data versions of the lake's flows, of their texts and of the student's evaluation."""
    metrics = ArtefactId(staged("eval_metrics", stage), trained.key)
    parts = {"flows": ArtefactId("flows"), "flow_texts": ArtefactId("flow_texts"), "evaluation": metrics}
    found = {name: lake.manifest(artefact) for name, artefact in parts.items()}
    return {name: manifest.data_version for name, manifest in found.items() if manifest is not None}


def fitted_on_calibration(lake: Lake, stage: str, trained: Trained) -> Fitted | None:
    """Read what was fitted on the calibration side; None if the student was not evaluated."""
    folder = evaluation_of(lake, stage, trained)
    if folder is None:
        return None
    found = read_json(folder / "eval.json")
    return Fitted(float(found["calibration"]["temperature"]), float(found["sets"][LEVEL]["threshold"]))


def evaluation_of(lake: Lake, stage: str, trained: Trained) -> Path | None:
    """Return the folder of a student's evaluation; None if it was not evaluated, UserError if it was altered."""
    metrics = ArtefactId(staged("eval_metrics", stage), trained.key)
    return lake.verified(metrics) if lake.manifest(metrics) is not None else None
