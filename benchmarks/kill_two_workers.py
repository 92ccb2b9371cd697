"""What do kills cost where two workers share a lake, Dagster's records and the teacher's store in PostgreSQL?

    .venv/bin/python benchmarks/kill_two_workers.py --kills 20

Two `iot-pipeline run` work on one lake, with a PostgreSQL of the trial's own (initdb and postgres on the PATH). One of
them, drawn by lot, is killed with SIGKILL at a random moment and started again, so many times; a lake that is finished
makes way for an empty one. Counted: files that are no whole artefact, finished artefacts made again, requests answered
twice, processes left behind, and seconds until a killed worker held no slot of a pool and no claim. At the end every
lake must be whole, and its data versions those of one worker with SQLite.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
from result import save

from iot_pipeline.defs.workers import Living, connected
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline_tests.teacher.postgres import cluster
from iot_pipeline_tests.test_end_to_end import SMALL

SETTLED_S, LOOKED_EVERY_S, HUNG_S = 120.0, 0.5, 3600
SHOWN = 40  # lines of a failed worker
# Timings decide what these say, so that no two runs are equal: of one worker neither.
TIMED = {"inference_benchmark", "cost_report", "paper_report", "model_card", "claims_audit"}


@dataclass
class Trial:
    """Counts of a trial."""

    kills: list[dict[str, Any]] = field(default_factory=list)
    lakes: int = 0
    artefacts: int = 0
    exits: list[int] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    made_again: list[str] = field(default_factory=list)
    answered_twice: int = 0
    in_flight_at_kills: int = 0
    left_behind: int = 0
    slot_held_s: float = 0.0
    differing_from_sqlite: list[str] = field(default_factory=list)


def main() -> None:
    """Kill, start again, count, write benchmarks/results/kill_two_workers.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--between", type=float, nargs=2, default=(6.0, 40.0), metavar=("LOW", "HIGH"), help="seconds between kills"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--print-only", action="store_true", help="write no result")
    options = parser.parse_args()
    trial, draw = Trial(), random.Random(options.seed)
    with cluster() as database, tempfile.TemporaryDirectory(prefix="workers") as folder:
        while len(trial.kills) < options.kills or not trial.lakes:
            place = Place(Path(folder) / str(trial.lakes), database(), database())
            place.work(trial, draw, options.kills, options.between)
            print(f"lake {trial.lakes}: {len(trial.kills)} kills", file=sys.stderr, flush=True)
        alone = Path(folder) / "alone"
        run(alone, Path(folder) / "bases").wait(HUNG_S)
        trial.differing_from_sqlite = sorted(differing(Lake(alone), [Lake(place) for place in lakes(Path(folder))]))
    question = "what do kills cost where two workers share a lake and a PostgreSQL"
    result = {"question": question, **asdict(trial)}
    save("kill_two_workers", result, print_only=options.print_only)


def run(lake: Path, bases: Path, **more: str) -> "subprocess.Popen[bytes]":
    """Start `iot-pipeline run` on a lake."""
    lake.mkdir(parents=True, exist_ok=True)
    environment = os.environ | SMALL | {"IOT_LAKE": str(lake), "IOT_BASE_CACHE": str(bases)} | more
    log = log_of(lake).open("ab")
    command = [sys.executable, "-m", "iot_pipeline", "run"]
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def log_of(lake: Path) -> Path:
    """Return the file of what workers on a lake say."""
    return lake.parent / f"{lake.name}.log"


class Place:
    """One lake with its two databases and its two workers."""

    def __init__(self, root: Path, dagster: str, store: str) -> None:
        self.root, self.lake, self.store = root, Lake(root, read_only=True), store
        self.settings = {
            "IOT_DAGSTER_POSTGRES": dagster, "IOT_TEACHER_STORE": store, "IOT_GPU_SLOTS": "2", "IOT_TEACHER_SLOTS": "2"
        }  # fmt: skip
        self.before: dict[str, tuple[str, str]] = {}  # artefact -> run and data version

    def start(self) -> "subprocess.Popen[bytes]":
        """Start a worker."""
        return run(self.root, self.root.parent / "bases", **self.settings)

    def work(self, trial: Trial, draw: random.Random, kills: int, between: tuple[float, float]) -> None:
        """Let two workers make the lake, and kill one of them now and then, until it is whole."""
        workers = [self.start(), self.start()]
        while any(worker.poll() is None for worker in workers):
            end = time.monotonic() + draw.uniform(*between)
            while time.monotonic() < end and any(worker.poll() is None for worker in workers):
                time.sleep(LOOKED_EVERY_S)
            alive = [number for number, worker in enumerate(workers) if worker.poll() is None]
            if alive and len(trial.kills) < kills:
                number = draw.choice(alive)
                self.kill(workers[number], trial)
                workers[number] = self.start()
        trial.exits += [worker.returncode for worker in workers]
        if any(worker.returncode for worker in workers):
            said = log_of(self.root).read_text(errors="replace").splitlines()
            print("\n".join(["a worker failed; both said last:", *said[-SHOWN:]]), file=sys.stderr, flush=True)
        self.judge(trial)

    def kill(self, worker: "subprocess.Popen[bytes]", trial: Trial) -> None:
        """Kill a worker, and count what it leaves behind."""
        before, children = finished(self.lake), psutil.Process(worker.pid).children(recursive=True)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        killed = time.monotonic()
        trial.broken += broken(self.lake)
        told = {"finished": len(before), "holders": len(holders(self.settings["IOT_DAGSTER_POSTGRES"]))}
        threading.Thread(target=self.watch, args=(trial, told, killed), daemon=True).start()
        gone, alive = psutil.wait_procs(children, timeout=15)
        told["children"], told["left_behind"] = len(gone) + len(alive), len(alive)
        trial.left_behind += len(alive)
        trial.kills.append(told)
        self.note(trial, before)
        print(f"kill {len(trial.kills)}: {told}, made again {trial.made_again}", file=sys.stderr, flush=True)

    def note(self, trial: Trial, before: dict[str, tuple[str, str]]) -> None:
        """Note the artefacts that a process made again with the same content."""
        self.before |= before
        for name, (run_id, version) in finished(self.lake).items():
            was = self.before.get(name)
            if was is not None and was[0] != run_id and was[1] == version:
                trial.made_again.append(name)
            self.before[name] = (run_id, version)

    def watch(self, trial: Trial, told: dict[str, Any], killed: float) -> None:
        """Wait until no dead worker holds a slot of a pool; note the seconds since the kill."""
        url = self.settings["IOT_DAGSTER_POSTGRES"]
        while time.monotonic() - killed < 2 * SETTLED_S:
            held, living = holders(url), Living(url)
            if not [run_id for run_id in held if run_id not in living]:
                break
            time.sleep(LOOKED_EVERY_S)
        told["slot_free_after_s"] = round(time.monotonic() - killed, 1)
        trial.slot_held_s = max(trial.slot_held_s, told["slot_free_after_s"])

    def judge(self, trial: Trial) -> None:
        """Count what is true of a lake that is finished."""
        trial.lakes += 1
        self.note(trial, {})
        trial.artefacts += len(self.lake.artefacts())
        trial.broken += broken(self.lake)
        trial.broken += [str(path) for end in ("staging", "retired") for path in self.root.rglob(f".*.{end}")]
        engine = sa.create_engine(self.store)
        with engine.connect() as connection:
            twice = "SELECT 1 FROM attempts WHERE outcome = 'answered' GROUP BY key HAVING count(*) > 1"
            trial.answered_twice += len(connection.execute(sa.text(twice)).fetchall())
            lost = "SELECT count(*) FROM attempts WHERE outcome = 'in flight at a kill'"
            trial.in_flight_at_kills += int(connection.scalar(sa.text(lost)) or 0)
        engine.dispose()


def holders(url: str) -> set[str]:
    """Return the runs that hold a slot of a pool, or are in line for one."""
    asked = "SELECT run_id FROM concurrency_slots WHERE run_id IS NOT NULL UNION SELECT run_id FROM pending_steps"
    with contextlib.closing(connected(url)) as connection:
        if not sa.inspect(connection).has_table("pending_steps"):
            return set()
        return set(connection.scalars(sa.text(asked)))


def finished(lake: Lake) -> dict[str, tuple[str, str]]:
    """Return run and data version of each finished artefact."""
    found = {}
    for path in lake.root.glob("*/**/manifest.json"):
        name = str(path.parent.relative_to(lake.root))
        if not name.startswith("."):
            with contextlib.suppress(Exception):  # it is being replaced at this moment
                manifest = lake.manifest(artefact_in(path))
                if manifest is not None:
                    found[name] = (str(manifest.provenance["run_id"]), manifest.data_version)
    return found


def artefact_in(path: Path) -> ArtefactId:
    """Return the artefact of a manifest."""
    told = json.loads(path.read_text())
    return ArtefactId(told["asset"], told["partition"])


def broken(lake: Lake) -> list[str]:
    """List what is no whole artefact: a changed or half-written file, that is still so a moment later."""
    found = problems(lake)
    if found:  # the other worker may have been replacing it
        time.sleep(3)
        found &= problems(lake)
    return sorted(found)


def problems(lake: Lake) -> set[str]:
    """Return a sentence for each file that is not as its manifest says."""
    found = set[str]()
    for path in sorted(lake.root.glob("*/**/manifest.json")):
        if not any(part.startswith(".") for part in path.relative_to(lake.root).parts):
            try:
                artefact = artefact_in(path)
                if (manifest := lake.manifest(artefact)) is not None:
                    found |= {f"{artefact}: {problem}" for problem in lake.altered(artefact, manifest)}
            except (OSError, ValueError, UserError) as error:
                found.add(f"{path.parent.name}: {type(error).__name__}")
    return found


def lakes(folder: Path) -> list[Path]:
    """List the lakes of a trial."""
    return sorted(path for path in folder.iterdir() if path.name.isdigit() and path.is_dir())


def differing(alone: Lake, shared: list[Lake]) -> set[str]:
    """Name the artefacts whose data versions differ from those that one worker made with SQLite."""
    wanted = {str(a): m.data_version for a in alone.artefacts() if (m := alone.manifest(a)) and a.asset not in TIMED}
    found = set()
    for lake in shared:
        made = {str(a): m.data_version for a in lake.artefacts() if (m := lake.manifest(a))}
        found |= {name for name, version in wanted.items() if made.get(name) != version}
    return found


if __name__ == "__main__":
    main()
