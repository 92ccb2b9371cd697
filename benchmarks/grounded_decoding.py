"""What do explanations gain where the decoder holds every number to its flow, and what does it cost?

    python benchmarks/grounded_decoding.py --lakes data_lake/farm_flow-demo data_lake/rt_iot2022-demo

Every trained student of the stage explains the same test flows freely and grounded, in turn, on this machine; both are
scored by the rules of the asset explanation_quality. A grounded number is true by construction: its share of true
values says what readers get, not what the student can do. That is told by `free_by_tokens`: of the values that it cites
freely in KEY_INDICATORS, how many are true, by how many tokens the true value has in its vocabulary.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from result import save

from iot_pipeline.augmentation.answers import facts_of, parse_answer, plain_number
from iot_pipeline.commands.checkpoint import find
from iot_pipeline.evaluation.explanations import score_explanations
from iot_pipeline.flows.dataset import side_texts
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.flows.texts import FlowTextWriter
from iot_pipeline.inference.student import Student, room_for
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import load_settings
from iot_pipeline.sft.tasks import asked
from iot_pipeline.vocabulary import Trained, staged

Answers = list[tuple[str, bool]]
SHARES = (
    "values_true",
    "numbers_grounded",
    "fully_grounded",
    "features_real",
    "directions_true",
    "label_matches",
    "schema_valid",
    "ended",
    "faultless",
    "words_mean",
)


def main() -> None:
    """Measure every student of every lake; write benchmarks/results/grounded_decoding.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lakes", type=Path, nargs="+", required=True, help="lakes with students and their metrics")
    parser.add_argument("--stage", default="10K")
    parser.add_argument("--flows", type=int, default=200, help="test flows to explain")
    parser.add_argument("--repeats", type=int, default=3, help="times that each way is timed, in turn")
    chosen = parser.parse_args()
    found = {}
    for path in chosen.lakes:
        seed = next((path / staged("lora_checkpoint", chosen.stage)).iterdir())
        tracks = sorted(folder.name for folder in seed.iterdir())
        found[path.name] = {
            track: measure(Lake(path.absolute()), chosen.stage, track, chosen.flows, chosen.repeats) for track in tracks
        }
    question = "explanations with numbers written freely, and held to their flow by the decoder"
    save("grounded_decoding", {"question": question, "stage": chosen.stage, "students": found})


def measure(lake: Lake, stage: str, track: str, count: int, repeats: int) -> dict[str, Any]:
    """Shares of true claims and milliseconds a flow of both ways of decoding, by the student of one track."""
    seed = load_settings().seeds[0]
    checkpoint = find(lake, stage, Trained(seed, track))
    manifest = lake.folder(ArtefactId(staged("explanation_quality", stage), Trained(seed, track).key)) / "manifest.json"
    used = {
        name.removeprefix("setting "): value for name, value in json.loads(manifest.read_text())["settings"].items()
    }
    writer = FlowTextWriter.load(lake.root / "flow_texts", load_spec(used["dataset"]))
    spec, ranks = writer.spec, writer.ranks
    table = side_texts(
        lake.root / "flow_texts" / "texts.parquet", lake.root / "evaluation_split" / "records.parquet", "test"
    )
    every = table["text"].tolist()
    flows = [every[i] for i in sorted(np.random.default_rng(used["seed"]).permutation(len(every))[:count])]
    prompts = [asked(text, "explain", used["tasks"]) for text in flows]
    student = Student.load(checkpoint.base, checkpoint.adapter)
    scores = student.score_labels([asked(text, "classify", used["tasks"]) for text in flows], spec.classes)
    labels = [spec.classes[best] for best in scores.argmax(axis=1)]
    answers, taken = both_ways(student, prompts, flows, room_for(used["explanation_words"]), repeats)
    signed = spec.standardised
    result: dict[str, Any] = {"flows": len(flows), "labels": checkpoint.labels}
    for way, written in answers.items():
        means = score_explanations(flows, written, labels, spec.classes, ranks, signed)["aggregate"]
        result[way] = {name: round(means[name], 4) for name in SHARES} | {"ms_a_flow": taken[way]}
    result["free_by_tokens"] = by_tokens(student, flows, answers["free"])
    return result


def both_ways(
    student: Student, prompts: list[str], flows: list[str], longest: int, repeats: int
) -> tuple[dict[str, Answers], dict[str, float]]:
    """Answers by way of decoding, and median milliseconds a flow; the first pass of each way is not timed."""
    ways = {"free": None, "grounded": flows}
    answers = {way: student.explain(prompts, longest, grounded_in=held) for way, held in ways.items()}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, held in ways.items():
            started = time.perf_counter()
            student.explain(prompts, longest, grounded_in=held)
            times[way].append(1000 * (time.perf_counter() - started) / len(flows))
    return answers, {way: round(float(np.median(taken)), 2) for way, taken in times.items()}


def by_tokens(student: Student, flows: list[str], answers: Answers) -> dict[str, dict[str, int]]:
    """Values cited as key indicators and how many of them are true, by the tokens of the true value."""
    cited: Counter[int] = Counter()
    true: Counter[int] = Counter()
    for flow, (answer, _) in zip(flows, answers, strict=True):
        values = facts_of(flow).values
        for item in parse_answer(answer).indicators:
            if item.feature in values:
                value = values[item.feature]
                length = len(student.tokenizer(f" {value}", add_special_tokens=False)["input_ids"])
                cited[length] += 1
                true[length] += plain_number(item.value) == value
    return {str(length): {"cited": cited[length], "true": true[length]} for length in sorted(cited)}


if __name__ == "__main__":
    main()
