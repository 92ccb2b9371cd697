"""`iot-pipeline verify --replay`: artefacts made again in scratch lakes, and whether what is promised of them holds."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from iot_pipeline.commands.console import working
from iot_pipeline.defs.replay import Replayed, replay
from iot_pipeline.errors import UserError, printable
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.lineage.chain import parse_artefact
from iot_pipeline.settings import Settings


def replayed(definitions: Any, settings: Settings, names: list[str]) -> Iterator[Replayed]:
    """Replay the named artefacts one after the other.

    An asset's name alone means all its partitions in the lake. Raises UserError for one that is not there, before
    anything is made.
    """
    lake = Lake(settings.lake_path, read_only=True)
    lake.check_exists()
    there = lake.artefacts()
    chosen: dict[ArtefactId, None] = {}
    for name in names:
        artefact = parse_artefact(name)
        found = [one for one in there if one == artefact or (not artefact.partition and one.belongs_to(artefact.asset))]
        if not found:
            raise UserError(f"--replay {name}: there is no such artefact; `iot-pipeline status` lists what there is")
        chosen |= dict.fromkeys(found)
    for artefact in chosen:
        with working("replaying") as say:
            say(str(artefact))
            outcome = replay(definitions, settings, artefact)
        yield outcome


def show(outcomes: Iterator[Replayed], as_json: bool) -> int:
    """Print each outcome as it comes; return the exit code, 1 if a promise was not kept."""
    told = []
    for outcome in outcomes:
        told.append(outcome)
        if not as_json:
            print(printable(str(outcome)), flush=True)
    if as_json:
        print(json.dumps([asdict(one) for one in told], indent=1))
    return int(not all(one.kept for one in told))
