"""Run of a bundle: its settings, prompts and answers for a new lake, and the comparison of both."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from iot_pipeline.augmentation.ask import check_imported
from iot_pipeline.bundle.contents import ANSWERS, LINEAGE, MADE, SETTINGS
from iot_pipeline.bundle.seal import SUMS, check_bundle
from iot_pipeline.env_file import ENV_FILE, expanded
from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import read_json, sha256_file
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.lineage.promises import promise_of
from iot_pipeline.lineage.report_check import REPORT
from iot_pipeline.reporting.exhibits import Exhibit, read_exhibits
from iot_pipeline.settings import FIELDS, PROJECT_ROOT, Settings
from iot_pipeline.teacher.archive import import_answers
from iot_pipeline.teacher_factory import store_of

# Columns of the report's tables that tell times of a machine, or which run made something.
TIMED = re.compile(
    r"time|tokens per second|p95, single|flows a second|\brun$|code commit|data version|made of|seconds|requests sent"
)
# They tell times, or (cost_report) requests of the lake itself, which a run from a bundle does not send.
REPORTS = {"paper_report", "model_card", "inference_benchmark", "claims_audit", "cost_report"}
TIMES_FROM = "inference_benchmark"
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?:e-?\d+)?")
TOLD = ("asset", "partition", "data_version")  # of an artefact
CLOSE, SMALL = 1e-3, 0.01  # as the promises' tolerance of scores


@dataclass
class Comparison:
    """Outcome of a run from a bundle: artefacts that are equal, and those that differ, by what is promised of them.

    cells: cells of the report that differ, times and last digits apart.
    """

    equal: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    unpromised: list[str] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """True if nothing is missing and all that is promised is equal."""
        return not (self.missing or self.broken)


def use_bundle(folder: Path) -> None:
    """Let this process's settings be those of a bundle, in a lake of its own, with answers from its file alone.

    Raises UserError if it is no bundle or not as it was written.
    """
    folder = expanded(folder).absolute()
    found = check_bundle(folder)
    if found.mismatches:
        raise UserError(f"{folder} is not as it was written: {found.mismatches[0]}; `iot-pipeline verify {folder}`")
    rows_apart = _own_settings(folder / SETTINGS).get("IOT_SOURCE", "simulate") != "simulate"
    for name in [name for name in os.environ if decides_content(name)]:
        if not (rows_apart and name == "IOT_SOURCE"):  # the files of a real source are elsewhere
            del os.environ[name]
    os.environ[ENV_FILE] = str(folder / SETTINGS)
    os.environ["IOT_TEACHER_REPLAY"] = "true"
    # Two bundles of one data set must not share a lake.
    own = PROJECT_ROOT / "data_lake" / f"from-{folder.name}-{sha256_file(folder / SUMS)[:8]}"
    os.environ.setdefault("IOT_LAKE", str(own))


def decides_content(variable: str) -> bool:
    """Return True for a variable whose value decides what is made, and is a bundle's own to set."""
    setting = variable.removeprefix("IOT_").lower()
    section = FIELDS.get(setting, ("", ""))[0]
    return variable.startswith("IOT_") and (setting == "profile" or setting in MADE or section not in ("", "run"))


def _own_settings(file: Path) -> dict[str, str]:
    """Read the settings of a bundle; UserError for one that a bundle of a stranger must not have.

    Those of the machine would write or send elsewhere (a store of answers, a webhook), and `${NAME}` in a source's URL
    would send the value of a variable, such as a key.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # without it the defaults would be taken for the bundle's
        raise UserError(f"{file} cannot be read; such a bundle is not run") from None
    found = {name: value or "" for name, value in dotenv_values(stream=StringIO(text), interpolate=False).items()}
    for name, value in found.items():
        if not decides_content(name):
            raise UserError(f"{file} sets {name}, which is not for a bundle to set; such a bundle is not run")
        if "${" in value:
            raise UserError(f"{file}: {name} takes the value of a variable of this machine; such a bundle is not run")
    return found


def bring_answers(settings: Settings, folder: Path) -> int:
    """Import the answers of a bundle into the lake's store; return how many it has. UserError if one is refused."""
    location = store_of(settings)
    found = import_answers(location, expanded(folder) / ANSWERS, check_imported)
    if found.refused:
        kinds = ", ".join(f"{kind} ({n:,})" for kind, n in found.refused.most_common())
        raise UserError(f"{folder / ANSWERS}: answers are refused by the present rules: {kinds}")
    return found.added + found.kept


def compare(settings: Settings, folder: Path) -> Comparison:
    """Compare the lake of a run with the bundle that it was made from."""
    lake, found = Lake(settings.lake_path, read_only=True), Comparison()
    for one in _told_artefacts(expanded(folder) / LINEAGE):
        artefact = ArtefactId(one["asset"], one["partition"])
        manifest = lake.manifest(artefact)
        if manifest is None:
            found.missing.append(str(artefact))
        elif manifest.data_version == one["data_version"]:
            found.equal.append(str(artefact))
        elif artefact.asset in REPORTS or _differing_machine(one, manifest.provenance) != "bytes":
            found.unpromised.append(str(artefact))
        else:
            found.broken.append(str(artefact))
    if lake.manifest(REPORT) is not None:
        found.cells = differing_cells(read_exhibits(expanded(folder) / "report"), read_exhibits(lake.folder(REPORT)))
    return found


def _told_artefacts(lineage: Path) -> list[dict[str, Any]]:
    """Read what a bundle tells of artefacts; UserError if it is no such list: a stranger may have written it."""
    try:
        told = read_json(lineage)["artefacts"]
        whole = all(
            isinstance(one["provenance"], dict) and all(isinstance(one[key], str) for key in TOLD) for one in told
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise UserError(f"{lineage} does not tell artefacts with their versions: it cannot be compared")
    return list(told)


def _differing_machine(told: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what is promised of an artefact, by whether both were made on machines alike."""
    promise = promise_of(told["asset"])
    return promise.here if told["provenance"].get("machine") == now.get("machine") else promise.elsewhere


def differing_cells(was: list[Exhibit], now: list[Exhibit]) -> list[str]:
    """List the cells and numbers of two reports that differ, times and runs apart."""
    by_title = {(one.kind, one.chapter, one.title): one for one in now}
    found = []
    for one in was:
        other = by_title.get((one.kind, one.chapter, one.title))
        if other is None:
            found.append(f"{one.name}: not in the new report")
            continue
        if len(one.rows) != len(other.rows):
            found.append(f"{one.name}: {len(one.rows)} rows, now {len(other.rows)}")
            continue
        if one.columns != other.columns or list(map(len, one.rows)) != list(map(len, other.rows)):
            found.append(f"{one.name}: other columns")
            continue
        for row, new in zip(one.rows, other.rows, strict=True):
            found += [f"{one.name}, {told}" for told in _in_row(one, row, new)]
    return found


def _in_row(exhibit: Exhibit, row: list[str], new: list[str]) -> list[str]:
    """List the cells of a row that differ by more than times and last digits."""
    if exhibit.chapter == "inference" or any(TIMES_FROM in cell for cell in row):
        return []
    columns = exhibit.columns or [""] * len(row)
    return [
        f"row {row[0]}, column {column}: {cell}, now {other}"
        for column, cell, other in zip(columns, row, new, strict=True)
        if cell != other and not TIMED.search(column) and not _close(cell, other)
    ]


def _close(cell: str, other: str) -> bool:
    """Return True if two cells differ in the last digits of their numbers alone."""
    if NUMBER.sub("", cell) != NUMBER.sub("", other):
        return False
    pairs = zip(NUMBER.findall(cell), NUMBER.findall(other), strict=True)
    numbers = [(float(one.replace(",", "")), float(two.replace(",", ""))) for one, two in pairs]
    return all(abs(a - b) <= CLOSE * max(abs(a), abs(b), SMALL) for a, b in numbers)
