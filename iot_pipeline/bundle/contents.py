"""Files of a bundle that come from the lake as they are: report, prompts, answers, configuration, lineage, test set."""

import json
import platform
import re
import shutil
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from iot_pipeline import __version__
from iot_pipeline.bundle.source import Source
from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import read_json, write_json, write_text
from iot_pipeline.lake.code_version import code_commit
from iot_pipeline.lake.store import ArtefactId
from iot_pipeline.lineage.report_check import REPORT
from iot_pipeline.machine import this_machine
from iot_pipeline.reporting.gather import placeless
from iot_pipeline.settings import PROJECT_ROOT, SECTIONS
from iot_pipeline.teacher.address import API_VERSION
from iot_pipeline.teacher.archive import export_answers
from iot_pipeline.teacher.store.store import exists
from iot_pipeline.teacher_factory import shown_address, store_of
from iot_pipeline.vocabulary import TRACKS, Trained, unstaged

# Of the section `run`, what a run makes; everything else there is about the machine, or a secret.
MADE = ("stages", "tracks", "controls", "distil", "unknown", "grid")
SETTINGS, LINEAGE, ANSWERS = "config/settings.env", "lineage.json", "answers/answers.parquet"
LOCK, ENVIRONMENT = "environment/requirements.lock.txt", "environment/environment.json"


def write_report(source: Source, out: Path) -> None:
    """Copy the report with its tables and figures."""
    folder = source.lake.folder(REPORT)
    for name in source.manifests[REPORT].files:
        (out / "report" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, out / "report" / name)


def write_prompts(source: Source, out: Path) -> None:
    """Write each prompt by its name, as a run reads it, and by its sha256."""
    for artefact in source.of("prompt"):
        text = (source.lake.folder(artefact) / "prompt.md").read_bytes()
        for name in (artefact.partition, source.manifests[artefact].data_version):
            (out / "prompts").mkdir(parents=True, exist_ok=True)
            (out / "prompts" / f"{name}.md").write_bytes(text)


def write_answers(source: Source, out: Path) -> None:
    """Write the answers of the lake's teacher with their requests; the store may hold others too.

    Raises UserError if the store is gone.
    """
    location = store_of(source.settings)
    if not exists(location):
        raise UserError("the store of answers is gone, so a bundle could not be run again; IOT_TEACHER_STORE names it")
    (out / ANSWERS).parent.mkdir(parents=True, exist_ok=True)
    told = (manifest.provenance.get("teacher") for manifest in source.manifests.values())
    export_answers(location, out / ANSWERS, {str(teacher) for teacher in told if teacher})


def write_configuration(source: Source, out: Path) -> None:
    """Write the settings as an .env file whose file names are within the bundle, and the data set's description."""
    values = dict(_settings(source))
    for path in source.spec_files:
        if not path.is_relative_to(PROJECT_ROOT / "iot_pipeline" / "datasets"):
            (out / "config" / "datasets").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / "config" / "datasets" / path.name)
    dataset = Path(str(source.settings.data.dataset))
    if dataset.suffix:
        values["IOT_DATASET"] = f"datasets/{dataset.name}"
    values["IOT_PROMPTS"] = "../prompts"
    lines = [f"{name}={_quoted(value)}" for name, value in sorted(values.items())]
    write_text(out / SETTINGS, "\n".join(["# Settings of the lake, without those of the machine.", *lines]) + "\n")
    (out / "config" / "specs").mkdir(parents=True, exist_ok=True)
    for path in source.spec_files:
        shutil.copyfile(path, out / "config" / "specs" / path.name)


def _quoted(value: str) -> str:
    """Return a value as .env files hold it."""
    if re.fullmatch(r"[\w.,:/@%+*?=-]*", value):
        return value
    inner = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{inner}'"


def _settings(source: Source) -> Iterator[tuple[str, str]]:
    """Yield the variables that decide what is made, with their values; those that are unset are left out."""
    chosen = source.settings
    yield "IOT_PROFILE", Path(chosen.profile).stem
    for section, kind in SECTIONS.items():
        for name, field in kind.model_fields.items():
            value = getattr(getattr(chosen, section), name)
            if (section == "run" and name not in MADE) or section == "serving" or value is None or value == []:
                continue
            told = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            told = told.lower() if isinstance(value, bool) else public(str(placeless(told)))
            yield f"IOT_{(field.alias or name).upper()}", told


def public(told: str) -> str:
    """Return a setting without what a URL in it may hold of secrets: credentials, query and fragment.

    The version of Azure's API stays: without it there is no address of Azure.
    """
    return ",".join(_without_secrets(part) if "://" in part else part for part in told.split(","))


def _without_secrets(url: str) -> str:
    version = re.search(rf"[?&]({API_VERSION}=[\w.-]+)(?:[&#]|$)", url)
    return shown_address(url) + (f"?{version[1]}" if version else "")


def write_environment(out: Path) -> None:
    """Write every installed package with its version, and facts about Python and machine; no name of a machine.

    Package indexes do not know the local part of a version (2.13.0+cpu): it is told beside Python's version.
    """
    installed = {str(one.metadata["Name"]): one.version for one in distributions() if one.metadata["Name"]}
    order = sorted((name.lower(), name) for name in installed if name.lower().replace("_", "-") != "iot-pipeline")
    lines = [f"{name}=={installed[name].partition('+')[0]}" for _, name in order]
    write_text(out / LOCK, "\n".join(lines) + "\n")
    write_json(
        out / ENVIRONMENT,
        {
            "iot_pipeline": __version__,
            "code_commit": code_commit(),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "local_versions": {name: version for name, version in sorted(installed.items()) if "+" in version},
        },
    )


def write_lineage(source: Source, out: Path) -> None:
    """Write what every manifest tells, without folders of the machine, as one file."""
    told = [_told(artefact, source) for artefact in source.manifests]
    write_json(out / LINEAGE, {"labels": source.labels, "artefacts": told})


def _told(artefact: ArtefactId, source: Source) -> dict[str, Any]:
    manifest = source.manifests[artefact]
    reads = {}
    for name, value in manifest.settings.items():
        kind, _, rest = name.partition(" ")
        reads[f"{kind} {placeless(rest)}"] = [placeless(one) for one in value] if kind == "files" else placeless(value)
    machine = manifest.provenance.get("machine", {})
    return {
        "asset": artefact.asset,
        "partition": artefact.partition,
        "data_version": manifest.data_version,
        "code_version": manifest.code_version,
        "inputs": {str(one): version for one, version in manifest.upstream().items()},
        "settings": reads,
        "files": manifest.files,
        "checks": manifest.checks,
        "summary": manifest.summary,
        "provenance": {k: v for k, v in manifest.provenance.items() if k != "machine"}
        | {"machine": {k: machine[k] for k in this_machine() if k in machine}},
    }


def students(source: Source) -> Iterator[tuple[ArtefactId, str, str]]:
    """Yield each checkpoint of a track with its stage and track; those of other seeds and controls are not shown."""
    for artefact in source.of("lora_checkpoint"):
        trained = Trained.parse(artefact.partition)
        if trained.track in TRACKS and trained.seed == source.settings.seeds[0]:
            yield artefact, unstaged(artefact.asset)[1], trained.track


def write_models(source: Source, out: Path) -> None:
    """Write a folder for each student as model hubs have it, and the base model if it was built here."""
    for artefact, stage, track in students(source):
        place = out / "models" / f"{stage}-{track}"
        place.mkdir(parents=True, exist_ok=True)
        folder = source.lake.folder(artefact)
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, place / name)
        if (facts := folder / "training.json").is_file():  # its configuration names folders of the machine
            write_json(place / facts.name, without_folders(read_json(facts)))
        if (card := source.folder("model_card") / f"{stage}-{track}.md").is_file():
            shutil.copyfile(card, place / "README.md")
    base = source.folder("base_model")
    if (base / "base.json").is_file() and read_json(base / "base.json").get("kind") == "tiny":
        shutil.copytree(base / "model", out / "models" / "base", copy_function=shutil.copyfile)


def without_folders(value: Any) -> Any:
    """Return JSON in which the name alone is left of every path."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return placeless(value)


def held_out(source: Source) -> list[dict[str, Any]]:
    """Return the distinct test flows: text, class of most of its rows, and the number of its rows."""
    texts = pq.read_table(source.folder("flow_texts") / "texts.parquet").to_pydict()
    text_of = dict(zip(texts["flow_group"], texts["text"], strict=True))
    rows: dict[str, dict[str, int]] = {}
    for record in pq.read_table(source.folder("evaluation_split") / "records.parquet").to_pylist():
        if record["side"] == "test":
            rows.setdefault(record["flow_group"], {})[record["label"]] = record["rows"]
    return [
        {
            "flow_group": group,
            "flow": text_of[group],
            "label": max(sorted(of), key=lambda name: of[name]),
            "labels": sorted(of),
            "rows": sum(of.values()),
        }
        for group, of in sorted(rows.items())
        if group in text_of
    ]


def write_data(source: Source, out: Path) -> None:
    """Write the test set and each track's rows (prompt, completion) as JSON lines."""
    place = out / "data"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "test.jsonl").open("w", encoding="utf-8") as lines:
        for row in held_out(source):
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    for track in TRACKS:
        for artefact in (one for one in source.manifests if one.asset == track):
            with (
                (source.lake.folder(artefact) / "track.jsonl").open(encoding="utf-8") as chats,
                (place / f"{track}-{artefact.partition}.jsonl").open("w", encoding="utf-8") as lines,
            ):
                for chat in chats:
                    user, assistant = json.loads(chat)["messages"]
                    row = {"prompt": user["content"], "completion": assistant["content"]}
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")
