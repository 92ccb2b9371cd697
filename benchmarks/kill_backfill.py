"""Does a backfill come to its end whole if web server, daemon and run workers are killed (SIGKILL) meanwhile?

    .venv/bin/python benchmarks/kill_backfill.py --lake /tmp/killed-lake --kills 20

Opens `iot-pipeline ui` on an empty lake of 700 simulated rows, starts the backfill of "Materialize all" through its
GraphQL interface, and kills one of them at a time at random. A backfill that ends before the last kill is started anew.
Counted: runs by how they ended, artefacts that are not as their manifests say (`verify`), seconds for which a slot of a
pool was held by a run whose worker was dead, and processes left behind when the UI is closed.
"""

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from dagster_graphql import DagsterGraphQLClient
from dagster_ui import opened
from result import save

from iot_pipeline.defs import dagster_internals as internals
from iot_pipeline.lake.processes import has_ended

SMALL = {
    "IOT_ROWS": "700", "IOT_BASE_STEPS": "2", "IOT_TRAIN_MAX_STEPS": "2", "IOT_TRAIN_STEP_ROWS": "8",
    "IOT_CLASS_ROWS": "4", "IOT_CLASS_COPIES": "1", "IOT_VALIDATION_FLOWS": "10", "IOT_EXPLAINED_FLOWS": "3",
    "IOT_AUDIT_ROWS": "32", "IOT_AUDIT_WORDS": "200", "IOT_EXPLANATION_WORDS": "30", "IOT_PROCESSES": "1",
}  # fmt: skip
KINDS = ("web server", "daemon", "run worker", "run worker", "server of run workers")  # workers twice as often
ASSETS = """{ repositoryOrError(repositorySelector: {
    repositoryLocationName: "iot_pipeline", repositoryName: "__repository__"}) {
        ... on Repository { assetNodes { assetKey { path } isMaterializable } } } }"""
BACKFILL = """mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on Error { message } } }"""
MOST_SECONDS = 3600


class Slots:
    """Watch on the pools: for how long a slot is held by a run that is finished or whose worker is dead."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance, self.since = instance, dict[tuple[str, str], float]()
        self.longest = 0.0

    def look(self) -> None:
        """Look at all pools once."""
        dead = set()
        for pool in internals.pools(self.instance):
            for run_id in internals.pool_holders(self.instance, pool)[1]:
                run, processes = self.instance.get_run_by_id(run_id), internals.processes_of(self.instance, run_id)
                if run is None or run.is_finished or (processes and has_ended(*processes[0])):
                    dead.add((pool, run_id))
        now = time.monotonic()
        self.since = {held: self.since.get(held, now) for held in dead}
        self.longest = max([self.longest, *(now - begin for begin in self.since.values())])


def main() -> None:
    """Backfill, kill, wait for the end, verify, write benchmarks/results/kill_backfill.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, required=True, help="an empty folder for the trial")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--between", type=float, nargs=2, default=(4.0, 20.0), metavar=("LOW", "HIGH"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--assets", default="", help="only these, comma separated; default: all that the UI can make")
    options = parser.parse_args()
    only = {*options.assets.split(",")} - {""}
    lake, draw, begin = options.lake.absolute(), random.Random(options.seed), time.monotonic()
    os.environ |= SMALL | {"IOT_LAKE": str(lake)}
    with opened(lake) as client, dg.DagsterInstance.from_config(str(lake / ".dagster")) as instance:
        ui = own_ui(lake)
        backfills, slots, kills = [start(client, only)], Slots(instance), list[dict[str, object]]()
        next_kill = time.monotonic() + draw.uniform(*options.between)
        while (state := state_of(instance, backfills[-1])) == "running" or len(kills) < options.kills:
            if state == "failed" or time.monotonic() - begin > MOST_SECONDS:
                break
            if state == "done":
                backfills.append(start(client, only))
            due = len(kills) < options.kills and time.monotonic() > next_kill
            if due and (found := victims(ui, kind := draw.choice(KINDS))):
                draw.choice(found).send_signal(signal.SIGKILL)
                kills.append({"kind": kind, "at_s": round(time.monotonic() - begin, 1)})
                print(kills[-1], flush=True)
                next_kill = time.monotonic() + draw.uniform(*options.between)
            slots.look()
            time.sleep(0.5)
        family = [*ui.children(recursive=True)]
        runs = instance.get_runs()
    _, alive = psutil.wait_procs(family, 15)
    save(
        "kill_backfill",
        {
            "question": "does a backfill end whole if web server, daemon and run workers are killed meanwhile",
            "settings": SMALL,
            "kills": dict(collections.Counter(str(one["kind"]) for one in kills)),
            "backfills": [state_of_closed(lake, one) for one in backfills],
            "runs": dict(collections.Counter(run.status.value for run in runs)),
            "runs_queued_again": sum("dagster/retry_number" in run.tags for run in runs),
            "failed_for_good": [why_failed(lake, run) for run in runs if lost(run, runs)],
            "longest_slot_of_a_dead_run_s": round(slots.longest, 1),
            **verified(only),
            "left_behind": [" ".join(process.cmdline()) for process in alive],
            "seconds": round(time.monotonic() - begin, 1),
            "load": os.getloadavg()[0],
            "each": kills,
        },
    )


def own_ui(lake: Path) -> psutil.Process:
    """The process of the UI that this script opened."""
    return next(one for one in psutil.Process().children() if "ui" in one.cmdline())


def victims(ui: psutil.Process, kind: str) -> list[psutil.Process]:
    """Processes of a kind that are alive now."""
    found = []
    for process in ui.children():
        words = " ".join(process.cmdline())
        if "run_server" in words:
            found += [("server of run workers", process), *(("run worker", one) for one in process.children())]
        else:
            found.append(("web server" if "webserver" in words else "daemon", process))
    return [process for name, process in found if name == kind and process.status() != psutil.STATUS_ZOMBIE]


def start(client: DagsterGraphQLClient, only: set[str]) -> str:
    """Start the backfill of the assets named `only`, or of all that the UI lets one make; its id."""
    while True:  # the web server may be dead, or its code location not loaded
        try:
            nodes = client._execute(ASSETS)["repositoryOrError"].get("assetNodes", [])
            chosen = [node["assetKey"] for node in nodes if node["isMaterializable"] and asked(node, only)]
            params = {"params": {"assetSelection": chosen, "allPartitions": True}}
            made: dict[str, Any] = client._execute(BACKFILL, params)["launchPartitionBackfill"] if chosen else {}
            if made.get("backfillId"):
                return str(made["backfillId"])
            print(made or "the code location is not loaded", flush=True)
        except Exception as error:  # of the connection, by whichever library
            print(f"the web server does not answer: {str(error)[:100]}", flush=True)
        time.sleep(2)


def asked(node: dict[str, Any], only: set[str]) -> bool:
    """True if an asset is to be made."""
    return not only or node["assetKey"]["path"][-1] in only


def state_of(instance: dg.DagsterInstance, backfill_id: str) -> str:
    """running, done or failed."""
    found = instance.get_backfill(backfill_id)
    status = found.status.value if found is not None else ""
    return {"COMPLETED_SUCCESS": "done", "REQUESTED": "running"}.get(status, "failed")


def state_of_closed(lake: Path, backfill_id: str) -> str:
    """State of a backfill after the UI was closed."""
    with dg.DagsterInstance.from_config(str(lake / ".dagster")) as instance:
        return state_of(instance, backfill_id)


def lost(run: dg.DagsterRun, runs: list[dg.DagsterRun]) -> bool:
    """True if a run did not succeed and none was queued in its place."""
    return run.status is not dg.DagsterRunStatus.SUCCESS and run.run_id not in {one.parent_run_id for one in runs}


def why_failed(lake: Path, run: dg.DagsterRun) -> dict[str, object]:
    """The last sentences of a run that failed."""
    with dg.DagsterInstance.from_config(str(lake / ".dagster")) as instance:
        told = [entry.user_message or entry.message for entry in instance.all_logs(run.run_id)][-3:]
    return {"run": run.run_id, "status": run.status.value, "tags": run.tags.get("dagster/retry_number"), "told": told}


def verified(only: set[str]) -> dict[str, object]:
    """Exit code of `verify`, what it found, and the artefacts of the backfill that are not fresh."""
    module = [sys.executable, "-m", "iot_pipeline"]
    done = subprocess.run([*module, "verify", "--json"], capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    status = subprocess.run([*module, "status", "--json"], capture_output=True, text=True, check=False)
    states = json.loads(status.stdout)
    return {
        "verify_exit": done.returncode,
        "mismatches": told["mismatches"],
        "artefacts": told["artefacts"],
        "not_fresh": [
            one for one in states if one["state"] != "fresh" and (not only or one["artefact"].split("[")[0] in only)
        ],
    }


if __name__ == "__main__":
    main()
