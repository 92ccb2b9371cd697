"""Provenance Run RO-Crate of a bundle: the workflow, each artefact as the result of an action, and its parameters."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from iot_pipeline import __version__
from iot_pipeline.bundle.source import Source
from iot_pipeline.lake.atomic import sha256_file, write_json
from iot_pipeline.lake.store import MANIFEST, ArtefactId
from iot_pipeline.lineage.report_check import REPORT
from iot_pipeline.vocabulary import unstaged

FILE, WORKFLOW = "ro-crate-metadata.json", "workflow.json"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
WORKFLOW_PROFILE = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
TERMS = "https://w3id.org/ro/terms/workflow-run/context"
MEDIA = {".json": "application/json", ".jsonl": "application/jsonlines", ".md": "text/markdown", ".html": "text/html",
         ".csv": "text/csv", ".tex": "application/x-tex", ".png": "image/png", ".svg": "image/svg+xml",
         ".pdf": "application/pdf", ".parquet": "application/vnd.apache.parquet", ".yaml": "application/yaml",
         ".txt": "text/plain", ".env": "text/plain"}  # fmt: skip
Entity = dict[str, Any]


def write_workflow(source: Source, out: Path) -> None:
    """Write the graph of assets that were run, which is the crate's workflow."""
    assets = {artefact.asset for artefact in source.manifests}
    graph = {
        asset: sorted({upstream.asset for one, manifest in source.manifests.items()
                       if one.asset == asset for upstream in manifest.upstream()})
        for asset in sorted(assets)
    }  # fmt: skip
    write_json(out / WORKFLOW, {"engine": "dagster", "code": f"iot_pipeline {__version__}", "made_of": graph})


def write_crate(source: Source, out: Path, files: Iterable[str], day: str) -> None:
    """Write ro-crate-metadata.json over the bundle's files.

    Args:
        source: The lake.
        out: Folder of the bundle.
        files: Paths of its files within it.
        day: Date of publication.
    """
    files = sorted(files)
    actions = [_action(source, artefact) for artefact in source.manifests]
    tools = sorted({unstaged(artefact.asset)[0] for artefact in source.manifests})
    parameters = _parameters(source)
    graph: list[Entity] = [
        {
            "@id": FILE, "@type": "CreativeWork", "about": {"@id": "./"},
            "conformsTo": [{"@id": "https://w3id.org/ro/crate/1.1"},
                           {"@id": "https://w3id.org/workflowhub/workflow-ro-crate/1.0"}],
        },
        {
            "@id": "./", "@type": "Dataset", "datePublished": day,
            "name": f"Reviewer's bundle: {source.facts.data_set.title or source.facts.data_set.name}",
            "description": "Report, tables, figures, prompts, answers, configuration and lineage of one run of "
            "iot_pipeline. " + "; ".join(source.labels),
            "license": {"@id": "#licence"},
            "conformsTo": [{"@id": one} for one in PROFILES],
            "hasPart": [{"@id": name} for name in files],
            "mainEntity": {"@id": WORKFLOW},
            "mentions": [{"@id": "#run"}, {"@id": "#organize"}, *({"@id": one["@id"]} for one in actions)],
        },
        {"@id": "#licence", "@type": "CreativeWork", "name": source.facts.data_set.licence or "not stated",
         "description": "Licence of the flows; that of the code stands in its repository."},
        *({"@id": one, "@type": "CreativeWork", "name": name, "version": one.rsplit("/", 1)[1]}
          for one, name in PROFILES.items()),
        *(_file(out, name) for name in files if name != WORKFLOW),
        _workflow(tools, parameters),
        *({"@id": f"#tool-{tool}", "@type": "SoftwareApplication", "name": tool,
           "softwareVersion": __version__} for tool in tools),
        *({"@id": f"{WORKFLOW}#{tool}", "@type": "HowToStep", "position": place, "name": tool,
           "workExample": {"@id": f"#tool-{tool}"}} for place, tool in enumerate(tools)),
        *parameters,
        *({"@id": f"#parameter-{one['name']}", "@type": "FormalParameter", "name": one["name"],
           "additionalType": "Text", "conformsTo": {"@id": "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"}}
          for one in parameters),
        {"@id": "#dagster", "@type": ["ComputerLanguage", "SoftwareApplication"], "name": "Dagster",
         "url": "https://dagster.io", "softwareVersion": _version("dagster")},
        {
            "@id": "#run", "@type": "CreateAction", "name": "Run of the workflow", "endTime": _made(source, REPORT),
            "description": "Every artefact of the report, made once, by the actions that #organize names.",
            "instrument": {"@id": WORKFLOW}, "object": [{"@id": one["@id"]} for one in parameters],
            "result": [{"@id": "report/report.html"}], "actionStatus": "http://schema.org/CompletedActionStatus",
        },
        {
            "@id": "#organize", "@type": "OrganizeAction", "name": "Orchestration by Dagster",
            "instrument": {"@id": "#dagster"}, "result": {"@id": "#run"},
            "object": [{"@id": f"#control-{one['@id'][1:]}"} for one in actions],
        },
        *({"@id": f"#control-{one['@id'][1:]}", "@type": "ControlAction", "object": {"@id": one["@id"]},
           "instrument": {"@id": f"{WORKFLOW}#{one['instrument']['@id'].removeprefix('#tool-')}"}} for one in actions),
        *actions,
        *(_artefact(source, artefact) for artefact in source.manifests),
    ]  # fmt: skip
    context = ["https://w3id.org/ro/crate/1.1/context", TERMS]
    write_json(out / FILE, {"@context": context, "@graph": [_flat(one) for one in graph]})


def _flat(entity: Entity) -> Entity:
    """Return an entity whose lists of one value are that value, as RO-Crate recommends."""
    return {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in entity.items()
            if value != []}  # fmt: skip


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _workflow(tools: list[str], parameters: list[Entity]) -> Entity:
    return {
        "@id": WORKFLOW, "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
        "name": "iot_pipeline", "programmingLanguage": {"@id": "#dagster"}, "encodingFormat": "application/json",
        "conformsTo": {"@id": WORKFLOW_PROFILE}, "version": __version__,
        "hasPart": [{"@id": f"#tool-{tool}"} for tool in tools],
        "step": [{"@id": f"{WORKFLOW}#{tool}"} for tool in tools],
        "input": [{"@id": f"#parameter-{one['name']}"} for one in parameters], "output": [],
    }  # fmt: skip


def _parameters(source: Source) -> list[Entity]:
    """Return the settings that the artefacts read, as values of the workflow's parameters."""
    from iot_pipeline.reporting.gather import placeless

    values: dict[str, Any] = {}
    for manifest in source.manifests.values():
        for name, value in manifest.settings.items():
            if name.startswith("setting "):
                values[name.removeprefix("setting ")] = placeless(value)
    return [
        {"@id": f"#setting-{name}", "@type": "PropertyValue", "name": name, "value": json.dumps(value),
         "exampleOfWork": {"@id": f"#parameter-{name}"}}
        for name, value in sorted(values.items())
    ]  # fmt: skip


def entity_id(artefact: ArtefactId) -> str:
    """Return the id of an artefact in the crate."""
    return f"#artefact-{artefact.file_name}"


def _action(source: Source, artefact: ArtefactId) -> Entity:
    manifest = source.manifests[artefact]
    provenance = manifest.provenance
    inputs = [{"@id": entity_id(upstream)} for upstream in manifest.upstream()]
    return {
        "@id": f"#make-{artefact.file_name}", "@type": "CreateAction", "name": f"Make {artefact}",
        "instrument": {"@id": f"#tool-{unstaged(artefact.asset)[0]}"}, "object": inputs,
        "result": [{"@id": entity_id(artefact)}],
        "actionStatus": "http://schema.org/CompletedActionStatus",
        "endTime": _made(source, artefact),
        "description": f"code {manifest.code_version}, commit {provenance.get('code_commit')}, run "
        f"{provenance.get('run_id')}, {provenance.get('seconds')} s",
    }  # fmt: skip


def _made(source: Source, artefact: ArtefactId) -> str:
    """Return when an artefact was finished, to the second."""
    told = (source.lake.folder(artefact) / MANIFEST).stat().st_mtime
    return datetime.fromtimestamp(told, UTC).isoformat(timespec="seconds")


def _artefact(source: Source, artefact: ArtefactId) -> Entity:
    manifest = source.manifests[artefact]
    return {
        "@id": entity_id(artefact), "@type": "CreativeWork", "name": str(artefact),
        "identifier": manifest.data_version, "version": manifest.code_version,
        "description": ", ".join(f"{name} sha256 {facts['sha256']}" for name, facts in manifest.files.items())[:4000],
    }  # fmt: skip


def _file(out: Path, name: str) -> Entity:
    path = out / name
    about = {"about": {"@id": "./"}} if name == "README.md" else {}
    return about | {
        "@id": name, "@type": "File", "name": path.name, "contentSize": str(path.stat().st_size),
        "encodingFormat": MEDIA.get(path.suffix, "application/octet-stream"), "sha256": sha256_file(path),
    }  # fmt: skip
