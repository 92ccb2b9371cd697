"""Reads of an asset body as its manifest records them, and their present values."""

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.flows.download import QUERY, without_credentials
from iot_pipeline.flows.source import local_files
from iot_pipeline.lake.code_version import code_version
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.setting_sections import Section
from iot_pipeline.settings import PROJECT_ROOT, SECTIONS, Settings


class RecordedSettings:
    """Settings that record, by the variable's name, what is read of any section but `run`."""

    def __init__(self, settings: Settings, seen: dict[str, Any], section: Section | None = None) -> None:
        self._settings, self._seen, self._section = settings, seen, section

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._section or self._settings, name)
        if self._section is not None:
            self._seen[f"setting {type(self._section).model_fields[name].alias or name}"] = recorded(value)
        elif name in SECTIONS and name != "run":
            return RecordedSettings(self._settings, self._seen, value)
        return value

    def with_run(self, **changes: Any) -> "RecordedSettings":
        """Copy the settings with other values in the section `run`."""
        return RecordedSettings(self._settings.with_run(**changes), self._seen)


def present_value(lake: Lake, settings: Settings) -> Callable[[str], Any]:
    """Return a function from a recorded read (`setting x`, `file x`, `files x`, ...) to its present value.

    It caches the lineage that it has checked, so use it for one look at the lake.
    """
    known: dict[ArtefactId, str] = {}
    made = cache(lake.artefacts)

    def value(name: str) -> Any:
        kind, _, rest = name.partition(" ")
        if kind == "setting":
            return recorded(settings.value(rest))
        try:
            if kind == "code":
                return code_version(rest)
            if kind == "file":
                return file_version(PROJECT_ROOT / rest, lake)
            if kind == "files":
                return [str(file) for file in local_files(rest)]
        except (UserError, ValueError):  # a module or source that was, and is no more
            return "missing"
        return [str(a) for a in made() if a.belongs_to(rest) and not lake.broken_lineage(a, value, known)]

    return value


def to_json(value: Any) -> Any:
    """Convert a value to JSON types: paths become text, numpy numbers Python's, tuples and sets lists."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        return to_json(value.item() if getattr(value, "ndim", 0) == 0 else value.tolist())
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def file_version(path: Path, lake: Lake) -> str:
    """Return the content hash of a file outside the lake, `missing` without a file."""
    return lake.source_hash(path) if path.is_file() else "missing"


def recorded(value: Any) -> Any:
    """Return a setting as stored in a manifest: URLs without credentials, their queries as a digest."""
    if isinstance(value, Path) and value.is_relative_to(PROJECT_ROOT):
        return str(value.relative_to(PROJECT_ROOT))  # a lake stays fresh when the checkout moves
    if not isinstance(value, str):
        return to_json(value)
    told, asked = without_credentials(value), [query for _, query in QUERY.findall(value)]
    return f"{told} ({hashlib.sha256(repr(asked).encode()).hexdigest()[:8]})" if asked else told
