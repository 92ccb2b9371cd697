"""JSON of artefacts whose objects know where they are from, so that a key they lack is told with the artefact."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId


class LacksKey(UserError, KeyError):
    """Key that an artefact lacks; a KeyError too, so that a template can test for the key."""

    __str__ = Exception.__str__  # KeyError's has quotes around it


class ArtefactJson(dict[str, Any]):
    """JSON object of an artefact."""

    artefact = ""

    def __missing__(self, key: str) -> Any:
        """Raise LacksKey: only other code (`--accept-code`) writes an artefact without a key that is read."""
        raise LacksKey(self.lacks(key))

    def lacks(self, key: object) -> str:
        """Return the message for a missing key."""
        return f"{self.artefact} {made_otherwise(f'it lacks {key!r}')}"


def made_otherwise(reason: str) -> str:
    """Return the end of a message on an artefact that the report cannot show: the reason and the remedy."""
    return (
        f"was made by other code than this report's ({reason}): `iot-pipeline run` makes it again (with --accept-code, "
        "delete its folder first)"
    )


def artefact_json(artefact: ArtefactId, content: Mapping[str, Any]) -> ArtefactJson:
    """Return an object of an artefact."""
    found = ArtefactJson(content)
    found.artefact = str(artefact)
    return found


def parse(text: str, artefact: ArtefactId) -> Any:
    """Parse JSON of an artefact."""
    return json.loads(text, object_hook=lambda content: artefact_json(artefact, content))


def read(path: Path, artefact: ArtefactId) -> Any:
    """Read a JSON file of an artefact."""
    return parse(path.read_text(encoding="utf-8"), artefact)


def read_optional(path: Path, artefact: ArtefactId) -> ArtefactJson:
    """Read a JSON file of an artefact; an empty object if it is not there."""
    return artefact_json(artefact, read(path, artefact) if path.is_file() else {})
