"""Optimisation benchmark of inference on this machine: variants, what they are worth together, and the profiles."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.inference.engines import kinds_of, measured_on, profiles
from iot_pipeline.inference.explanation_variants import PRIOR, Writing, openvino_writing, ways
from iot_pipeline.inference.label_variants import STEPS, Scoring
from iot_pipeline.inference.measuring import Row, not_run
from iot_pipeline.inference.projection import projection
from iot_pipeline.inference.student import Student

OLD_TOKENS = 512  # new tokens of the prior work's way
BATCH = 32
DEDICATED = "while this asset is made, the student has the machine for itself: the rows above and below are this one"


def benchmark_variants(
    base: str | Path,
    adapter: Path,
    prompts: Sequence[str],
    classes: Sequence[str],
    repeated: Sequence[str] | None = None,
    single: int = 40,
    explained: int = 3,
    answer_tokens: int = 160,
    old_tokens: int = OLD_TOKENS,
    batch: int = BATCH,
    seconds: float = 20.0,
    threads: int | None = None,
    log: Callable[[str], None] | None = None,
    card: str | None = None,
) -> dict[str, Any]:
    """Benchmark inference: every variant, the engines, and the profiles that the measurements allow.

    A variant has name, group, run, reason (why it was not run), device, flows, seconds_p50 and seconds_p95 (of single
    calls), flows_per_second, cpu_seconds_a_flow, memory_mib (peak), new_tokens_per_second, ended_share and
    label_agreement (with the reference's label scores: fp32 on a CPU, bf16 on a GPU, adapter merged).

    Args:
        base: Folder or hub id of the base.
        adapter: Folder of the adapter.
        prompts: Distinct flow texts; UserError if there are none.
        classes: Class names to score.
        repeated: Flow texts as rows come, equal ones included; None: the distinct ones.
        single: Prompts that are timed one by one.
        explained: Prompts that are explained one by one.
        answer_tokens: Token limit of our explanations.
        old_tokens: New tokens of the prior work's way.
        batch: Rows of a batch of explanations.
        seconds: Limit of one variant; a longer one is not run, or on fewer flows.
        threads: CPU threads.
        log: Called with progress messages.
        card: GPU to measure on (`cuda:1`); None: the CPU.

    Returns:
        variants, profiles, explanations (whether OpenVINO writes them), old_way (what label scoring is beside it),
        machine, on_card, reference, and projection: bounds for other cards, which are no measurements.
    """
    if not prompts:
        raise UserError("inference benchmark: no prompts to measure on")
    say, device = log or (lambda _message: None), card or "cpu"
    reference = kinds_of(device)[0]
    student = reference.open(base, adapter, device, threads)
    best = student.score_labels(prompts[:batch], classes).argmax(1)
    labels = [classes[place] for place in best]

    def other(dtype: str) -> Student:
        return Student.load(base, adapter, device, threads, dtype)

    writing = Writing(student, other, prompts[:batch], labels, device, explained, seconds, say, threads)
    dtype = str(student.describe()["dtype"])
    rows = writing.measure(ways(dtype, old_tokens, answer_tokens, batch, card is not None))
    rows.insert(1, not_run(f"explanation, {dtype}, batch 1, dedicated machine", PRIOR, DEDICATED))
    scoring = Scoring(student, prompts, repeated or prompts, classes, device, single, seconds / 4, say)
    options = scoring.options()
    engines, measured, least = scoring.engines(base, adapter, threads)
    student.close()
    return {
        "variants": [*rows, *options, *engines],
        "old_way": against_old_way(rows[0], [*options, *engines]),
        "profiles": profiles(least, measured),
        "explanations": openvino_writing(rows),
        "reference": reference.name,
        "on_card": card is not None,
        "projection": projection(),
        "machine": measured_on(),
    }


def against_old_way(old: Row, scored: Sequence[Row]) -> dict[str, Any]:
    """Compare label scoring of distinct flows with the prior work's way: times its throughput, by clock and processor.

    The best is chosen by seconds of the processor where they are measured; flows that were cached do not count.
    """
    ran = [row for row in scored if row["run"] and STEPS["read_once"] not in row["name"]]
    if not old["run"] or not ran:
        return {"measured": False, "reason": old["reason"] or "no label was scored"}
    spent = "cpu_seconds_a_flow"
    best = min(ran, key=lambda row: 1 / row["flows_per_second"] if old["device"] != "cpu" else float(row[spent]))
    return {
        "measured": True,
        "old_way": old["name"],
        "best": best["name"],
        "times": round(best["flows_per_second"] / old["flows_per_second"], 1),
        "times_cpu": round(old[spent] / best[spent], 1),
    }
