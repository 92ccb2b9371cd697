"""Blocks of flow groups on Ray Data: replicas that load a student once, and the files that they fill.

Blocks go to replicas and come back through Ray, so only the student's files must be where the replicas are. A block's
file is written whole as it comes back.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.errors import UserError
from iot_pipeline.flows.batches import batches
from iot_pipeline.inference.ray_session import Cluster, connected, ray_package
from iot_pipeline.lake.atomic import replacing

GROUP = "flow_group"
TRIES = 3  # more after a block's replica has died on it: a block that kills each replica must not go round for ever
FACTS = b"iot_pipeline"  # of a block, in its file's metadata
Log = Callable[[str], None]
Answer = Callable[[pa.Table], pa.Table]


class Work(Protocol):
    """Work of replicas, which it is sent to by pickle: it must hold no secret."""

    @property
    def columns(self) -> Sequence[str]:
        """Columns that it reads, the flow group first."""

    @property
    def key(self) -> Mapping[str, Any]:
        """Facts that decide the answers besides the flows, as JSON values; a run goes on only with the same."""

    def open(self, threads: int | None) -> Answer:
        """Load what answers: tables of `columns` -> tables with the same flow groups in their order."""


@dataclass(frozen=True)
class Pool:
    """Replicas to start, on the cluster of an address (IOT_RAY_ADDRESS) or (None) on this machine.

    `replicas`: None for one a GPU, or one a machine without. `threads`: CPU threads of a replica; None for its share.
    `cards`: GPUs of this machine that they may use, None for all.
    """

    replicas: int | None = None
    address: str | None = None
    threads: int | None = None
    cards: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Place:
    """Share of a cluster that each of `replicas` gets, and its CPU threads."""

    replicas: int
    cpus: float
    gpus: int
    threads: int


def placed(pool: Pool, cluster: Cluster) -> Place:
    """Share a cluster out among the replicas; UserError if there are fewer GPUs than replicas."""
    count = pool.replicas or int(cluster.gpus) or cluster.machines
    if 0 < cluster.gpus < count:
        raise UserError(
            f"IOT_RAY_REPLICAS={count}, but Ray has {cluster.gpus:g} GPUs: lower it, or leave it unset for one a GPU"
        )
    share = cluster.least_cpus / math.ceil(count / cluster.machines)
    cpus = float(int(share)) if share >= 1 else math.floor(share * 100) / 100  # Ray takes no 1.5 CPUs
    return Place(count, cpus, 1 if cluster.gpus else 0, pool.threads or max(1, int(share)))


def answer_missing(source: Path, out: Path, work: Work, pool: Pool, rows: int, log: Log) -> None:
    """Answer the blocks of a file whose files are missing in `out`, on a Ray that is started or runs here.

    Args:
        source: File with the columns of `work`.
        out: Folder of the blocks.
        work: Work of the replicas.
        pool: Replicas.
        rows: Flow groups of a block.
        log: Called with progress messages.

    Raises:
        UserError: Ray does not start, a row cannot be answered, or replicas die.
    """
    files = block_files(source, out, rows)
    missing = [number for number, path in enumerate(files) if not path.is_file()]
    if len(missing) < len(files):
        log(f"{len(files) - len(missing):,} of {len(files):,} blocks were there already")
    with connected(pool.address, pool.cards) as cluster:
        blocks = _blocks(source, work.columns, rows, missing)
        for done in _answered(blocks, len(missing), work, placed(pool, cluster), log):
            _write(files[done.number], done)


def block_files(source: Path, out: Path, rows: int) -> list[Path]:
    """Return the files of a source's blocks, in its order."""
    total = pq.read_metadata(source).num_rows
    return [out / "blocks" / f"{number:06d}.parquet" for number in range(math.ceil(total / rows))]


@dataclass(frozen=True)
class Done:
    """Answer to a block, as Arrow's stream of bytes, and what is known of its making."""

    number: int
    table: bytes
    facts: dict[str, Any]


def _blocks(source: Path, columns: Sequence[str], rows: int, wanted: Sequence[int]) -> Iterator[pa.Table]:
    """Yield each wanted block as a table of one row: its number, and its rows as Arrow's stream of bytes."""
    chosen = set(wanted)
    for number, table in enumerate(batches(source, rows, columns=columns)):
        if number in chosen:
            yield pa.table({"block": [number], "table": pa.array([_packed(table)], pa.large_binary())})


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _unpacked(content: bytes) -> pa.Table:
    return pa.ipc.open_stream(pa.py_buffer(content)).read_all()


class Replica:
    """Actor of the pool. What a user can mend is told as an answer: Ray would wrap an exception in its own."""

    def __init__(self, work: Work, threads: int | None) -> None:
        begun = time.perf_counter()
        self.where = f"{platform.node()}:{os.getpid()}"
        self.error = ""
        try:
            self.answer = work.open(threads)
        except UserError as error:
            self.error = str(error)
        self.opened = time.perf_counter() - begun

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Answer one block."""
        given = _unpacked(batch["table"][0].as_py())
        begun, used, table = time.perf_counter(), time.process_time(), b""
        if not self.error:
            try:
                found = self.answer(given)
                assert found[GROUP].equals(given[GROUP]), "a replica answered other flow groups than it was given"
                table = _packed(found)
            except UserError as error:
                self.error = str(error)
        facts = {
            "seconds": time.perf_counter() - begun, "processor_seconds": time.process_time() - used,
            "replica": self.where, "opened_seconds": self.opened, "error": self.error,
        }  # fmt: skip
        packed = pa.array([table], pa.large_binary())
        return pa.table({"block": batch["block"], "table": packed, "facts": [json.dumps(facts)]})


def _answered(blocks: Iterator[pa.Table], count: int, work: Work, place: Place, log: Log) -> Iterator[Done]:
    """Yield the answers in the order in which replicas end; UserError for one that cannot be given."""
    ray = ray_package()
    dataset = ray.data.from_arrow_refs([ray.put(block) for block in blocks]).map_batches(
        Replica,
        fn_constructor_args=(work, place.threads),
        batch_size=1,
        batch_format="pyarrow",
        # One block waits at each replica; more would be bound to it while others have none.
        compute=ray.data.ActorPoolStrategy(size=min(place.replicas, count), max_tasks_in_flight_per_actor=2),
        num_cpus=place.cpus,
        num_gpus=place.gpus or None,
        max_restarts=-1,
        max_task_retries=TRIES,
    )
    log(f"{count:,} blocks on {min(place.replicas, count)} replicas of {place.threads} CPU threads")
    begun = time.monotonic()
    try:
        for number, batch in enumerate(dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0)):
            facts = json.loads(batch["facts"][0].as_py())
            if error := facts.pop("error"):
                raise UserError(error)
            yield Done(batch["block"][0].as_py(), batch["table"][0].as_py(), facts)
            log(f"{number + 1:,} of {count:,} blocks, {(number + 1) / (time.monotonic() - begun):.2f} a second")
    except ray.exceptions.RayError as error:
        raise _lost(error) from error


def _lost(error: Exception) -> Exception:
    """Return a sentence for replicas that died; any other error, a fault of the program, as it is."""
    import ray.exceptions as known

    cause = error.__cause__ or error
    dead = (known.RayActorError, known.WorkerCrashedError, known.NodeDiedError, known.OutOfMemoryError)
    if not any(isinstance(one, dead) for one in (error, cause)):
        return error
    return UserError(
        f"replicas of Ray died again and again ({str(cause).strip().partition(chr(10))[0][:200]}): most often memory "
        "is short; lower IOT_RAY_REPLICAS. Finished blocks stay, and the same command goes on"
    )


def _write(path: Path, done: Done) -> None:
    """Write the file of a block atomically, with the facts of its making in its metadata."""
    table = _unpacked(done.table)
    told = (table.schema.metadata or {}) | {FACTS: json.dumps(done.facts).encode()}
    with replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata(told), temporary, compression="zstd")
