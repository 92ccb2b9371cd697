"""What does scoring on Ray Data cost beside the local engine, are its labels the same, and how would it scale?

    PYTHONPATH=. .venv/bin/python benchmarks/ray_batch.py --flows 100000

Distinct simulated Farm-Flow flows, and a base of the tiny student's shape that was trained for two steps: its answers
are worth nothing, its speed is the student's. Both arms read one Parquet file and write their scores, without a cache,
with one thread a student. They run in turn, each in a process of its own, whose processor time is that of all processes
under it. What an arm takes for one flow is its start-up (imports, Ray, loading the student), which is taken off.

Scaling to more replicas is a simulation: blocks as measured at one replica go to the replica that is free first, and
the driver handles one block at a time. It assumes a core for each replica. The value of two replicas is measured too.
"""

import argparse
import heapq
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from result import save

from iot_pipeline.flows.serialise import group_id
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.texts import FlowTextWriter, RankTable
from iot_pipeline.simulator.classes import FARM_FLOW
from iot_pipeline.simulator.packets import class_features
from iot_pipeline.simulator.simulate import generator, publish

SPEC = load_spec("farm_flow")


def main() -> None:
    """Measure both arms and write benchmarks/results/ray_batch.json; with an arm's name, be that arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", type=int, default=100_000, help="flows whose labels are compared")
    parser.add_argument("--timed", type=int, default=20_480, help="flows of a round that is timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arm", choices=["local", "ray"], help=argparse.SUPPRESS)
    parser.add_argument("--files", nargs=3, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--replicas", type=int, default=1, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.arm:
        score(chosen.arm, *chosen.files, chosen.replicas)
        return
    with tempfile.TemporaryDirectory() as folder:
        save("ray_batch", measured(chosen, Path(folder)))


def measured(chosen: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Return the result."""
    texts = simulated(chosen.flows)
    make_base(texts[:2000], place / "base")
    files = {name: write(texts[:rows], place / f"{name}.parquet") for name, rows in (
        ("one", 1), ("timed", chosen.timed), ("all", chosen.flows)
    )}  # fmt: skip
    load = os.getloadavg()
    rounds = [
        {(arm, name): run(arm, place, files[name], 1) for arm in ("local", "ray") for name in ("one", "timed")}
        for _ in range(chosen.rounds)
    ]
    told = {arm: work_of(rounds, arm, chosen.timed) for arm in ("local", "ray")}
    blocks = [block for one in rounds for block in one["ray", "timed"]["blocks"]]
    whole = {"local": run("local", place, files["all"], 1), "ray": run("ray", place, files["all"], 2)}
    differences = compared(whole["local"]["out"], whole["ray"]["out"])
    return {
        "question": "scoring on Ray Data beside the local engine: cost, labels, scaling",
        "flows": chosen.flows,
        "timed_flows": chosen.timed,
        "rounds": chosen.rounds,
        "labels": differences,
        "arms": told,
        "overhead_at_one_replica": {
            name: round(told["ray"][name] / told["local"][name] - 1, 4) for name in ("processor_seconds", "seconds")
        },
        "two_replicas_measured": two(whole["ray"], told["ray"], chosen),
        "scaling_simulated": simulation(blocks, told["ray"], chosen),
        "load_average_before_and_after": [[round(one, 1) for one in when] for when in (load, os.getloadavg())],
    }


def simulated(flows: int) -> list[str]:
    """Distinct texts of simulated flows, as many of each class as it takes."""
    number, texts = flows // len(FARM_FLOW), list[str]()
    while len(texts) < flows:
        number *= 2
        drawn = [
            publish(SPEC, class_features(kind, number, generator(7, place), SPEC.feature_names))
            for place, kind in enumerate(FARM_FLOW.values())
        ]
        table = np.unique(np.concatenate(drawn), axis=0)
        table = table[np.random.default_rng(7).permutation(len(table))[: 2 * flows]]
        columns = {name: table[:, place] for place, name in enumerate(SPEC.feature_names)}
        texts = list(dict.fromkeys(writer_of(columns).texts(columns)))
    return texts[:flows]


def writer_of(columns: dict[str, np.ndarray]) -> FlowTextWriter:
    """A writer of texts with the percentiles of these flows."""
    found = {name: np.unique(np.round(column, 3), return_counts=True) for name, column in columns.items()}
    values = {name: numbers.tolist() for name, (numbers, _) in found.items()}
    upto = {name: np.cumsum(counts).tolist() for name, (_, counts) in found.items()}
    return FlowTextWriter(SPEC, "ranked", RankTable(len(next(iter(columns.values()))), values, upto))


def make_base(texts: list[str], out: Path) -> None:
    """A base of the tiny student's shape, hardly trained."""
    from iot_pipeline.tiny_base.build import BaseRecipe, build_tiny_base

    def answer(text: str, name: str, _random: Any) -> str:
        cited = text.split("\n")[0].replace(": ", " ")
        return f"CLASSIFICATION: {name}\nANALYSIS: {cited}.\nKEY_INDICATORS: {cited}"

    recipe = BaseRecipe(steps=2, rows=6, group_sizes=(2, 3))
    build_tiny_base(texts, SPEC.classes, SPEC.feature_names, out, answer, 1, recipe)


def write(texts: list[str], path: Path) -> Path:
    """Write prompts by flow group."""
    pq.write_table(pa.table({"flow_group": [group_id(text) for text in texts], "prompt": texts}), path)
    return path


def score(arm: str, base: Path, source: Path, out: Path, replicas: int) -> None:
    """Be an arm: score a file and write the scores."""
    from iot_pipeline.inference.engines import Opening
    from iot_pipeline.inference.ray_batch import run_blocks
    from iot_pipeline.inference.ray_blocks import Pool
    from iot_pipeline.inference.ray_scores import ScoreLabels

    work = ScoreLabels(Opening(str(base), None, "transformers-fp32"), tuple(SPEC.classes), "tiny")
    if arm == "local":
        out.mkdir()
        pq.write_table(work.open(1)(pq.read_table(source)), out / "scores.parquet", compression="zstd")
    else:
        run_blocks(source, out, work, Pool(replicas, threads=1), lambda text: print(text, file=sys.stderr))


def run(arm: str, place: Path, source: Path, replicas: int) -> dict[str, Any]:
    """Run an arm in a process of its own; return the seconds that it and all under it took, and its scores."""
    out = Path(tempfile.mkdtemp(dir=place)) / "out"
    files = [str(place / "base"), str(source), str(out)]
    begin = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, __file__, "--arm", arm, "--replicas", str(replicas), "--files", *files],
        stderr=subprocess.DEVNULL,
    )
    used = dict[tuple[int, float], float]()
    top = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            for process in [top, *top.children(recursive=True)]:
                times = process.cpu_times()
                used[process.pid, process.create_time()] = times.user + times.system
        except psutil.Error:
            continue
        time.sleep(0.1)
    if child.returncode:
        raise SystemExit(f"{arm} ended with {child.returncode}")
    manifest = out / "manifest.json"
    return {
        "seconds": time.monotonic() - begin,
        "processor_seconds": sum(used.values()),
        "blocks": json.loads(manifest.read_text())["blocks"] if manifest.exists() else [],
        "out": out,
    }


def work_of(rounds: list[dict[tuple[str, str], dict[str, Any]]], arm: str, flows: int) -> dict[str, Any]:
    """Seconds of an arm for the timed flows without its start-up, the least of the rounds; and its start-up."""
    names = ("seconds", "processor_seconds")
    told: dict[str, Any] = {}
    for name in names:
        start = min(one[arm, "one"][name] for one in rounds)
        told[f"start_up_{name}"] = round(start, 2)
        told[name] = round(min(one[arm, "timed"][name] for one in rounds) - start, 2)
        told[f"{name}_of_each_round"] = [round(one[arm, "timed"][name] - one[arm, "one"][name], 2) for one in rounds]
    return told | {"processor_ms_per_flow": round(1000 * told["processor_seconds"] / flows, 3)}


def compared(local: Path, ray: Path) -> dict[str, Any]:
    """Compare labels and probabilities by flow group."""
    one = pq.read_table(local / "scores.parquet").sort_by("flow_group")
    parts = [pq.read_table(path).replace_schema_metadata(None) for path in sorted((ray / "blocks").iterdir())]
    other = pa.concat_tables(parts).sort_by("flow_group")
    assert one["flow_group"].equals(other["flow_group"])
    logs = [np.exp(np.array(table["log_probs"].to_pylist())) for table in (one, other)]
    return {
        "compared": len(one),
        "equal": int(np.sum(np.array(one["label"].to_pylist()) == np.array(other["label"].to_pylist()))),
        "largest_difference_of_a_probability": float(np.abs(logs[0] - logs[1]).max()),
        "blocks": len(parts),
    }


def two(found: dict[str, Any], alone: dict[str, Any], chosen: argparse.Namespace) -> dict[str, Any]:
    """Speed of two replicas on this machine, beside that of one: start-up taken off both."""
    seconds = found["seconds"] - alone["start_up_seconds"]
    speed, before = chosen.flows / seconds, chosen.timed / alone["seconds"]
    used = found["processor_seconds"] - alone["start_up_processor_seconds"]
    return {
        "flows_per_second": round(speed, 1),
        "times_one_replica": round(speed / before, 3),
        "processor_ms_per_flow": round(1000 * used / chosen.flows, 3),
        "replicas": len({block["replica"] for block in found["blocks"]}),
    }


def simulation(blocks: list[dict[str, Any]], alone: dict[str, Any], chosen: argparse.Namespace) -> dict[str, Any]:
    """Simulate the whole file on more replicas: each block takes a measured time, and the driver a serial part."""
    times = np.array(
        [block["processor_seconds"] for block in blocks if block["rows"] == max(b["rows"] for b in blocks)]
    )
    rows = max(block["rows"] for block in blocks)
    count = -(-chosen.flows // rows)
    each = chosen.timed / rows
    serial = max(0.0, (alone["processor_seconds"] - each * times.mean()) / each)
    drawn = np.random.default_rng(1).choice(times, count)
    spans = {replicas: makespan(drawn, replicas, serial) for replicas in (1, 2, 4, 8)}
    return {
        "what": "simulation from measured blocks: one core a replica, blocks in a queue, a serial driver",
        "blocks": count,
        "seconds_of_a_block": round(float(times.mean()), 3),
        "driver_seconds_of_a_block": round(serial, 4),
        "times_one_replica": {str(replicas): round(spans[1] / span, 2) for replicas, span in spans.items()},
    }


def makespan(blocks: np.ndarray, replicas: int, serial: float) -> float:
    """Seconds until the last block is back: the driver sends and takes one at a time, each replica answers in turn."""
    free, driver, last = [0.0] * replicas, 0.0, 0.0
    for seconds in blocks:
        begin = max(heapq.heappop(free), driver)
        driver = max(driver, begin) + serial
        end = begin + serial + float(seconds)
        heapq.heappush(free, end)
        last = max(last, end)
    return last


if __name__ == "__main__":
    main()
