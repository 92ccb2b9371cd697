"""Page of an asset in the UI, as its manifest knows it: label, commit, seeds, inputs and files as links."""

from typing import Any
from urllib.parse import quote

import dagster as dg

from iot_pipeline.escaping import markdown_line
from iot_pipeline.lake.store import ArtefactId, Manifest
from iot_pipeline.vocabulary import TRACKS, partition_parts, unstaged

# Where `iot-pipeline ui` serves files and lineage, on whatever port (commands/lake_files.py, commands/trace_pages.py).
LAKE_URL, TRACE_URL, ROWS_URL = "/lake/", "/trace/artefact/", "/trace/rows/"
MOST_FILES = 12
REAL = "none: nothing that it is made of is simulated, embedded or tiny"
FIRST = ("report.html", "report.md", "README.md", "prompt.md", "track.jsonl", "eval.json")  # files that readers want


def page_metadata(artefact: ArtefactId, manifest: Manifest) -> dict[str, Any]:
    """Return the metadata of a materialisation that its manifest knows; its data version is Dagster's own field."""
    provenance = manifest.provenance
    seeds = {name.removeprefix("setting "): value for name, value in manifest.settings.items() if "seed" in name}
    shown: dict[str, Any] = {
        "label": "; ".join(provenance.get("labels", [])) or REAL,
        "code_commit": str(provenance.get("code_commit") or "unknown"),
        "build_seconds": float(provenance.get("seconds") or 0.0),
        "lineage": dg.MetadataValue.md(lineage_links(artefact)),
        "inputs": dg.MetadataValue.md(inputs_table(manifest)),
        "files": dg.MetadataValue.md(files_list(artefact, manifest)),
        "reads": dg.MetadataValue.json(manifest.settings),
    }
    return shown | ({"seeds": ", ".join(f"{name}={value}" for name, value in seeds.items())} if seeds else {})


def inputs_table(manifest: Manifest) -> str:
    """Return the inputs as a Markdown table: page of each asset, its data version, its folder in the lake."""
    rows = [_input_row(*one) for one in sorted(manifest.upstream().items())]
    return "\n".join(["| input | data version | files |", "|---|---|---|", *rows]) if rows else "none"


def _input_row(artefact: ArtefactId, version: str) -> str:
    name = markdown_line(str(artefact))
    return f"| [{name}]({ui_page(artefact)}) | `{version[:12]}` | [folder]({folder_url(artefact)}) |"


def ui_page(artefact: ArtefactId) -> str:
    """Return the address of an artefact's page in the UI."""
    page = f"/assets/{quote(artefact.asset)}"
    return page + (f"?view=partitions&partition={quote(artefact.partition, safe='')}" if artefact.partition else "")


def lineage_links(artefact: ArtefactId) -> str:
    """Return links to an artefact's lineage and, of what has some, to its training rows."""
    links = [f"[is it stale, and what is it made of?]({trace_url(artefact)})"]
    links += [f"[training rows]({rows_url(*of)})" for of in trained_on(artefact)]
    return " · ".join(links)


def trained_on(artefact: ArtefactId) -> list[tuple[str, str]]:
    """Return track and stage of the training rows of a track's increment, of tensors or of a student; [] of others."""
    stage = unstaged(artefact.asset)[1]
    if artefact.asset in TRACKS:
        return [(artefact.asset, artefact.partition)]
    parts = partition_parts(artefact.partition)
    return [(parts[-1], stage)] if stage and parts and parts[-1] in TRACKS else []


def trace_url(artefact: ArtefactId) -> str:
    """Return the address of an artefact's lineage beside the UI."""
    return TRACE_URL + folder_url(artefact).removeprefix(LAKE_URL)


def rows_url(track: str, stage: str) -> str:
    """Return the address of a track's training rows beside the UI."""
    return f"{ROWS_URL}{quote(track, safe='')}/{quote(stage, safe='')}/"


def files_list(artefact: ArtefactId, manifest: Manifest) -> str:
    """Return the artefact's files as Markdown links, those that readers want first."""
    names = sorted(manifest.files, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    links = [f"- [{markdown_line(name)}]({folder_url(artefact)}{quote(name)})" for name in names[:MOST_FILES]]
    links += [f"- [manifest.json]({folder_url(artefact)}manifest.json)", f"- [all]({folder_url(artefact)})"]
    return "\n".join(links)


def folder_url(artefact: ArtefactId) -> str:
    """Return the address of an artefact's folder beside the UI; it names no host, so it holds after a move."""
    parts = [artefact.asset, *partition_parts(artefact.partition)]
    return LAKE_URL + "".join(f"{quote(part, safe='')}/" for part in parts)
