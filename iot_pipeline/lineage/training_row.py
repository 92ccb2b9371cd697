"""Lineage of one training row: flow, source row, request, prompt, answer, attempts and price."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import sqlalchemy as sa

from iot_pipeline.errors import UserError
from iot_pipeline.flows.sql import connect, scan
from iot_pipeline.lake.store import SNAPSHOTS, ArtefactId, Lake
from iot_pipeline.teacher.store.database import Location, shown
from iot_pipeline.teacher.store.requests import read_requests
from iot_pipeline.teacher.store.schema import attempts as ledger
from iot_pipeline.teacher.store.store import Store, exists
from iot_pipeline.vocabulary import STAGES, TRACKS, stages_up_to

NOT_RAW = "the source row is not told: rows were rejected or left out before this one"
Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Place of a training row: the increment that holds it, and its row there, from 0."""

    artefact: ArtefactId
    index: int


def trace_row(lake: Lake, store: Location, number: int, stage: str, track: str) -> Row:
    """Return all that is known of a training row of a track, numbered from 1 as training reads them.

    Args:
        lake: The lake.
        store: Where the teacher's answers are kept.
        number: Number of the row, from 1.
        stage: Stage; its rows are those of its increments, one after the other.
        track: Track.

    Returns:
        {row, stage, track, artefact, data_version, label, flow_group, position, kind, flow, answer, source, request,
        prompt, attempts, price_usd, notes}.

    Raises:
        UserError: There is no such stage, track or row, or an increment has not been made.
    """
    place = _place(lake, number, stage, track)
    folder = lake.folder(place.artefact)
    manifest = lake.manifest(place.artefact)
    assert manifest is not None  # _place read it
    record = _record(folder / "provenance.parquet", place.index)
    flow, answer = _chat(folder / "track.jsonl", place.index)
    notes = lake.altered(place.artefact, manifest)
    asked_by, asked = _asked(lake, place.artefact, record)
    if asked_by != place.artefact:
        notes.append(f"the answer is that of {asked_by}, which this row keeps")
    request = _request(store, asked, notes)
    source = _source(lake, record["row_id"])
    notes += [source.pop("note")] if "note" in source else []
    return {
        "row": number,
        "stage": stage,
        "track": track,
        "artefact": str(place.artefact),
        "data_version": manifest.data_version,
        "file": f"{folder.relative_to(lake.root)}/track.jsonl, line {place.index + 1}",
        "position": record["position"],
        "label": record["label"],
        "flow_group": record["flow_group"],
        "kind": record["kind"],
        "variation": record["variation"],
        "factor": record["factor"],
        "flow": flow,
        "answer": answer,
        "source": source,
        "answered_by": {"artefact": str(asked_by), "model": asked["model"], "source": asked["source"]},
        "shared_by_rows": _sharing(lake.folder(asked_by) / "provenance.parquet", asked["key"]),
        "prompt": _prompt(lake, asked_by),
        **request,
        "notes": notes,
    }


def list_rows(lake: Lake, stage: str, track: str, first: int, count: int) -> tuple[int, list[Row]]:
    """Return the number of a track's training rows, and some of them: {row, label, kind, flow}.

    Args:
        lake: The lake.
        stage: Stage; its rows are those of its increments, one after the other.
        track: Track.
        first: Number of the first row, from 1.
        count: Most rows.

    Raises:
        UserError: There is no such stage or track, or an increment has not been made.
    """
    before, found = 0, list[Row]()
    for artefact, rows in _increments(lake, stage, track):
        start, stop = max(first - 1 - before, 0), min(first - 1 + count - before, rows)
        if start < stop:
            table = pq.read_table(lake.folder(artefact) / "provenance.parquet", columns=["label", "kind", "status"])
            kept = table.filter(pc.equal(table["status"], "ok")).slice(start, stop - start).to_pylist()
            with (lake.folder(artefact) / "track.jsonl").open(encoding="utf-8") as lines:
                flows = [json.loads(line)["messages"][0]["content"] for line in islice(lines, start, stop)]
            found += [
                {"row": before + start + at + 1, "label": one["label"], "kind": one["kind"], "flow": str(flow)}
                for at, (one, flow) in enumerate(zip(kept, flows, strict=True))
            ]
        before += rows
    return before, found


def _place(lake: Lake, number: int, stage: str, track: str) -> Place:
    """Find the increment that holds a row."""
    if number < 1:
        raise UserError(f"row {number}: rows are numbered from 1")
    before = 0
    for artefact, rows in _increments(lake, stage, track):
        if number <= before + rows:
            return Place(artefact, number - before - 1)
        before += rows
    raise UserError(f"row {number:,}: stage {stage} of {track} has {before:,} rows")


def _increments(lake: Lake, stage: str, track: str) -> Iterator[tuple[ArtefactId, int]]:
    """Yield the increments of a stage with their numbers of rows."""
    if stage not in STAGES:
        raise UserError(f"--stage {stage}: there is no such stage; there are {', '.join(STAGES)}")
    if track not in TRACKS:
        raise UserError(f"--track {track}: there is no such track; there are {', '.join(TRACKS)}")
    for part in stages_up_to(stage):
        artefact = ArtefactId(track, part)
        manifest = lake.manifest(artefact)
        if manifest is None:
            raise UserError(
                f"{artefact} has not been made in {lake.address}; `iot-pipeline run --stages {stage}` makes it"
            )
        yield artefact, int(manifest.summary["rows"])


def _record(provenance: Path, index: int) -> Row:
    """Return the provenance of the `index`-th row that has an answer: only such rows are trained on."""
    with pq.ParquetFile(provenance) as file:
        for group in range(file.num_row_groups):
            places = pc.indices_nonzero(pc.equal(file.read_row_group(group, ["status"])["status"], "ok"))
            if index < len(places):
                return dict(file.read_row_group(group).slice(places[index].as_py(), 1).to_pylist()[0])
            index -= len(places)
    raise UserError(f"{provenance} has fewer rows with answers than its manifest says; `iot-pipeline verify`")


def _chat(jsonl: Path, index: int) -> tuple[str, str]:
    """Return flow text and answer of a line of chat rows, from 0."""
    with jsonl.open(encoding="utf-8") as lines:
        line = next(islice(lines, index, None), None)
    if line is None:
        raise UserError(f"{jsonl} has fewer lines than its manifest says; `iot-pipeline verify`")
    user, assistant = json.loads(line)["messages"]
    return str(user["content"]), str(assistant["content"])


def _asked(lake: Lake, artefact: ArtefactId, record: Row) -> tuple[ArtefactId, Row]:
    """Return the record of the request behind a row, and whose it is: a kept answer is the original track's."""
    if record["key"] is not None:
        return artefact, record
    original = ArtefactId("original", artefact.partition)
    path = lake.folder(original) / "provenance.parquet"
    if not path.is_file():
        return artefact, record
    with connect(path) as connection:
        rows = connection.execute(
            f"SELECT * FROM {scan(path)} WHERE flow_group = $group AND label = $label AND key IS NOT NULL "
            "ORDER BY position LIMIT 1",
            {"group": record["flow_group"], "label": record["label"]},
        ).to_arrow_table()
    return (original, rows.to_pylist()[0]) if rows.num_rows else (artefact, record)


def _sharing(provenance: Path, key: str | None) -> int:
    """Count the rows of an increment that have the answer to one request."""
    if key is None:
        return 1
    return pc.sum(pc.equal(pq.read_table(provenance, columns=["key"])["key"], key)).as_py() or 0


def _prompt(lake: Lake, artefact: ArtefactId) -> Row:
    """Return the prompt that an increment was asked with: name, sha256, snapshot, text."""
    manifest = lake.manifest(artefact)
    version = manifest.inputs.get(f"prompt@{artefact.asset}", "") if manifest else ""
    path = lake.snapshot(version) if version else None
    text = path.read_text(encoding="utf-8") if path and path.is_file() else None
    return {"name": artefact.asset, "sha256": version, "snapshot": f"{SNAPSHOTS}/{version}.md", "text": text}


def _request(location: Location, asked: Row, notes: list[str]) -> Row:
    """Return request, attempts and price of an answer from the store; what it lacks is told in `notes`."""
    key = asked["key"]
    found: Row = {"key": key, "request": None, "attempts": [], "price_usd": None}
    if key is None:
        notes.append("no request is recorded for this row's answer")
        return found
    if not exists(location):
        notes.append(f"request and attempts are not told: there is no store of answers {shown(location)}")
        return found
    with Store(location, read_only=True) as store:
        told = read_requests(store, [key]).get(key)
        columns = [ledger.c[name] for name in ("at", "outcome", "model", "prompt_tokens", "cached_tokens",
                                               "completion_tokens", "cost_usd", "cost_assumed", "seconds")]  # fmt: skip
        query = sa.select(*columns).where(ledger.c.key == key, ledger.c.source == asked["source"]).order_by(ledger.c.id)
        sent = [dict(row._mapping) for row in store.read(query)]
    if told is None:
        notes.append("the store has no text of this request")
    if not sent:
        notes.append("no attempt is in the ledger: the answer was imported")
    price = round(sum(one["cost_usd"] for one in sent), 8) if sent else None
    return found | {"request": json.loads(told[0]) if told else None, "attempts": sent, "price_usd": price}


def _source(lake: Lake, row_id: int) -> Row:
    """Return the flow's row in flows.parquet and, where rows and source lines correspond, the source row itself."""
    flows = lake.folder(ArtefactId("flows")) / "flows.parquet"
    raw = lake.folder(ArtefactId("raw_flows")) / "raw.parquet"
    if not flows.is_file():
        return {"row_id": row_id, "note": "the flows have been deleted"}
    with connect(flows, *([raw] if raw.is_file() else [])) as connection:
        [features] = connection.execute(
            f"SELECT * FROM {scan(flows)} WHERE row_id = $row", {"row": row_id}
        ).to_arrow_table().to_pylist() or [{}]  # fmt: skip
    found: Row = {"row_id": row_id, "file": f"flows/flows.parquet, row_id {row_id}", "flow": features}
    if not raw.is_file() or pq.read_metadata(raw).num_rows != pq.read_metadata(flows).num_rows:
        return found | {"note": NOT_RAW}
    table = pq.ParquetFile(raw)
    return found | {"raw_row": row_id + 1, "raw": _nth(table, row_id)}


def _nth(file: pq.ParquetFile, index: int) -> Row:
    with file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if index < rows:
                return dict(file.read_row_group(group).slice(index, 1).to_pylist()[0])
            index -= rows
    return {}
