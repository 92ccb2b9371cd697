"""What does an edited prompt start in the UI with the prompt sensor on, and what does setting it back cost?

    IOT_ROWS=3000 .venv/bin/python benchmarks/prompt_edit.py --lake /tmp/lake

Makes the data part of the lake, opens the UI, switches on `prompt_files`, waits for a quiet while
(nothing may start), edits the prompt of one track, waits until that is quiet again, and sets the prompt back.
Counted: runs by asset and partition, red ticks, requests that were sent to the teacher.
"""

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
from dagster_graphql import DagsterGraphQLClient
from dagster_ui import opened, until
from result import save

from iot_pipeline.defs.dagster_internals import sensor_errors
from iot_pipeline.settings import load_settings

SWITCH_ON = "mutation ($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }"


def main() -> None:
    """Edit, watch, set back, write benchmarks/results/prompt_edit.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, required=True, help="a folder for the trial")
    parser.add_argument("--track", default="paraphrased")
    parser.add_argument("--quiet", type=float, default=100.0, help="seconds without a run that count as the end")
    options = parser.parse_args()
    lake = options.lake.absolute()
    prompts = lake.with_name(f"{lake.name}-prompts")
    shutil.copytree(load_settings({}).teacher.prompts, prompts, dirs_exist_ok=True)
    os.environ |= {"IOT_LAKE": str(lake), "IOT_PROMPTS": str(prompts)}
    subprocess.run([sys.executable, "-m", "iot_pipeline", "run", "--until", "training_split"], check=True)
    prompt = prompts / f"{options.track}.md"
    before, found = prompt.read_text(), {}
    with opened(lake) as client, dg.DagsterInstance.from_config(str(lake / ".dagster")) as instance:
        until(lambda: switch_on(client, "prompt_files"))
        found["switched on"] = watch(instance, lake, options.quiet)
        prompt.write_text(f"{before}\nName the two features that matter most first.\n")
        found["edited"] = watch(instance, lake, options.quiet)
        prompt.write_text(before)
        found["set back"] = watch(instance, lake, options.quiet)
        red = sensor_errors(instance)
    save(
        "prompt_edit",
        {
            "question": "what does an edited prompt start in the UI",
            "track": options.track,
            "steps": found,
            "red_ticks": red,
        },
    )


def switch_on(client: DagsterGraphQLClient, sensor: str) -> bool:
    """Switch a sensor on; False while the code location is not loaded."""
    selector = {"repositoryLocationName": "iot_pipeline", "repositoryName": "__repository__", "sensorName": sensor}
    return bool(client._execute(SWITCH_ON, {"s": selector})["startSensor"]["__typename"] == "Sensor")


def watch(instance: dg.DagsterInstance, lake: Path, quiet: float) -> dict[str, object]:
    """Runs and requests to the teacher from now until nothing has been at work for so many seconds."""
    known, sent = {run.run_id for run in instance.get_runs()}, requests(lake)
    begin = last = time.monotonic()
    while time.monotonic() - last < quiet:
        runs = [run for run in instance.get_runs() if run.run_id not in known]
        if any(not run.is_finished for run in runs):
            last = time.monotonic()
        time.sleep(1)
    made = [
        f"{'+'.join(sorted(key.to_user_string() for key in run.asset_selection or [])) or run.job_name}"
        f"[{run.tags.get('dagster/partition', '')}] {run.status.value}"
        for run in reversed(runs)
    ]
    told = {"runs": made, "requests_to_the_teacher": requests(lake) - sent, "seconds": round(last - begin)}
    print(told, flush=True)
    return told


def requests(lake: Path) -> int:
    """Attempts that the teacher's ledger holds."""
    with sqlite3.connect(lake / "teacher.sqlite") as connection:
        return int(connection.execute("SELECT count(*) FROM attempts").fetchone()[0])


if __name__ == "__main__":
    main()
