"""What memory does a whole track take, from the rows in the lake to the files written, and how fast is it?

    .venv/bin/python benchmarks/track_memory.py --rows 10000 300000 --served 20000

Each pass is a process of its own that reads simulated flows, builds one track as its asset does and writes its files.
Answers come at once, in the process, so that what is measured is the track; at one size also from the real engine
and the embedded server (another process), with its store.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from result import save
from teacher_memory import peak_mib

from iot_pipeline.augmentation.ask import TeacherProtocol, ask
from iot_pipeline.augmentation.join import join, read_answers
from iot_pipeline.augmentation.plan import TrackConfig, TrackPlan
from iot_pipeline.augmentation.prompts import load_prompt
from iot_pipeline.augmentation.variation import Variation, VariationConfig, fit_varier
from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.flows.dataset import ordered_rows
from iot_pipeline.flows.serialise import group_id
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.texts import FlowTextWriter, fit_ranks
from iot_pipeline.lake.atomic import write_table
from iot_pipeline.settings import PROJECT_ROOT
from iot_pipeline.simulator.simulate import simulate_farm_flow
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline.teacher.request import Answer, Request, Usage

SPEC = load_spec("farm_flow")
CONFIG = TrackConfig(spec=SPEC, words=60, order="label_first", serialisation="values", seed=42)
TRACKS = ("original", "paraphrased", "feature_varied")
AT_ONCE = "at once"  # in place of a server's address
LETTERS = str.maketrans("0123456789", "ghijklmnop")
WORDS = "the flow sends few packets of a small payload and each of them waits for the other host to say " * 3
INDICATORS = "; ".join(f"{name} 0.125 (above the mean)" for name in SPEC.feature_names[:6])


def main() -> None:
    """Write benchmarks/results/track_memory.json and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 300_000], help="with answers at once")
    parser.add_argument("--served", type=int, default=20_000, help="rows with answers of the embedded server")
    parser.add_argument("--print-only", action="store_true", help="write no result")
    parser.add_argument("--one", nargs=4, metavar=("TRACK", "ROWS", "FOLDER", "URL"), help="one pass, as started here")
    chosen = parser.parse_args()
    if chosen.one:
        track, rows, folder, url = chosen.one
        print(json.dumps(one_pass(track, int(rows), Path(folder), url)))
        return
    with tempfile.TemporaryDirectory() as folder, embedded_server() as url:
        prepare(Path(folder), max(*chosen.rows, chosen.served))
        at_once = {n: {track: in_a_process(track, n, folder, AT_ONCE) for track in TRACKS} for n in chosen.rows}
        served = {track: in_a_process(track, chosen.served, folder, url) for track in TRACKS}
    result = {
        "question": "memory of a process that makes one track, MiB at most, reading rows and writing files included",
        "answers_at_once": at_once,
        "answers_by_the_embedded_server": {chosen.served: served},
    }
    save("track_memory", result, print_only=chosen.print_only)


def prepare(folder: Path, rows: int) -> None:
    """flows.parquet and order.parquet as the lake has them; the order is that of the simulation, which is shuffled."""
    simulate_farm_flow(folder / "raw.parquet", rows=rows, seed=3)
    table = pd.read_parquet(folder / "raw.parquet")
    table["label"] = [SPEC.label_of(code) for code in table["traffic"]]
    table["flow_group"] = [group_id(text) for text in FlowTextWriter(SPEC, "values").texts(table)]
    table["occurrence"] = table.groupby("flow_group").cumcount()
    table["repeat"] = table.groupby(["flow_group", "label"]).cumcount().astype("int32")
    table["position"] = table["row_id"] = range(rows)
    for name, columns in (
        ("flows", ["row_id", "flow_group", "label", "occurrence", *SPEC.feature_names]),
        ("order", ["position", "row_id", "flow_group", "label", "repeat"]),
    ):
        write_table(folder / f"{name}.parquet", pa.Table.from_pandas(table[columns], preserve_index=False))
    first = table.drop_duplicates("flow_group")[["flow_group", "label", "row_id"]].assign(side="train")
    write_table(folder / "records.parquet", pa.Table.from_pandas(first, preserve_index=False))
    flows, records = folder / "flows.parquet", folder / "records.parquet"
    writer = FlowTextWriter(SPEC, CONFIG.serialisation, fit_ranks(SPEC, flows, records))
    writer.save(folder)
    writer.write_texts(flows, records, folder / "texts.parquet")


def in_a_process(track: str, rows: int, folder: str, url: str) -> dict[str, Any]:
    """What `one_pass` says of itself."""
    command = [sys.executable, __file__, "--one", track, str(rows), folder, url]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def one_pass(track: str, rows: int, folder: Path, url: str) -> dict[str, Any]:
    """Plan, ask, join; peak memory in MiB before, once all is asked, and at the end."""
    out = folder / f"{'instant' if url == AT_ONCE else 'served'}-{rows}"
    store = out.with_suffix(".sqlite")
    config = TeacherConfig(url, "none", store, "embedded", None)
    engine: TeacherProtocol = Instant() if url == AT_ONCE else Teacher(config)
    before, started = peak_mib(), time.perf_counter()
    plan = make_plan(track, rows, folder, out)
    ask(plan, engine, plan.out.parent)
    asked, asked_mib = time.perf_counter() - started, peak_mib()
    report = join(plan, plan.out.parent, engine.source).report
    seconds = time.perf_counter() - started
    if report["rows"] != rows:
        raise SystemExit(f"{report['rows']} of {rows} rows were written")
    return {
        "before_mib": before, "asked_mib": asked_mib, "peak_mib": peak_mib(),
        "distinct_requests": report["distinct_requests"], "seconds": round(seconds, 1),
        "of_which_joining": round(seconds - asked, 1),
    }  # fmt: skip


def make_plan(track: str, number: int, folder: Path, out: Path) -> TrackPlan:
    """The plan of one track, as its asset makes it."""
    rows = ordered_rows(folder / "order.parquet", 0, number)
    prompt = load_prompt(PROJECT_ROOT / "iot_pipeline" / "prompts" / f"{track}.md")
    (out / track).mkdir(parents=True)
    plan = TrackPlan(rows, folder / "texts.parquet", prompt, CONFIG, out / track / "requests.parquet")
    if track != "original":
        plan.answers = read_answers(out / "original")
    if track == "feature_varied":
        plan.flows = folder / "flows.parquet"
        varied = VariationConfig(Variation.physical, 0.9, CONFIG.seed, simulated=True)
        plan.varier = fit_varier(varied, rows, plan.flows, folder / "records.parquet", folder, SPEC)
    return plan


class Instant:
    """Answers each request at once, each in words of its own."""

    source = "embedded"

    def stream(
        self, requests: Iterable[Request], check: Callable[[Request, str], list[str]], take: Callable[[Answer], None]
    ) -> None:
        """Give each distinct request an answer that counts as judged already."""
        seen = set()
        for request in requests:
            if (digest := bytes.fromhex(request.key)) not in seen:
                seen.add(digest)
                take(answer(request))


def answer(request: Request) -> Answer:
    """An answer of the usual length."""
    marks = request.key[:32].translate(LETTERS)
    analysis = f"It shows {marks[:8]} {marks[8:16]} {marks[16:24]}, for {WORDS}."
    text = f"CLASSIFICATION: any\nANALYSIS: {analysis}\nKEY_INDICATORS: {INDICATORS}"
    return Answer(request.key, "ok", text, "stop", request.model, "embedded", Usage(900, 0, 200), 0.0, 1)


if __name__ == "__main__":
    main()
