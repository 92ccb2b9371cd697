"""Identity of an artefact, and what its manifest says."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from iot_pipeline.errors import UserError, printable
from iot_pipeline.lake.integrity import FileFacts, FileName
from iot_pipeline.vocabulary import partition_parts, unstaged


@dataclass(frozen=True, order=True)
class ArtefactId:
    """Artefact identifier: asset key and partition key (`2027|original`, `10K`, or empty)."""

    asset: str
    partition: str = ""

    def __str__(self) -> str:
        return f"{self.asset}[{self.partition}]" if self.partition else self.asset

    def belongs_to(self, name: str) -> bool:
        """Return True if the asset is `name`, or `name` of some stage (`lora_checkpoint_10K`)."""
        return self.asset == name or unstaged(self.asset)[0] == name

    @property
    def input_key(self) -> str:
        """Key of an input in a manifest: `asset@partition`."""
        return f"{self.asset}@{self.partition}"

    @classmethod
    def of_input(cls, key: str) -> ArtefactId:
        """Read the key of an input."""
        return cls(*key.split("@", 1))

    @property
    def file_name(self) -> str:
        """File name of this artefact's lock and cache files: `lora_checkpoint_10K@2027-original`."""
        return f"{self.asset}@{'-'.join(partition_parts(self.partition))}"


class CheckFacts(TypedDict):
    """Verdict of one asset check."""

    passed: bool
    blocking: bool
    facts: dict[str, Any]


@dataclass
class Manifest:
    """Lineage of an artefact: inputs, settings, code version, files and checks.

    `data_version` covers the content of the non-volatile files; `digest` covers everything else in the manifest (empty
    if an earlier version of the project wrote it).
    """

    asset: str
    partition: str
    data_version: str
    code_version: str
    inputs: dict[str, str]
    settings: dict[str, Any]
    files: dict[FileName, FileFacts]
    checks: dict[str, CheckFacts] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    digest: str = ""

    def upstream(self) -> dict[ArtefactId, str]:
        """Return the data version of each input."""
        return {ArtefactId.of_input(key): version for key, version in self.inputs.items()}

    def failed_blocking(self) -> list[str]:
        """Return the names of blocking checks that did not pass."""
        return [name for name, check in self.checks.items() if check["blocking"] and not check["passed"]]

    def listings(self) -> list[str]:
        """Return the names of the assets of which this artefact takes whatever is fresh, and leaves out what is not."""
        return [name.removeprefix("artefacts ") for name in self.settings if name.startswith("artefacts ")]

    def describe_failures(self) -> str:
        """Describe the failed blocking checks, each with its facts: `good (seed: 13)`."""
        facts = {name: ", ".join(f"{k}: {_joined(v)}" for k, v in self.checks[name]["facts"].items())
                 for name in self.failed_blocking()}  # fmt: skip
        return "; ".join(f"{name} ({told})" if told else name for name, told in facts.items())


@cache
def _manifests() -> TypeAdapter[Manifest]:
    """Return the validating reader of manifests; created on first use, as it takes 10 ms."""
    return TypeAdapter(Manifest)


def parse_manifest(data: bytes | str, place: Path | str, remedy: str) -> Manifest:
    """Read a manifest; UserError, with where it is and a remedy, if it is none or names a file outside its folder."""
    try:
        return _manifests().validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        told = f"{where}: {first['msg']}" if where else first["msg"]
        raise UserError(f"{place} is not a manifest ({printable(told, '')[:300]}); {remedy}") from None


def _joined(value: Any) -> str:
    """Format a fact; the sentences of a list are set apart."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return " | ".join(map(str, value)) if isinstance(value, list) else str(value)
