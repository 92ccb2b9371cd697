"""What would the full method take at 1.5B on 1, 8 and 64 GPUs, and what breaks first at 100 million flows? On paper.

    .venv/bin/python benchmarks/cluster_estimate.py            # writes the tables of docs/cluster.md
    .venv/bin/python benchmarks/cluster_estimate.py --check    # exit code 1 if they are not what the results say

A projection, no measurement: sizes come from committed results and the profile `paper`, speeds from data sheets by a
roofline with a stated utilisation, prices from the project's table and a stated price of a GPU-hour.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iot_pipeline.inference.projection import Base, Card, cards_and_bases, explanation_seconds, label_seconds
from iot_pipeline.settings import Settings, load_settings
from iot_pipeline.teacher.pricing import price_of
from iot_pipeline.teacher.request import Usage
from iot_pipeline.vocabulary import STAGE_ROWS, TRACKS

RESULTS = Path(__file__).parent / "results"
GUIDE = Path(__file__).parent.parent / "docs" / "cluster.md"
MODEL, CARD, BASE = "gpt-4o-mini", "H100", "Qwen2.5-1.5B"
# Assumptions: everything else is read from a result, a profile or a data sheet.
MFU = 0.35  # of the dense bf16 peak, for LoRA with packed rows of some 2,000 tokens; attention and head are within it
REACHED = 0.5  # of the roofline, by an engine that is well kept
USD_A_GPU_HOUR = 3.0
ANSWER_S, IN_FLIGHT = 20.0, 500  # seconds of an answer of 900 words; requests in flight
BYTES_A_TOKEN = 4.0  # of text
SEEDS, GPUS, FLOWS = 5, (1, 8, 64), 100_000_000
ADAPTER = 4_358_144  # parameters of LoRA of rank 16 on q, k, v and o of Qwen2.5-1.5B
HOST_GIB, WEEK_H = 64, 168


def main() -> None:
    """Write the tables into docs/cluster.md, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the guide is out of date")
    chosen = parser.parse_args()
    text = GUIDE.read_text()
    new = filled(text)
    if chosen.check:
        sys.exit(0 if new == text else f"{GUIDE} is not what the results say: run benchmarks/cluster_estimate.py")
    GUIDE.write_text(new)


def filled(text: str) -> str:
    """Return the guide with its tables written anew."""
    facts = Facts()
    for name, lines in (("inputs", facts.inputs()), ("full method", facts.full()), ("many flows", facts.many())):
        begin, end = f"<!-- {name}: benchmarks/cluster_estimate.py -->", f"<!-- end of {name} -->"
        block = "\n".join([begin, *lines, end])
        text, found = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, b=block: b, text, flags=re.DOTALL)
        if found != 1:
            raise SystemExit(f"{GUIDE} has no block {begin}")
    return text


def result(name: str) -> dict[str, Any]:
    """Read a committed result."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


class Facts:
    """Sizes of the full method, from results and the profile `paper`."""

    def __init__(self) -> None:
        self.paper: Settings = load_settings({"IOT_PROFILE": "paper"})
        cards, bases = cards_and_bases()
        self.card: Card = next(card for card in cards if card.name == CARD)
        self.base: Base = next(base for base in bases if base.name == BASE)
        lengths = result("training_tensors-farm_flow-demo")["answers_of_the_papers_length"]["cut_at_512"]
        self.row_tokens, self.prompt_tokens = lengths["row_tokens_mean"], lengths["prompt_tokens_mean"]
        self.answer_tokens = self.row_tokens - self.prompt_tokens
        tokens = result("serialisations-farm_flow")[self.paper.data.serialisation]["tokens_a_flow"]
        self.flow_tokens = tokens["real"]["rows"]
        planned = result("track_memory")["answers_at_once"]
        self.rows = max(map(int, planned))
        self.requests: dict[str, int] = {t: planned[str(self.rows)][t]["distinct_requests"] for t in TRACKS}
        self.sizes = result("quality_scale")["sizes"]
        self.speed = result("teacher_speed")["waiting"]
        self.classify = result("classify_scale")

    # -- training ------------------------------------------------------------------------------------------
    def stage_rows(self, rows: int) -> int:
        """Return the rows of all stages together, the last of which has `rows`."""
        return sum(min(known or rows, rows) for known in STAGE_ROWS.values())

    def tokens_a_row(self) -> float:
        """Return the tokens of an explained row and of the class rows that come with it."""
        student = self.paper.student
        return self.row_tokens + self.flow_tokens * student.class_rows / student.step_rows

    def chain_hours(self, rows: int) -> float:
        """Return the GPU-hours of one track and seed: all stages, each from the one before."""
        tokens = self.stage_rows(rows) * self.paper.student.epochs * self.tokens_a_row()
        # Forward, and backward through frozen weights: twice two products of each parameter and token.
        return 4 * self.base.computed * 1e9 * tokens / (self.card.bf16 * 1e12 * MFU) / 3600

    def evaluation_hours(self) -> float:
        """Return the GPU-hours of all students' labels and explanations; labels of all flows are more than asked."""
        flows, shown = self.sizes[0]["distinct_flows"], self.paper.evaluation.explained_flows
        labels = flows * label_seconds(self.card, self.base)
        told = 2 * shown * explanation_seconds(self.card, self.base, tokens=round(self.answer_tokens))
        return len(STAGE_ROWS) * len(TRACKS) * SEEDS * (labels + told) / REACHED / 3600

    def wall_hours(self, gpus: int) -> tuple[float, int]:
        """Return the hours of all trainings and evaluations on so many GPUs, and the GPUs of one training.

        A training has at most as many GPUs as its step has rows; chains of stages run beside each other.
        """
        chains = len(TRACKS) * SEEDS
        each = max(1, min(self.paper.student.step_rows, gpus // chains))
        rounds = math.ceil(chains / min(chains, gpus // each))
        return rounds * self.chain_hours(self.rows) / each + self.evaluation_hours() / min(gpus, chains), each

    # -- teacher -------------------------------------------------------------------------------------------
    def request_usd(self, track: str) -> float:
        """Return the dollars of one request, sent one by one."""
        instructions = len((self.paper.teacher.prompts / f"{track}.md").read_text()) / BYTES_A_TOKEN
        given = self.answer_tokens if track == "paraphrased" else self.flow_tokens
        return price_of(MODEL).cost(Usage(round(instructions + given), 0, round(self.answer_tokens)))

    def teacher_usd(self, requests: Mapping[str, float]) -> float:
        """Return the dollars of requests by track."""
        return sum(count * self.request_usd(track) for track, count in requests.items())

    def teacher_hours(self, requests: float) -> float:
        """Return the hours of requests one by one."""
        return requests * ANSWER_S / (IN_FLIGHT * self.speed["share_of_ideal"]) / 3600

    # -- bytes ---------------------------------------------------------------------------------------------
    def gigabytes(self) -> dict[str, float]:
        """Return the gigabytes of the lake and the databases, by what they hold."""
        tokens = self.stage_rows(self.rows) * self.row_tokens * len(TRACKS)
        students = len(STAGE_ROWS) * len(TRACKS) * SEEDS
        asked = sum(self.requests.values())
        return {
            "tensors (two int32 a token)": tokens * 8 / 1e9,
            "rows as text": tokens * BYTES_A_TOKEN / 1e9,
            "adapters (fp32)": students * ADAPTER * 4 / 1e9,
            "base in each node's cache (bf16)": self.base.parameters * 2,
            "teacher's store": asked * (self.row_tokens + self.answer_tokens) * BYTES_A_TOKEN / 1e9,
        }

    # -- tables --------------------------------------------------------------------------------------------
    def inputs(self) -> list[str]:
        """List what the projection takes, and where it comes from."""
        student, rows = self.paper.student, f"{self.rows:,}"
        return [
            "| what | value | from |",
            "|---|---|---|",
            f"| rows of stage ALL; distinct requests of it | {rows}; "
            + ", ".join(f"{track} {count:,}" for track, count in self.requests.items())
            + " | measured: `benchmarks/results/track_memory.json` |",
            f"| tokens of a row; of them the answer | {self.row_tokens:,.0f}; {self.answer_tokens:,.0f} | measured, "
            "Qwen2.5's tokenizer, answers of 900 words: `training_tensors-farm_flow-demo.json` |",
            f"| tokens of a class row | {self.flow_tokens:,.0f} | measured: `serialisations-farm_flow.json` |",
            f"| rows of all stages, epochs, step | {self.stage_rows(self.rows):,}, {student.epochs:g}, "
            f"{student.step_rows} explained and {student.class_rows} class rows | `iot_pipeline/profiles/paper.yaml` |",
            f"| students | {len(STAGE_ROWS)} stages x {len(TRACKS)} tracks x {SEEDS} seeds | choice |",
            f"| operations of a token | 4 x {self.base.computed:g} billion | frozen weights: forward, and backward "
            "through them; `iot_pipeline/inference/cards.yaml` |",
            f"| {CARD} | {self.card.bf16:,.0f} dense TFLOPS in bf16, {self.card.bandwidth:,.0f} GB/s | data sheet: the "
            "same file |",
            f"| **utilisation of it (MFU)** | **{MFU:.0%} in training, {REACHED:.0%} of the roofline in evaluation** | "
            "**assumed**: nothing here was measured on a GPU |",
            f"| **price of a GPU-hour** | **${USD_A_GPU_HOUR:.2f}** | **assumed** |",
            f"| price of a request to {MODEL} | "
            + ", ".join(f"{track} ${self.request_usd(track):.5f}" for track in TRACKS)
            + f" | `iot_pipeline/teacher/prices.yaml`; instructions at {BYTES_A_TOKEN:g} bytes a token |",
            f"| requests in flight; share of the ideal reached | {IN_FLIGHT}; {self.speed['share_of_ideal']:.3f} | "
            "measured: `teacher_speed.json` |",
            f"| **seconds of an answer** | **{ANSWER_S:g}** | **assumed** |",
        ]

    def full(self) -> list[str]:
        """List the table of the full method."""
        requests = sum(self.requests.values())
        usd, batch = self.teacher_usd(self.requests), 0.5
        gpu_hours = len(TRACKS) * SEEDS * self.chain_hours(self.rows) + self.evaluation_hours()
        size = self.gigabytes()
        lines = [
            "| projection | " + " | ".join(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS) + " |",
            "|---|" + "---|" * len(GPUS),
        ]
        walls = [self.wall_hours(gpus) for gpus in GPUS]
        busy = [gpus * wall for gpus, (wall, _) in zip(GPUS, walls, strict=True)]
        cells = {
            "hours of training and evaluation": [f"{wall:,.1f}" for wall, _ in walls],
            "GPUs of one training (IOT_PROCESSES)": [str(each) for _, each in walls],
            "trainings at once": [str(min(len(TRACKS) * SEEDS, g // e)) for g, (_, e) in zip(GPUS, walls, strict=True)],
            "GPU-hours held": [f"{hours:,.0f}" for hours in busy],
            "dollars of GPUs": [f"{hours * USD_A_GPU_HOUR:,.0f}" for hours in busy],
            "requests to the teacher": [f"{requests:,}"] * len(GPUS),
            "dollars of the teacher (Batch API)": [f"{usd:,.0f} ({usd * batch:,.0f})"] * len(GPUS),
            "hours of the teacher, before training": [f"{self.teacher_hours(requests):,.1f}"] * len(GPUS),
            "gigabytes of lake and store": [f"{sum(size.values()):,.0f}"] * len(GPUS),
        }
        lines += [f"| {name} | {' | '.join(values)} |" for name, values in cells.items()]
        return [
            *lines,
            "",
            f"Work in all: {gpu_hours:,.0f} GPU-hours, of which {self.evaluation_hours():,.1f} evaluate. Gigabytes: "
            + ", ".join(f"{name} {value:,.1f}" for name, value in size.items())
            + ".",
        ]

    def many(self) -> list[str]:
        """List the table of FLOWS flows, the step that breaks first at the top."""
        told = sorted(self.limits(), key=lambda row: row[0])
        distinct, last = _rounded(self.grown("distinct_flows", FLOWS)), self.sizes[-1]["rows"]
        return [
            f"| breaks at, rows | step, at {FLOWS:,} rows | limit | what replaces it |",
            "|---|---|---|---|",
            *(f"| {_rounded(limit)} | {step} | {why} | {instead} |" for limit, step, why, instead in told),
            "",
            f"Distinct flows grow to some {distinct} (`quality_scale.json`, measured up to {last:,} rows and carried "
            "on by its last exponent; `classify_scale.json`).",
        ]

    def _power(self, name: str) -> float:
        last, before = self.sizes[-1], self.sizes[-2]
        return math.log(last[name] / before[name]) / math.log(last["rows"] / before["rows"])

    def grown(self, name: str, rows: float) -> float:
        """Carry a measured size on to more rows, by the exponent of the last two."""
        last = self.sizes[-1]
        return float(last[name] * (rows / last["rows"]) ** self._power(name))

    def limits(self) -> list[tuple[float, str, str, str]]:
        """List steps with the rows at which each breaks: (rows, step at FLOWS rows, limit, what replaces it)."""
        return [self._teacher_limit(), self._training_limit(), self._memory_limit(), self._classify_limit()]

    def _teacher_limit(self) -> tuple[float, str, str, str]:
        share = {track: count / self.rows for track, count in self.requests.items()}
        share["original"] = self.grown("distinct_flows", FLOWS) / FLOWS
        asked, budget = {track: part * FLOWS for track, part in share.items()}, self.paper.run.teacher_budget_usd
        requests, days = sum(asked.values()), self.teacher_hours(sum(asked.values())) / 24
        return (
            budget / self.teacher_usd(share),
            f"teacher, stage ALL: {requests:,.0f} requests, ${self.teacher_usd(asked):,.0f}, {days:,.0f} days",
            f"the profile's budget of ${budget:,.0f}",
            "no stage ALL (`IOT_STAGES` up to 150K); or a teacher of your own: vLLM behind `IOT_TEACHER=http://...`",
        )

    def _training_limit(self) -> tuple[float, str, str, str]:
        chain, most = self.chain_hours(FLOWS), self.paper.student.step_rows
        return (
            FLOWS * WEEK_H * most / chain,
            f"training, stage ALL: {chain:,.0f} {CARD}-hours a track and seed",
            f"a week on {most} GPUs, as many as a step has rows",
            "stages up to 150K; all flows as class rows (`IOT_CLASS_ROWS`), larger steps (`IOT_TRAIN_STEP_ROWS`)",
        )

    def _memory_limit(self) -> tuple[float, str, str, str]:
        last = self.sizes[-1]
        seconds = sum(self.grown(name, FLOWS) for name in ("build_flows_seconds", "quality_and_splits_seconds"))
        return (
            last["rows"] * (HOST_GIB / last["peak_gib"]) ** (1 / self._power("peak_gib")),
            f"`flows`, quality and splits: {self.grown('peak_gib', FLOWS):,.0f} GiB of memory, {seconds / 60:,.0f} "
            "minutes on 2 cores",
            f"a host of {HOST_GIB} GiB",
            "a host of twice the memory for this one part; beyond it, flow groups by hash range (not written)",
        )

    def _classify_limit(self) -> tuple[float, str, str, str]:
        cold, warm, rows = self.classify["cold"], self.classify["warm"], self.classify["rows"]
        known, new = (FLOWS / one["flows_per_second"] / 3600 for one in (warm, cold))
        return (
            24 * 3600 * warm["flows_per_second"],
            f"`classify`: {known:,.1f} h where flows are known, {new:,.0f} h where {cold['distinct_flows'] / rows:.1%} "
            f"are new, on 2 cores; {self.classify['output_mb'] * FLOWS / rows / 1e3:,.0f} GB of events",
            "a day on 2 cores",
            "Ray Data over flow groups (`IOT_BATCH=ray`), as many replicas as days to save",
        )


def _rounded(value: float) -> str:
    """Write a number with two digits that count."""
    digits = 1 - math.floor(math.log10(value))
    return f"{round(value, digits):,.0f}"


if __name__ == "__main__":
    main()
