"""What does decoding by a grammar a flow cost, beside free writing and beside numbers held by the processor for plain
facts?

    .venv/bin/python benchmarks/guided_decoding.py --lake data_lake/farm_flow-demo --threads 1

The lake is one that was made with IOT_FACTS=marked. Its student explains the same test flows three ways, in turn, in
batches; the time of a way is its processor time (all threads), which a busy machine disturbs less than the clock. The
first pass of each way is not timed, grammars and their matchers are. Marked shares are those of the rules of the asset
explanation_quality: a guided fact is true by construction, so that only the free shares tell what the student learned.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from result import save

from iot_pipeline.commands.checkpoint import find
from iot_pipeline.errors import UserError
from iot_pipeline.evaluation.explanations import score_explanations
from iot_pipeline.flows.dataset import side_texts
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.inference.grammar import held_to
from iot_pipeline.inference.student import Student, room_for
from iot_pipeline.lake.store import Lake
from iot_pipeline.sft.tasks import asked
from iot_pipeline.vocabulary import Trained

SHARES = ("faultless", "facts_true", "values_true", "directions_true", "schema_valid", "label_matches", "words_mean")


def main() -> None:
    """Measure the student of a lake; write benchmarks/results/guided_decoding.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, required=True)
    parser.add_argument("--stage", default="10K")
    parser.add_argument("--seed", type=int, default=2027, help="training seed of the student")
    parser.add_argument("--flows", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    lake, trained = Lake(chosen.lake.absolute()), Trained(chosen.seed, "original")
    checkpoint = find(lake, chosen.stage, trained)
    used = settings_of(lake)
    if used["facts"] != "marked":
        raise UserError(f"{chosen.lake}: its answers have plain facts; make it with IOT_FACTS=marked")
    writer = FlowTextWriter.load(lake.root / "flow_texts", load_spec(used["dataset"]))
    table = side_texts(
        lake.root / "flow_texts" / "texts.parquet", lake.root / "evaluation_split" / "records.parquet", "test"
    )
    every = table["text"].tolist()
    flows = [every[place] for place in np.random.default_rng(1).permutation(len(every))[: chosen.flows]]
    student = Student.load(checkpoint.base, checkpoint.adapter, device="cpu", threads=chosen.threads)
    found = measure(student, flows, writer, used, chosen.batch, chosen.repeats)
    shape = {"flows": len(flows), "batch": chosen.batch, "threads": chosen.threads, "words": used["words"]}
    save("guided_decoding", {"student": str(checkpoint.labels), **shape, "ways": found})


def settings_of(lake: Lake) -> dict[str, Any]:
    """Return the settings that the lake's answers and flow texts were made with."""
    found: dict[str, Any] = {}
    for manifest in lake.root.glob("*/**/manifest.json"):
        found |= json.loads(manifest.read_text()).get("settings", {})
    told = {name.removeprefix("setting "): value for name, value in found.items()}
    return {
        "facts": told.get("facts", "plain"),
        "dataset": told["dataset"],
        "words": told["explanation_words"],
        "tasks": told["tasks"],
    }


def measure(
    student: Student, flows: list[str], writer: FlowTextWriter, used: dict[str, Any], batch: int, repeats: int
) -> dict[str, dict[str, Any]]:
    """Shares and cost by way of decoding: tokens, and milliseconds of processor time an answer and a token."""
    prompts, longest = [asked(text, "explain", used["tasks"]) for text in flows], room_for(used["words"])
    classes, signed = writer.spec.classes, writer.spec.standardised

    def write(way: str) -> list[tuple[str, bool]]:
        held = {"free": {}, "processor": {"grounded_in": flows}}
        return student.explain(
            prompts, longest, batch, **(held[way] if way in held else held_to(flows, True, writer.spec))
        )

    ways = ("free", "processor", "llguidance")
    answers = {way: write(way) for way in ways}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            started = time.process_time()
            write(way)
            times[way].append(time.process_time() - started)
    found: dict[str, dict[str, Any]] = {}
    for way, written in answers.items():
        labels = [said.split("\n")[0].removeprefix("CLASSIFICATION: ") for said, _ in written]
        means = score_explanations(flows, written, labels, classes, writer.ranks, signed, marked=True)["aggregate"]
        tokens = sum(len(student.tokenizer(said, add_special_tokens=False)["input_ids"]) + 1 for said, _ in written)
        taken = statistics.median(times[way])
        found[way] = {name: means[name] and round(means[name], 4) for name in SHARES} | {
            "tokens_an_answer": round(tokens / len(flows), 1),
            "ms_an_answer": round(1000 * taken / len(flows), 2),
            "tokens_a_second": round(tokens / taken),
            "cost_a_token_beside_free": None,
        }
    for way in ways:
        share = found["free"]["tokens_a_second"] / found[way]["tokens_a_second"]
        found[way]["cost_a_token_beside_free"] = round(share, 3)
    return found


if __name__ == "__main__":
    main()
