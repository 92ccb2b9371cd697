"""Is the output of a `classify` that is killed again and again that of one that was left alone, to the byte?

    IOT_LAKE=... .venv/bin/python benchmarks/classify_kill.py --kills 20

The same simulated flows twice, each with a cache of its own: once whole, once killed with SIGKILL at random moments
(while it loads, reads, scores or writes) and started again by the same command each time.
"""

import argparse
import collections
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
from result import save

from iot_pipeline.simulator.simulate import simulate_farm_flow


def main() -> None:
    """Classify whole and killed, compare; write benchmarks/results/classify_kill.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=11)
    chosen = parser.parse_args()
    chance = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        simulate_farm_flow(place / "flows.parquet", chosen.rows, chosen.seed)
        pyarrow.csv.write_csv(pq.read_table(place / "flows.parquet"), place / "flows.csv")
        begin = time.monotonic()
        if begun(place, "whole").wait():
            raise SystemExit("the whole run failed")
        whole = time.monotonic() - begin
        killed = []
        while len(killed) < chosen.kills:
            running = begun(place, "killed")
            # Four of five kills come after one more batch was recorded, within what the next one takes; the others may
            # come while it loads the student or reads.
            before, waits = answered(place), chance.random() < 0.8
            time.sleep(chance.uniform(0, 0.1) * whole)
            while waits and running.poll() is None and answered(place) <= before:
                time.sleep(0.05)
            time.sleep(chance.uniform(0, 8192 / chosen.rows) * whole)
            running.kill()
            if running.wait() != -signal.SIGKILL:
                break
            killed.append(answered(place))
        while begun(place, "killed").wait() and (place / "killed.jsonl.resume").exists():
            pass
        first, second = (events(place / f"{name}.jsonl") for name in ("whole", "killed"))
        save(
            "classify_kill",
            {
                "question": "output of a killed and resumed classify against one left alone",
                "rows": chosen.rows,
                "kills": len(killed),
                "events_recorded_at_each_kill": killed,
                "same_bytes": first[0] == second[0],
                "lost": len(first[1] - second[1]),
                "repeated": sum(second[1].values()) - len(second[1]),
                "sha256": second[0],
                "seconds_whole": round(whole, 1),
            },
        )


def begun(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """Start a run; one that is done already ends at once with an error."""
    command = [sys.executable, "-m", "iot_pipeline", "classify", str(folder / "flows.csv")]
    files = ["--out", str(folder / f"{name}.jsonl"), "--cache", str(folder / f"{name}.sqlite")]
    return subprocess.Popen([*command, *files], stderr=subprocess.DEVNULL)


def answered(folder: Path) -> int:
    """Return the number of events that the state beside the output records."""
    state = folder / "killed.jsonl.resume" / "state.json"
    return int(json.loads(state.read_text())["position"].get("flows", 0)) if state.exists() else 0


def events(path: Path) -> tuple[str, collections.Counter[str]]:
    """Return the sha256 of an output, and how often each event is in it."""
    text = path.read_bytes()
    return hashlib.sha256(text).hexdigest(), collections.Counter(json.loads(line)["uid"] for line in text.splitlines())


if __name__ == "__main__":
    main()
