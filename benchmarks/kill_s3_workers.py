"""What does a kill -9 cost where two hosts work on one lake in a bucket? Kill them at random moments, then count.

    .venv/bin/python benchmarks/kill_s3_workers.py --kills 20                                    # the whole small job
    .venv/bin/python benchmarks/kill_s3_workers.py --kills 20 --lake-alone --between 3 12        # the lake, no Dagster

A real S3 server and a real PostgreSQL (the teacher's answers) run on loopback. Each worker is `iot-pipeline run` of the
tests' small job, or with --lake-alone a process that makes 40 artefacts of 2 MB, with a mirror of its own, in a process
namespace and under a host name of its own, so that the other one knows of its end by the heartbeat alone, as of a host
that was lost; the kill takes its children along. Counted: manifests that name an object that is not there or differs,
artefacts made twice of the same inputs, answers paid twice, and how long the leases of a killed worker keep others out.
Where the job is done before the kills are, it begins again with another seed. Needs root (unshare) and Linux.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy
from result import save

from iot_pipeline.lake.artefact_log import LEASE, MANIFEST, ArtefactLog
from iot_pipeline.lake.leases import this_owner
from iot_pipeline.lake.object_store import ObjectStore
from iot_pipeline_tests.lake.s3_server import BUCKET, Server, s3_server
from iot_pipeline_tests.teacher.postgres import cluster
from iot_pipeline_tests.test_end_to_end import SMALL

ADDRESS = f"s3://{BUCKET}/killed"


@dataclass
class Trial:
    """State that workers, watcher and count share."""

    environment: dict[str, str]
    folder: Path
    kills: int
    between: tuple[float, float]
    seed: int = 2027
    alone: bool = False
    killed: dict[str, float] = field(default_factory=dict)  # host name -> time of the kill
    held: dict[str, float] = field(default_factory=dict)  # `host artefact` -> seconds that its lease outlived the kill
    broken: list[str] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    told: list[str] = field(default_factory=list)  # last lines of workers that failed
    finished: dict[int, set[int]] = field(default_factory=dict)  # seed -> workers whose job with it is done
    lock: threading.Lock = field(default_factory=threading.Lock)


def main() -> None:
    """Kill, count, write benchmarks/results/kill_s3_workers.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--between", type=float, nargs=2, default=(10.0, 60.0), metavar=("LOW", "HIGH"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lake-alone", action="store_true")
    options = parser.parse_args()
    with s3_server() as server, cluster() as database, tempfile.TemporaryDirectory(prefix="kill-s3-") as place:
        url = database()
        environment = {**os.environ, **SMALL, **server.environment, "IOT_LAKE": ADDRESS, "IOT_TEACHER_STORE": url}
        environment |= {"IOT_BASE_CACHE": f"{place}/bases", "IOT_ENV_FILE": os.devnull}
        os.environ.update(server.environment)
        trial = Trial(environment, Path(place), options.kills, tuple(options.between), alone=options.lake_alone)
        begin, stop = time.monotonic(), threading.Event()
        watching = threading.Thread(target=watch, args=(trial, server, stop))
        watching.start()
        workers = [threading.Thread(target=work, args=(trial, n, options.seed + n)) for n in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        stop.set()
        watching.join()
        found = counted(trial, server) | ({} if trial.alone else counted_job(trial, url))
        name = "kill_s3_workers-lake" if trial.alone else "kill_s3_workers"
        save(name, found | {"wall_seconds": round(time.monotonic() - begin)})


class Forked:
    """Worker that a process with everything imported forks: on a busy machine imports would take until the kill."""

    parent: "subprocess.Popen[str] | None" = None
    told: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, trial: Trial, worker: int, host: str) -> None:
        if Forked.parent is None:
            command = [sys.executable, "benchmarks/lake_worker.py"]
            Forked.parent = subprocess.Popen(
                command, env=trial.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            threading.Thread(target=self.listen, daemon=True).start()
        self.host = host
        assert Forked.parent.stdin is not None
        Forked.parent.stdin.write(f"{host} {trial.folder / f'worker{worker}'} {trial.seed}\n")
        Forked.parent.stdin.flush()
        self.pid = self.await_(f"{host} pid", None)

    def listen(self) -> None:
        """Note what the forking process tells."""
        assert Forked.parent is not None and Forked.parent.stdout is not None
        for line in Forked.parent.stdout:
            what, _, number = line.strip().rpartition(" ")
            Forked.told[what] = int(number)

    def await_(self, what: str, seconds: float | None) -> int:
        """Wait until something was told; TimeoutExpired after so many seconds."""
        end = time.monotonic() + (seconds or 1e9)
        while what not in Forked.told:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(what, seconds or 0)
            time.sleep(0.05)
        return Forked.told[what]

    def wait(self, seconds: float | None = None) -> int:
        """Wait for the worker's end and return its exit code."""
        return self.await_(f"{self.host} code", seconds)

    def kill(self) -> None:
        """Kill the worker, and with it its namespace."""
        os.kill(self.pid, signal.SIGKILL)


def start(trial: Trial, worker: int, host: str) -> "subprocess.Popen[bytes]":
    """Start one worker as a host of its own."""
    variables = trial.environment | {
        "IOT_LAKE_CACHE": str(trial.folder / f"worker{worker}"),
        "IOT_SEED": str(trial.seed),
    }
    script = f"hostname {host} && exec {sys.executable} -m iot_pipeline run"
    with (trial.folder / f"{host}.txt").open("w") as output:
        command = ["unshare", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]
        return subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT)


def work(trial: Trial, worker: int, seed: int) -> None:
    """Run and kill one worker until all kills are done, then run it to its end."""
    draw = random.Random(seed)
    for turn in range(10_000):
        host = f"worker{worker}-{turn}"
        with trial.lock:
            last, running = len(trial.killed) >= trial.kills, trial.seed
        process = Forked(trial, worker, host) if trial.alone else start(trial, worker, host)
        try:
            code = process.wait(None if last else draw.uniform(*trial.between))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            with trial.lock:
                trial.killed[host] = time.monotonic()
            print(f"{host} killed, {len(trial.killed)} of {trial.kills}", flush=True)
            continue
        with trial.lock:
            if code != 0 or last:
                trial.ends.append(code)
                print(f"{host} ended with {code}", flush=True)
            if code != 0 and not trial.alone:
                trial.told.append(f"{host}: {(trial.folder / f'{host}.txt').read_text()[-600:]}")
            if last:
                return
            if code != 0:
                continue
            trial.finished.setdefault(running, set()).add(worker)
        # Done before the kills are: begin again, once the other is done too. Two seeds would undo each other's work.
        while trial.finished[running] < {0, 1} and len(trial.killed) < trial.kills:
            time.sleep(0.5)
        with trial.lock:
            if trial.seed == running and trial.finished[running] == {0, 1}:
                trial.seed += 1


def watch(trial: Trial, server: Server, stop: threading.Event) -> None:
    """Note every second which leases outlive their killed owners, and whether every manifest's objects are there."""
    log = ArtefactLog(ObjectStore(ADDRESS), this_owner())
    while not stop.wait(1.0):
        # The log before the objects: these are there before a manifest names them.
        now = {name: (log.latest(name), log.made(name)) for name in log.names()}
        there = {key.rpartition("/")[2] for key in server.keys("killed/objects")}
        for name, (latest, made) in now.items():
            files = json.loads(made.manifest)["files"] if made else {}
            trial.broken += [f"{name}: {one}" for one, facts in files.items() if facts["sha256"] not in there]
            host = latest.owner.host if latest and latest.kind == LEASE else ""
            with trial.lock:
                at = trial.killed.get(host)
            if latest and at is not None and log.beats.is_live(latest.owner):
                trial.held[f"{host} {name}"] = round(time.monotonic() - at, 1)


def counted(trial: Trial, server: Server) -> dict[str, Any]:
    """Count what is in the bucket."""
    log, client = ArtefactLog(ObjectStore(ADDRESS), this_owner()), server.client()
    made: Counter[str] = Counter()
    leases = 0
    for name in log.names():
        for number in log.numbers(name):
            entry = log.entry(name, number)
            leases += entry is not None and entry.kind == LEASE
            if entry is not None and entry.kind == MANIFEST:
                told = json.loads(entry.manifest)
                made[json.dumps([name, told["settings"], told["inputs"], told["code_version"]], sort_keys=True)] += 1
    damaged = [
        key
        for key in server.keys("killed/objects")
        if hashlib.sha256(client.get_object(Bucket=BUCKET, Key=key)["Body"].read()).hexdigest()
        != key.rpartition("/")[2]
    ]
    return {
        "question": "what do kills of two hosts on one lake in a bucket cost",
        "kills": len(trial.killed),
        "between_seconds": list(trial.between),
        "seeds": trial.seed - 2026,
        "last_exit_codes": trial.ends,
        "failures": trial.told,
        "manifests": sum(made.values()),
        "made_twice_of_the_same": [name for name, count in made.items() if count > 1],
        "lease_entries": leases,
        "manifests_naming_absent_objects": trial.broken,
        "objects": len(server.keys("killed/objects")),
        "damaged_objects": damaged,
        "leases_that_outlived_a_kill": len(trial.held),
        "longest_seconds": max(trial.held.values(), default=0.0),
        "leases_live_at_the_end": [name for name in log.names() if log.holder(name, 0.0)],
    }


def counted_job(trial: Trial, url: str) -> dict[str, Any]:
    """Count what a third host finds, and the answers of the teacher."""
    variables = trial.environment | {"IOT_LAKE_CACHE": str(trial.folder / "third"), "IOT_SEED": str(trial.seed)}
    command = [sys.executable, "-m", "iot_pipeline"]
    told = subprocess.run([*command, "status", "--json"], env=variables, capture_output=True, text=True, check=True)
    verified = subprocess.run([*command, "verify"], env=variables, capture_output=True, text=True, check=False)
    twice = "SELECT key FROM attempts WHERE outcome = 'answered' GROUP BY key HAVING count(*) > 1"
    with sqlalchemy.create_engine(url).connect() as connection:
        repeated = len(connection.execute(sqlalchemy.text(twice)).fetchall())
        answers = connection.execute(sqlalchemy.text("SELECT count(*) FROM answers")).scalar()
    return {
        "third_host_states": dict(Counter(row["state"] for row in json.loads(told.stdout))),
        "verify_exit": verified.returncode,
        "verify_told": verified.stdout[-1500:] if verified.returncode else "",
        "answers": answers,
        "requests_answered_twice": repeated,
    }


if __name__ == "__main__":
    main()
