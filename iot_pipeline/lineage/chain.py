"""Chain of an artefact: every artefact that it was made of, down to prompts and source files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.lake.integrity import SHORT
from iot_pipeline.lake.store import MANIFEST, SNAPSHOTS, ArtefactId, Lake, Manifest
from iot_pipeline.reporting.artefact_json import read_optional
from iot_pipeline.reporting.gather import files_read
from iot_pipeline.vocabulary import TRACKS, Trained, partition_parts

ASKED = {*TRACKS, "validation_answers", "zero_shot_teacher"}  # assets whose usage.json tells what answers cost
COSTS = ("requests", "prompt_tokens", "completion_tokens", "billed_usd")
KINDS = {"setting": "settings", "file": "outside_files", "files": "listings", "code": "code"}


@dataclass(frozen=True)
class Link:
    """One artefact of a chain, with everything that its manifest tells of how it was made.

    `problem`: how its files differ from the manifest, or an input from what it was made of; empty if they do not.
    """

    artefact: str
    folder: str
    data_version: str
    code_version: str
    made: str
    files: dict[str, dict[str, Any]]
    inputs: dict[str, str]
    settings: dict[str, Any]
    outside_files: dict[str, str]
    seed: int | None
    code_commit: str | None
    run_id: str | None
    seconds: float | None
    label: str | None
    teacher: str | None
    rows: int | None
    cost: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class UsedPrompt:
    """A prompt upstream: the sha256 of its text names its snapshot in the lake."""

    name: str
    sha256: str
    snapshot: str
    text: str


@dataclass(frozen=True)
class Chain:
    """Artefacts from what was asked for up to the source, nearest first, and the prompts among them.

    `cost` is the sum over the tracks in the chain.
    """

    links: list[Link]
    prompts: list[UsedPrompt]
    cost: dict[str, Any]

    @property
    def problems(self) -> list[str]:
        """Sentences on artefacts whose files are not as written."""
        return [f"{link.artefact}: {link.problem}" for link in self.links if link.problem]


def chain_of(lake: Lake, *artefacts: ArtefactId) -> Chain:
    """Return the chain of artefacts, with the prompts that they read, whatever these say now.

    Raises UserError if one of the artefacts has not been made.
    """
    made: list[tuple[ArtefactId, Manifest]] = []
    for artefact, found in _upstream(lake, artefacts):
        if found is None:
            raise UserError(f"{artefact} has not been made in {lake.address}; `iot-pipeline run` makes it")
        made.append((artefact, found))
    links = [_link(lake, artefact, manifest) for artefact, manifest in made]
    read = {(one, manifest.data_version) for one, manifest in made if one in artefacts}
    read |= {one for _, manifest in made for one in manifest.upstream().items()}
    prompts = [_prompt(lake, one, version) for one, version in sorted(read) if one.asset == "prompt"]
    told = [link.cost for link in links if link.cost]
    cost = {name: round(sum(one.get(name) or 0 for one in told), 6) for name in COSTS} if told else {}
    return Chain(links, prompts, cost)


def _prompt(lake: Lake, artefact: ArtefactId, version: str) -> UsedPrompt:
    """Return a prompt as it was read: of a version that was replaced there is the snapshot."""
    manifest, text = lake.manifest(artefact), ""
    if manifest is not None and manifest.data_version == version:
        text = (lake.folder(artefact) / "prompt.md").read_text(encoding="utf-8")
    elif (snapshot := lake.snapshot(version)).is_file():
        text = snapshot.read_text(encoding="utf-8")
    return UsedPrompt(artefact.partition, version, f"{SNAPSHOTS}/{version}.md", text)


def _upstream(lake: Lake, artefacts: tuple[ArtefactId, ...]) -> Iterator[tuple[ArtefactId, Manifest | None]]:
    """Yield artefacts and all that they were made of, each once, one step away from the first after the other.

    The manifest is None for what is not in the lake.
    """
    todo, seen = list(artefacts), set[ArtefactId]()
    while todo:
        artefact = todo.pop(0)
        if artefact in seen:
            continue
        seen.add(artefact)
        manifest = lake.manifest(artefact)
        yield artefact, manifest
        todo += manifest.upstream() if manifest is not None else ()


def _link(lake: Lake, artefact: ArtefactId, manifest: Manifest) -> Link:
    folder, provenance = lake.place(artefact), manifest.provenance
    reads: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS.values()}
    for name, value in manifest.settings.items():
        kind, _, rest = name.partition(" ")
        if kind in KINDS:
            reads[KINDS[kind]][rest] = value
    usage = read_optional(lake.folder(artefact) / "usage.json", artefact) if artefact.asset in ASKED else {}
    made = datetime.fromtimestamp((folder / MANIFEST).stat().st_mtime)
    return Link(
        artefact=str(artefact),
        folder=str(folder.relative_to(lake.root)),
        data_version=manifest.data_version,
        code_version=manifest.code_version,
        made=made.isoformat(" ", "seconds"),
        files={name: {k: facts[k] for k in ("sha256", "bytes")} for name, facts in manifest.files.items()},
        inputs={str(one): version for one, version in manifest.upstream().items()},
        settings=reads["settings"],
        outside_files=reads["outside_files"],
        seed=_seed(artefact, reads["settings"]),
        code_commit=provenance.get("code_commit"),
        run_id=provenance.get("run_id"),
        seconds=provenance.get("seconds"),
        label=provenance.get("label"),
        teacher=provenance.get("teacher"),
        rows=manifest.summary.get("rows"),
        cost={name: usage[name] for name in COSTS if name in usage},
        problem=next(iter([*lake.altered(artefact, manifest), *made_again(lake, manifest.upstream())]), ""),
    )


def made_again(lake: Lake, inputs: Mapping[ArtefactId, str]) -> list[str]:
    """Say of each input that is another version now than the one that was read."""
    now = ((one, version, lake.manifest(one)) for one, version in inputs.items())
    return [
        f"it was made of {one} {version[:SHORT]}, which is {made.data_version[:SHORT]} now"
        for one, version, made in now
        if made is not None and made.data_version != version
    ]


def _seed(artefact: ArtefactId, settings: Mapping[str, Any]) -> int | None:
    """Return the training seed of a student, else the seed that the artefact read."""
    if len(partition_parts(artefact.partition)) == len(Trained._fields):
        return Trained.parse(artefact.partition).seed
    seeds = [settings[name] for name in ("seed", "split_seed", "teacher_seed", "base_seed") if name in settings]
    return next(iter(seeds), None)


def upstream_of(lake: Lake, artefact: ArtefactId) -> set[ArtefactId]:
    """Return an artefact and all that it was made of, as far as it is in the lake."""
    return {one for one, manifest in _upstream(lake, (artefact,)) if manifest is not None}


def cited_files(lake: Lake, artefact: ArtefactId) -> list[dict[str, Any]]:
    """Return path in the lake, sha256 and size of the files that the report reads of an artefact."""
    manifest = lake.manifest(artefact)
    files = manifest.files if manifest else {}
    folder = lake.place(artefact).relative_to(lake.root)
    return [
        {"path": str(folder / name), "sha256": files[name]["sha256"], "bytes": files[name]["bytes"]}
        for name in files_read(artefact, files)
    ]


def parse_artefact(text: str) -> ArtefactId:
    """Read `asset` or `asset[partition]`."""
    asset, mark, rest = text.strip().partition("[")
    return ArtefactId(asset, rest.removesuffix("]") if mark else "")
