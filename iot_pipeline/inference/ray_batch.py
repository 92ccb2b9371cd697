"""Batch inference on Ray Data: a Parquet file of flow groups in, one Parquet file a block of them out.

A run that was killed goes on with the blocks that are missing, and its manifest is written last.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iot_pipeline.errors import UserError
from iot_pipeline.inference.ray_blocks import FACTS, GROUP, Log, Pool, Work, answer_missing, block_files
from iot_pipeline.inference.ray_job import answer_there
from iot_pipeline.inference.ray_session import MISSING
from iot_pipeline.lake.atomic import held, read_json, sha256_file, write_json

BLOCK = 2048  # flow groups: the tiny student takes 4 s for them, a kill loses two blocks a replica
FORM = 1  # of run.json and manifest.json


@dataclass(frozen=True)
class Result:
    """Finished run: its blocks' files in the order of the source, and its manifest."""

    files: list[Path]
    manifest: dict[str, Any]

    def tables(self) -> Iterator[pa.Table]:
        """Yield the answers block by block."""
        for path in self.files:
            yield pq.read_table(path)


def check_ray() -> None:
    """Raise UserError unless Ray is installed; it is looked for, not imported."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(MISSING)


def run_blocks(source: Path, out: Path, work: Work, pool: Pool, log: Log, rows: int = BLOCK) -> Result:
    """Answer a Parquet file block by block on Ray; return the files of the answers.

    Args:
        source: File with the columns of `work`, each flow group once.
        out: Folder of the blocks and the manifest; one of a killed run of the same source and work is gone on with.
        work: Work of the replicas.
        pool: Replicas.
        log: Called with progress messages.
        rows: Flow groups of a block.

    Raises:
        UserError: Ray is missing, the source or the folder does not fit, a row cannot be answered, or replicas die.
    """
    check_ray()
    total = checked_rows(source, work.columns)
    run = {"form": FORM, "source": sha256_file(source), "rows": total, "block_rows": rows, "work": dict(work.key)}
    out.mkdir(parents=True, exist_ok=True)
    with held(out / "lock", f"another process writes {out}"):
        _begin(out, run)
        files = block_files(source, out, rows)
        if not all(path.is_file() for path in files):
            answer = answer_missing if pool.address is None else answer_there
            answer(source, out, work, pool, rows, log)
        return Result(files, _manifest(out, run, files))


def checked_rows(source: Path, columns: Sequence[str]) -> int:
    """Return the number of rows; UserError for a column that is missing or has gaps, or a group that comes twice."""
    if not source.is_file():
        raise UserError(f"{source} does not exist")
    try:
        schema = pq.read_schema(source)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{source} is no Parquet file ({str(error)[:200]})") from None
    if lacking := [name for name in columns if name not in schema.names]:
        raise UserError(f"{source} lacks the column {', '.join(lacking)}; it has {', '.join(schema.names)[:200]}")
    for name in columns:
        column = pq.read_table(source, columns=[name])[name]
        if column.null_count:
            row = pc.index(pc.is_null(column), True).as_py() + 1
            raise UserError(f"{source}, row {row}: {name} is empty; give every row a value")
    groups = pq.read_table(source, columns=[GROUP])[GROUP]
    if pc.count_distinct(groups).as_py() != len(groups):
        counts = groups.value_counts()
        twice = counts.field("values")[pc.index(pc.greater(counts.field("counts"), 1), True).as_py()]
        raise UserError(f"{source}: the flow group {str(twice)[:80]} comes twice; give each once")
    return len(groups)


def _begin(out: Path, run: Mapping[str, Any]) -> None:
    """Note what decides the blocks, or check that those which are there were begun by the same."""
    path = out / "run.json"
    try:
        before = read_json(path) if path.is_file() else None
    except ValueError:
        before = {}
    if before is None:
        write_json(path, run)
    elif before != json.loads(json.dumps(run)):
        other = ", ".join(name for name in run if not isinstance(before, dict) or before.get(name) != run[name])
        raise UserError(f"{out} was begun with another {other}: remove it to begin anew")


def _manifest(out: Path, run: Mapping[str, Any], files: Sequence[Path]) -> dict[str, Any]:
    """Write the manifest of a finished run: its identity and every block's file with its digest and making."""
    blocks = []
    for path in files:
        read = pq.read_metadata(path)
        facts = json.loads(read.metadata[FACTS])
        blocks.append({"file": path.name, "rows": read.num_rows, "sha256": sha256_file(path), **facts})
    told = {**run, "blocks": blocks}
    if sum(block["rows"] for block in blocks) != run["rows"]:
        raise UserError(f"{out} has other rows than its source: remove it to begin anew")
    write_json(out / "manifest.json", told)
    return told
