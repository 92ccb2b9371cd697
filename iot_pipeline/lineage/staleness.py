"""Stale artefacts of a lake: settings, prompts, files or code have changed since, or a blocking check did not pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from iot_pipeline.lake.store import ArtefactId, Lake, Manifest


@dataclass(frozen=True)
class Stale:
    """An artefact that must be made again, why, and how many others follow from it."""

    artefact: str
    reasons: list[str]
    followers: int

    def __str__(self) -> str:
        many = "s follow" if self.followers > 1 else " follows"
        more = f" ({self.followers} more artefact{many} from it)" if self.followers else ""
        return f"{self.artefact}: {'; '.join(self.reasons)}{more}"


def stale_roots(lake: Lake, versions: Mapping[str, str], present: Callable[[str], Any]) -> list[Stale]:
    """Return the artefacts that are stale by themselves, apart from altered files and changed inputs.

    Args:
        lake: The lake.
        versions: Present code version by asset; an asset without one is not compared.
        present: Returns the present value of a recorded read (`setting seed`).
    """
    manifests = {one: made for one in lake.artefacts() if (made := lake.manifest(one)) is not None}
    found = []
    for artefact, manifest in manifests.items():
        version = versions.get(artefact.asset, manifest.code_version)
        altered = lake.altered(artefact, manifest)
        reasons = [
            reason
            for reason in lake.stale_reasons(artefact, version, present)
            if reason not in altered and not reason.startswith(("input ", "artefacts "))
        ]
        # A listing that lacks one of its artefacts follows from what is stale of that one; one more follows from none.
        listed = {name: value for name, value in manifest.settings.items() if name.startswith("artefacts ")}
        reasons += [
            f"{one} was made since" for name, value in listed.items() for one in present(name) if one not in value
        ]
        if reasons:
            found.append(Stale(str(artefact), reasons, len(followers(artefact, manifests))))
    return found


def followers(artefact: ArtefactId, manifests: Mapping[ArtefactId, Manifest]) -> set[ArtefactId]:
    """Return the artefacts that were made of one, directly or not."""
    found, todo = set[ArtefactId](), [artefact]
    while todo:
        key = todo.pop().input_key
        new = {one for one, manifest in manifests.items() if key in manifest.inputs} - found
        found |= new
        todo += new
    return found
