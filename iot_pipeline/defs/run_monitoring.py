"""Run monitoring: fail runs whose process is dead, free their pool slots, wait for slots held by live runs.

Dagster's own monitoring cannot do this: its default launcher cannot check a worker, so a run whose worker was killed
stays STARTED and keeps its slots for ever. Dagster treats a run failed here as crashed: the daemon queues a run of the
UI again (`run_retries` in dagster.yaml). A run of the command line continues with the next command.

Where the records are in PostgreSQL, workers are known by their sessions (workers.py), not by locks and process ids, so
that those of all hosts are seen. Runs of the UI are then the launcher's business (launcher.py).
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from iot_pipeline.defs import dagster_internals as internals
from iot_pipeline.defs.home import RUN_LOCK
from iot_pipeline.defs.workers import Living, Worker
from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import held
from iot_pipeline.lake.processes import has_ended, kill_tree

RUN_TAG = "iot_pipeline/started_by"  # `run` on runs of the command line; runs of the UI do not have the tag
PARENT_TAG = "iot_pipeline/part_of"  # id of the run that made it: a job's, or a command's
MANIFEST_TAG = "iot_pipeline/by_manifest"  # runs that make what is stale: one at a time (dagster.yaml)
KILLED_TAG = "iot_pipeline/process_was_killed"  # the run that Dagster queues again has it too
UI_LOCK = "ui.lock"
SAID_EVERY_S, LOOKED_EVERY_S = 60.0, 15.0
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]  # fmt: skip


def close_dead_runs(
    instance: dg.DagsterInstance, home: Path, held_lock: str, spared: Collection[str] = ()
) -> list[str]:
    """Fail runs whose process is dead, kill their remaining steps and free their slots; return their ids.

    Args:
        instance: The lake's Dagster instance.
        home: Its folder, with the locks of `run` and `ui`.
        held_lock: The lock that this process holds. If it is that of `run`, every unfinished run of the command line is
            dead. Runs of the other kind are examined only while nobody holds the other lock, since its holder may be in
            another container, where process ids have another meaning.
        spared: Ids of runs of this process, which are left alone.
    """
    if (url := internals.postgres_url(instance)) is not None:
        return _close_dead_workers(instance, url, spared)
    dead = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        lock = RUN_LOCK if RUN_TAG in run.tags else UI_LOCK
        processes = internals.processes_of(instance, run.run_id)
        certain = lock == held_lock == RUN_LOCK
        # The first process is the worker. Without a record nothing is known: Dagster's start timeout applies.
        shown = bool(processes) and has_ended(*processes[0]) and (lock == held_lock or _is_free(home / lock))
        if run.run_id in spared or not (certain or shown):
            continue
        _kill_steps(processes)
        _close(instance, run, lock)
        dead.append(run.run_id)
    _free_slots(instance, held_lock == RUN_LOCK or _is_free(home / RUN_LOCK), spared)
    return dead


def _close_dead_workers(instance: dg.DagsterInstance, url: str, spared: Collection[str]) -> list[str]:
    """Fail runs of workers that have died, on whatever host, and free their slots; return the runs' ids.

    Runs and slots are read first: a worker registers before it makes any, so that one who is not there now has died.
    """
    runs = [run for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)) if RUN_TAG in run.tags]
    found = [internals.pool_holders(instance, pool)[1:] for pool in internals.pools(instance)]
    holders = {run_id for holding, in_line in found for run_id in holding | in_line}.difference(spared)
    living, dead = Living(url), []
    for run in runs:
        if run.run_id not in living and run.run_id not in spared:
            _close(instance, run, RUN_LOCK)
            dead.append(run.run_id)
    for run_id in holders:
        holder = instance.get_run_by_id(run_id)
        if run_id not in living if holder is None else holder.is_finished:
            internals.free_slots(instance, run_id)
    return dead


def close_run(instance: dg.DagsterInstance, run_id: str, worker: int) -> None:
    """Close a run of the UI whose worker was killed, unless it had finished or has another one; free its slots."""
    run = instance.get_run_by_id(run_id)
    processes = internals.processes_of(instance, run_id)
    if run is None or run.status not in _UNFINISHED or (processes and processes[0][0] != worker):
        return
    _kill_steps(processes)
    _close(instance, run, UI_LOCK)
    internals.free_slots(instance, run_id)


def _kill_steps(processes: Sequence[tuple[int, float]]) -> None:
    """Kill the steps of a run whose worker, the first process, is dead: one that lives on would run twice at once."""
    for pid, seen in processes[1:]:
        if not has_ended(pid, seen):
            kill_tree(pid)


def _close(instance: dg.DagsterInstance, run: dg.DagsterRun, lock: str) -> None:
    """Report a dead run as failed, or as canceled if it was being canceled."""
    if run.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, "the process of this run has ended")
    elif lock == RUN_LOCK:
        instance.report_run_failed(run, "the process was killed; the next `iot-pipeline run` goes on from here")
    else:
        instance.add_run_tags(run.run_id, {KILLED_TAG: "true"})
        instance.report_run_failed(run, "the process of this run was killed")


def _free_slots(instance: dg.DagsterInstance, no_run_waits: bool, spared: Collection[str]) -> None:
    """Free the pool slots of finished runs and, while no `run` can be waiting for a slot, of unknown runs."""
    for pool in internals.pools(instance):
        _, holding, in_line = internals.pool_holders(instance, pool)
        for run_id in (holding | in_line).difference(spared):
            holder = instance.get_run_by_id(run_id)
            if no_run_waits if holder is None else holder.is_finished:
                internals.free_slots(instance, run_id)


def _is_free(lock: Path) -> bool:
    try:
        with held(lock, "held"):
            return True
    except UserError:
        return False


@contextmanager
def pool_slot(
    instance: dg.DagsterInstance,
    home: Path,
    pool: str | None,
    step_key: str,
    say: Callable[[str], None],
    parent: str = "",
    worker: Worker | None = None,
) -> Iterator[str]:
    """Wait for a slot in a pool, and yield the id for the run that holds it.

    Within a run, Dagster waits in a busy loop (half a core), logs nothing and defers signals. Here a signal ends the
    wait, and the holder of the pool is reported at once and every minute.

    Args:
        instance: The lake's Dagster instance.
        home: Its folder; runs that die during the wait are closed.
        pool: Name of the pool, or None for a step that needs none.
        step_key: Dagster's name of the step.
        say: Called with the sentence that names the holder.
        parent: Id of the run that this one is part of.
        worker: This process, whose name is in the id; None for one that is alone on its lake.
    """
    run_id, said, looked = (worker or Worker()).new_run_id(), -SAID_EVERY_S, time.monotonic()
    try:
        if pool is not None:
            with internals.claimed_slots(instance, run_id) as slots:
                while not slots.claim(pool, step_key):
                    now = time.monotonic()
                    if now - said >= SAID_EVERY_S:
                        said = now
                        say(f"waiting for pool {pool}: {describe_holders(instance, pool, run_id)}")
                    if now - looked >= LOOKED_EVERY_S:
                        looked = now
                        close_dead_runs(instance, home, RUN_LOCK, {run_id, parent})
                    time.sleep(0.5)
        yield run_id
    finally:
        if pool is not None:
            internals.free_slots(instance, run_id)


def describe_holders(instance: dg.DagsterInstance, pool: str, waiting: str) -> str:
    """Name the runs that hold a pool or are next in line: `run cbf633d9 of the UI since 06:55`."""
    slots, holding, in_line = internals.pool_holders(instance, pool)
    if not slots:
        return "its limit is 0; raise it in the UI under Deployment, Concurrency"
    told = []
    for run_id in sorted((holding or in_line) - {waiting}):
        record = instance.get_run_record_by_id(run_id)
        start = record.start_time if record is not None else None
        where = "of `iot-pipeline run`" if record is not None and RUN_TAG in record.dagster_run.tags else "of the UI"
        since = f" since {time.strftime('%H:%M', time.localtime(start))}" if start else ""
        told.append(f"run {run_id[:8]} {where}{since}")
    return ", ".join(told) or "a slot is being freed"
