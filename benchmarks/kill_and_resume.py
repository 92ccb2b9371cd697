"""What does a kill -9 of `iot-pipeline run` cost? Kill it at random moments, start it again, count what was done twice.

    .venv/bin/python benchmarks/kill_and_resume.py --kills 6 --lake /tmp/lake

Counted: finished artefacts that a later run made again, requests answered twice, processes left behind. The obvious
way (a script run again from the top) does everything twice, so each count is also the share of that.
"""

import argparse
import datetime
import json
import os
import platform
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from iot_pipeline.defs.step import code_commit
from iot_pipeline.lake.store import Lake


def main() -> None:
    """Kill, resume, count, write benchmarks/results/kill_and_resume-<lake>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, required=True, help="an empty folder for the trial")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--between", type=float, nargs=2, default=(15.0, 90.0), metavar=("LOW", "HIGH"),
                        help="seconds from start to kill, drawn evenly")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    lake, draw = Lake(options.lake.absolute()), random.Random(options.seed)
    environment = os.environ | {"IOT_LAKE": str(lake.root)}
    kills, redone = [], 0
    for _ in range(options.kills):
        before = finished(lake)
        process = subprocess.Popen(command(), env=environment, stdout=subprocess.DEVNULL)
        time.sleep(draw.uniform(*options.between))
        process.send_signal(signal.SIGKILL)
        process.wait()
        after = finished(lake)
        redone += sum(after[name] != made for name, made in before.items())
        time.sleep(8)
        kills.append({"finished_before": len(before), "finished_at_kill": len(after), "left_behind": left_behind()})
        print(kills[-1], flush=True)
    before = finished(lake)
    done = subprocess.run([*command(), "--json"], env=environment, capture_output=True, text=True, check=False)
    redone += sum(finished(lake)[name] != made for name, made in before.items())
    result = {
        "question": "what does kill -9 of the whole job cost",
        "date": datetime.date.today().isoformat(),
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "code_commit": code_commit(),
        "kills": kills,
        "last_run_exit": done.returncode,
        "artefacts": len(finished(lake)),
        "finished_artefacts_made_again": redone,
        "requests_answered_twice": answered_twice(lake),
    }
    path = Path(__file__).parent / "results" / f"kill_and_resume-{lake.root.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path.read_text())


def command() -> list[str]:
    """The command under trial."""
    return [sys.executable, "-m", "iot_pipeline.cli", "run"]


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


def left_behind() -> int:
    """Processes of the project that outlived the kill."""
    found = subprocess.run(["pgrep", "-fc", "iot_pipeline[.](teacher[.]server|training[.]payload)"],
                           capture_output=True, text=True, check=False)
    return int(found.stdout or 0)


if __name__ == "__main__":
    main()
