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
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from result import save
from teacher_memory import peak_mib

from iot_pipeline.augmentation.prompts import load_prompt
from iot_pipeline.augmentation.track_files import read_answers, write_track
from iot_pipeline.augmentation.tracks import (
    TeacherProtocol,
    TrackConfig,
    TrackResult,
    build_feature_varied,
    build_original,
    build_paraphrased,
)
from iot_pipeline.augmentation.variation import Variation
from iot_pipeline.embedded_teacher.process import embedded_server
from iot_pipeline.flows.dataset import training_rows
from iot_pipeline.flows.serialise import flow_writer, group_id, texts
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.lake.atomic import write_table
from iot_pipeline.settings import PROJECT_ROOT
from iot_pipeline.simulator.simulate import simulate_farm_flow
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.config import TeacherConfig
from iot_pipeline.teacher.request import Answer, Request, Usage

SPEC = load_spec("farm_flow")
BRIEF = TrackConfig(spec=SPEC, words=60, order="label_first", serialisation="values", seed=42)
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
    if chosen.print_only:
        print(json.dumps(result, indent=1))
    else:
        save("track_memory", result)


def prepare(folder: Path, rows: int) -> None:
    """flows.parquet and order.parquet as the lake has them; the order is that of the simulation, which is shuffled."""
    simulate_farm_flow(folder / "raw.parquet", rows=rows, seed=3)
    table = pd.read_parquet(folder / "raw.parquet")
    table["label"] = [SPEC.label_of(code) for code in table["traffic"]]
    table["flow_group"] = [group_id(text) for text in texts(SPEC, "values", table)]
    table["occurrence"] = table.groupby("flow_group").cumcount()
    table["repeat"] = table.groupby(["flow_group", "label"]).cumcount().astype("int32")
    table["position"] = table["row_id"] = range(rows)
    for name, columns in (
        ("flows", ["row_id", "flow_group", "label", "occurrence", *SPEC.feature_names]),
        ("order", ["position", "row_id", "flow_group", "label", "repeat"]),
    ):
        write_table(folder / f"{name}.parquet", pa.Table.from_pandas(table[columns], preserve_index=False))


def in_a_process(track: str, rows: int, folder: str, url: str) -> dict[str, Any]:
    """What `one_pass` says of itself."""
    command = [sys.executable, __file__, "--one", track, str(rows), folder, url]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def one_pass(track: str, rows: int, folder: Path, url: str) -> dict[str, Any]:
    """Read, ask, join, write; peak memory in MiB before, once rows are read, and at the end."""
    out = folder / f"{'instant' if url == AT_ONCE else 'served'}-{rows}"
    store = out.with_suffix(".sqlite")
    config = TeacherConfig(url, "none", store, "embedded", None)
    engine: TeacherProtocol = Instant() if url == AT_ONCE else Teacher(config)
    before, started = peak_mib(), time.perf_counter()
    table = training_rows(folder / "flows.parquet", folder / "order.parquet", 0, rows)
    read = peak_mib()
    result = build(track, table, engine, out)
    asked = time.perf_counter() - started
    (out / track).mkdir(parents=True)
    write_track(result, out / track)
    seconds = time.perf_counter() - started
    if result.report["rows"] != rows:
        raise SystemExit(f"{result.report['rows']} of {rows} rows were written")
    return {
        "before_mib": before, "rows_read_mib": read, "peak_mib": peak_mib(),
        "distinct_requests": result.report["distinct_requests"], "seconds": round(seconds, 1),
        "of_which_writing": round(seconds - asked, 1),
    }  # fmt: skip


def build(track: str, table: pd.DataFrame, engine: TeacherProtocol, out: Path) -> TrackResult:
    """One track, as its asset builds it."""
    prompt = load_prompt(PROJECT_ROOT / "iot_pipeline" / "prompts" / f"{track}.md")
    to_texts = partial(texts, SPEC, BRIEF.serialisation)
    if track == "original":
        return build_original(table, prompt, engine, BRIEF, to_texts=to_texts)
    answers = read_answers(out / "original")
    if track == "paraphrased":
        return build_paraphrased(table, answers, prompt, engine, BRIEF, to_texts=to_texts)
    return build_feature_varied(
        table, answers, prompt, engine, BRIEF, Variation.physical, flow_writer(SPEC, BRIEF.serialisation), (),
        to_texts=to_texts,
    )  # fmt: skip


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
