"""What does a kill -9 of `iot-pipeline run` cost? Kill it at random moments, start it again, count what was done twice.

    .venv/bin/python benchmarks/kill_and_resume.py --kills 6 --lake /tmp/lake

Counted: finished artefacts that a later run made again, requests answered twice, processes left behind. The obvious
way (a script run again from the top) does everything twice, so each count is also the share of that.

With --ui-kills workers of runs that a UI started are killed too: each is a training, launched through GraphQL. Counted:
seconds until the run is failed, whether its slot of the pool is free then, and what becomes of the run that is queued
in its place. Without --kills the lake must hold what the training needs.
"""

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import psutil
from dagster_ui import launch, opened, until
from result import save

from iot_pipeline.defs.dagster_internals import pool_holders, processes_of
from iot_pipeline.lake.store import Lake
from iot_pipeline.settings import load_settings
from iot_pipeline.vocabulary import Trained


def main() -> None:
    """Kill, resume, count, write benchmarks/results/kill_and_resume-<lake>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, required=True, help="an empty folder for the trial")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument(
        "--between",
        type=float,
        nargs=2,
        default=(15.0, 90.0),
        metavar=("LOW", "HIGH"),
        help="seconds from start to kill, drawn evenly",
    )
    parser.add_argument("--ui-kills", type=int, default=0, help="run workers of a UI to kill")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    lake, draw = Lake(options.lake.absolute()), random.Random(options.seed)
    environment = os.environ | {"IOT_LAKE": str(lake.root)}
    kills, redone = [], 0
    for _ in range(options.kills):
        before = finished(lake)
        process = subprocess.Popen(command(), env=environment, stdout=subprocess.DEVNULL)
        time.sleep(draw.uniform(*options.between))
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        after = finished(lake)
        redone += sum(after[name] != made for name, made in before.items())
        _, left_behind = psutil.wait_procs(children, timeout=8)
        kills.append({"finished_before": len(before), "finished_at_kill": len(after), "left_behind": len(left_behind)})
        print(kills[-1], flush=True)
    ui_kills = kill_workers(lake, options.ui_kills, draw) if options.ui_kills else []
    before = finished(lake)
    done = subprocess.run([*command(), "--json"], env=environment, capture_output=True, text=True, check=False)
    redone += sum(finished(lake)[name] != made for name, made in before.items())
    result = {
        "question": "what does kill -9 of the whole job cost",
        "kills": kills,
        "ui_kills": ui_kills,
        "last_run_exit": done.returncode,
        "artefacts": len(finished(lake)),
        "finished_artefacts_made_again": redone,
        "requests_answered_twice": answered_twice(lake),
    }
    save(f"kill_and_resume-{lake.root.name}", result)


def kill_workers(lake: Lake, kills: int, draw: random.Random) -> list[dict[str, object]]:
    """Launch a training in a UI, kill its run worker, and watch what becomes of it, so many times."""
    found: list[dict[str, object]] = []
    with opened(lake.root) as client, dg.DagsterInstance.from_config(str(lake.root / ".dagster")) as instance:
        for _ in range(kills):
            run = launch(client, "lora_checkpoint_10K", Trained(load_settings().seeds[0], "original").key)
            worker = until(lambda run=run: next(iter(processes_of(instance, run)), None))
            time.sleep(draw.uniform(0, 30))
            status = client.get_run_status(run).value
            os.kill(worker[0], signal.SIGKILL)
            killed = time.monotonic()
            until(lambda run=run: client.get_run_status(run).value == "FAILURE")
            noticed = round(time.monotonic() - killed, 1)
            _, holders, _ = pool_holders(instance, "gpu")
            again = until(lambda run=run: instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": run})))[0]
            until(lambda again=again: instance.get_run_by_id(again.run_id).is_finished)
            ended = instance.get_run_by_id(again.run_id).status.value
            found.append(
                {
                    "status_at_kill": status,
                    "noticed_after_s": noticed,
                    "slot_free": run not in holders,
                    "queued_again": again.tags["dagster/retry_number"],
                    "then": ended,
                }
            )
            print(found[-1], flush=True)
    return found


def command() -> list[str]:
    """The command under trial."""
    return [sys.executable, "-m", "iot_pipeline", "run"]


def finished(lake: Lake) -> dict[str, str]:
    """Run that made each finished artefact."""
    return {
        str(artefact): str(manifest.provenance["run_id"])
        for artefact in lake.artefacts()
        if (manifest := lake.manifest(artefact)) is not None
    }


def answered_twice(lake: Lake) -> int:
    """Requests with more than one accepted attempt in the ledger."""
    with sqlite3.connect(lake.root / "teacher.sqlite") as connection:
        twice = "SELECT 1 FROM attempts WHERE outcome = 'answered' GROUP BY key HAVING count(*) > 1"
        return len(connection.execute(twice).fetchall())


if __name__ == "__main__":
    main()
