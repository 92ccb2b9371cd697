"""Page of an asset in the UI, as its manifest knows it: label, commit, seeds, inputs and files as links."""

from typing import Any
from urllib.parse import quote

import dagster as dg

from iot_pipeline.escaping import markdown_line
from iot_pipeline.lake.store import ArtefactId, Manifest
from iot_pipeline.vocabulary import partition_parts

LAKE_URL = "/lake/"  # where `iot-pipeline ui` serves the lake's files, on whatever port (commands/lake_files.py)
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
        "inputs": dg.MetadataValue.md(inputs_table(manifest)),
        "files": dg.MetadataValue.md(files_list(artefact, manifest)),
        "reads": dg.MetadataValue.json(manifest.settings),
    }
    return shown | ({"seeds": ", ".join(f"{name}={value}" for name, value in seeds.items())} if seeds else {})


def inputs_table(manifest: Manifest) -> str:
    """Return the inputs as a Markdown table: page of each asset, its data version, its folder in the lake."""
    rows = [_input_row(ArtefactId(*key.split("@", 1)), version) for key, version in sorted(manifest.inputs.items())]
    return "\n".join(["| input | data version | files |", "|---|---|---|", *rows]) if rows else "none"


def _input_row(artefact: ArtefactId, version: str) -> str:
    page = f"/assets/{quote(artefact.asset)}"
    page += f"?view=partitions&partition={quote(artefact.partition, safe='')}" if artefact.partition else ""
    name = markdown_line(str(artefact)).replace("|", "\\|")
    return f"| [{name}]({page}) | `{version[:12]}` | [folder]({folder_url(artefact)}) |"


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
