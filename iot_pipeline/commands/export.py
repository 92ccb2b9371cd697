"""`iot-pipeline export`: a trained student for other engines, measured beside the one that was evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from iot_pipeline.commands.checkpoint import find_present, fitted_on_calibration
from iot_pipeline.commands.data_set import writer_of
from iot_pipeline.errors import UserError
from iot_pipeline.export.compare import sample_of
from iot_pipeline.export.formats import check_packages, chosen_quantisation
from iot_pipeline.export.run import Job
from iot_pipeline.export.run import export as write
from iot_pipeline.flows.dataset import side_records, side_texts
from iot_pipeline.inference.student import Student
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import Settings
from iot_pipeline.vocabulary import DISTILLED, TRACKS, Trained

READ = ("flows", "flow_texts", "evaluation_split")


def export(
    settings: Settings,
    stage: str,
    track: str,
    out: Path,
    form: str,
    quantisation: str | None,
    flows: int,
    force: bool,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Export the student of a stage and track, trained with the first seed.

    Args:
        settings: The present settings.
        stage: Stage of the checkpoint.
        track: Track of the checkpoint.
        out: The new folder.
        form: Format.
        quantisation: Data type of the weights; None: the format's first.
        flows: Test flows on which both are compared, 0 for all.
        force: True to write it although labels agree too rarely.
        log: Called with progress messages.

    Returns:
        Folder, and content of its export.json.

    Raises:
        UserError: The checkpoint does not exist, was altered or is not of the present settings; `out` exists; the
            format cannot hold the base; or labels agree too rarely.
    """
    chosen = chosen_quantisation(form, quantisation)
    check_packages(form)
    if flows < 0:
        raise UserError(f"--flows {flows}: 0 for all test flows, or a number of them")
    if out.exists():
        raise UserError(f"{out} already exists; name a new folder")
    lake, trained = Lake(settings.lake_path), Trained(settings.seeds[0], track)
    found = find_present(lake, settings, stage, trained)
    folder = {name: lake.verified(ArtefactId(name)) for name in READ}
    writer = writer_of(lake, settings)
    records = folder["evaluation_split"] / "records.parquet"
    sample = sample_of(
        side_texts(folder["flow_texts"] / "texts.parquet", records, "test"), side_records(records, "test"),
        flows, settings.evaluation.explained_flows, settings.data.seed,
    )  # fmt: skip
    fitted = fitted_on_calibration(lake, stage, trained)

    def load(device: str, dtype: str) -> Student:
        return Student.load(found.base, found.adapter, device=device, dtype=dtype, threads=settings.run.threads)

    base = name_of(found.name, found.labels)
    facts = {
        "stage": stage, "track": track, "base": base, "dataset": writer.spec.title,
        "made_of": found.made_of | versions_of(lake, track), "labels": found.labels,
        "licence": licence_of(base, found.labels),
    }  # fmt: skip
    temperature = fitted.temperature if fitted is not None else None
    job = Job(out, form, chosen, force, sample, writer, settings, temperature, facts, load)
    return {"folder": str(out), **write(job, log)}


def versions_of(lake: Lake, track: str) -> dict[str, str]:
    """Return the data versions of the prompt and of the flows on which students are compared."""
    prompt = ArtefactId("prompt", TRACKS[0] if track == DISTILLED else track)
    found = {str(artefact): lake.manifest(artefact) for artefact in (prompt, *map(ArtefactId, READ))}
    return {name: manifest.data_version for name, manifest in found.items() if manifest is not None}


def name_of(base: str, labels: list[str]) -> str:
    """Return the name of a base for readers elsewhere, to whom a path of this machine tells nothing."""
    if any(label.startswith("TINY") for label in labels):
        return "tiny Qwen2 built by iot_pipeline"
    return Path(base).name if Path(base).exists() else base


def licence_of(base: str, labels: list[str]) -> str:
    """Return the licence of the weights in words."""
    return "MIT" if any(label.startswith("TINY") for label in labels) else f"that of the base {base}"


def told(found: dict[str, Any]) -> dict[str, Any]:
    """Return what a terminal shows of an export."""
    compared, engine = found["comparison"], found["engine"]
    before, after = compared["student"], compared["exported"]

    def both(key: str) -> str:
        return " -> ".join("not measured" if one[key] is None else f"{one[key]:.4f}" for one in (before, after))

    shown = {
        "folder": found["folder"], "format": f"{found['form']}, {found['quantisation']}",
        "size": f"{sum(file['bytes'] for file in found['files'].values()) / 1e6:.1f} MB",
        "same_class": f"{compared['agreeing']:,} of {compared['flows']:,} test flows ({compared['agreement']:.2%})",
        "accuracy": both("accuracy"), "ECE": both("ece"), "explanations_without_a_fault": both("grounded"),
    }  # fmt: skip
    if engine:
        shown["in_the_engine"] = f"{engine['engine']}: {engine['agreeing']:,} of {engine['flows']:,} the same class"
    if found["forced"]:
        shown["forced"] = "labels agree too rarely; the card says so"
    return shown | {"made_of": found["made_of"], "labels": found["labels"]}
