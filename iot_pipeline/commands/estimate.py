"""`iot-pipeline estimate`: requests, tokens, dollars and time that the teacher would take, before anything is sent."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table
from rich.text import Text

from iot_pipeline.augmentation.ask import ask
from iot_pipeline.augmentation.estimate import CostEstimator, Part, as_facts, seconds_needed
from iot_pipeline.augmentation.join import write_answers
from iot_pipeline.augmentation.prompts import load_prompt
from iot_pipeline.augmentation.zero_shot import accept
from iot_pipeline.commands.data_set import spec_of
from iot_pipeline.commands.show import wide_console
from iot_pipeline.defs.reads import present_value
from iot_pipeline.defs.tracks import increment, track_plan, validation_rows, zero_shot_requests
from iot_pipeline.errors import UserError
from iot_pipeline.flows.dataset import Rows
from iot_pipeline.lake.code_version import code_version
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import Settings
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.config import BatchLimits
from iot_pipeline.teacher.request import EMBEDDED, is_embedded
from iot_pipeline.teacher.store.store import Store, exists
from iot_pipeline.teacher_factory import is_paid, source_of, store_of
from iot_pipeline.vocabulary import STAGES, TRACKS, ZERO_SHOT, stages_up_to

ZERO_SHOT_ASSET = "zero_shot_teacher"
DATA = "flow_texts"  # downstream of everything that the estimate reads
# Seconds per answer while none is timed: measured for the embedded teacher; for a model, at about 60 tokens/s.
EMBEDDED_SECONDS, MODEL_SECONDS = 0.1, 4.0
BATCH_HOURS = 24  # the Batch API promises an answer within this time


class LakeReader:
    """Reader of a lake as it is: what an asset's body would read, without recording anything."""

    def __init__(self, lake: Lake, settings: Settings) -> None:
        self.lake, self.settings = lake, settings
        self.spec = spec_of(lake, settings)
        self._present, self._lineage = present_value(lake, settings), dict[ArtefactId, str]()

    def input(self, asset: str, partition: str = "") -> Path:
        """Return the folder of an artefact; UserError if a run would materialise it first."""
        artefact = ArtefactId(asset, partition)
        if broken := self.lake.broken_lineage(artefact, self._present, self._lineage):
            raise UserError(f"{broken}; `iot-pipeline run --until {DATA}` makes what the estimate reads, free of cost")
        return self.lake.folder(artefact)


def estimate(settings: Settings, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Estimate the teacher's requests: parts (one per asset partition), total, budget, time and basis.

    `say` is called with each asset that is being counted. Nothing is sent or written. Raises UserError if flows or
    splits are missing or stale, a prompt file cannot be read, or a paid model has no price.
    """
    Lake(settings.lake_path, read_only=True).check_exists(f"`iot-pipeline run --until {DATA}` makes one, free of cost")
    paid = is_paid(settings)
    location = store_of(settings)
    with Store(location, read_only=True) if exists(location) else contextlib.nullcontext() as store:
        source = source_of(settings)
        if source == EMBEDDED:
            source = f"{EMBEDDED}-{code_version('iot_pipeline.embedded_teacher.analyst')}"
        estimator = CostEstimator(
            source,
            store,
            pricing.price_of if paid else lambda _: pricing.price_of(pricing.REFERENCE_MODEL),
            settings.teacher.explanation_words,
            BatchLimits(tokens=settings.run.teacher_enqueued_tokens),
        )
        walk(estimator, LakeReader(Lake(settings.lake_path, read_only=True), settings), say)
        spent = store.spent_usd() if store is not None else 0.0
        seconds = store.answer_seconds(source) if store is not None else None
    total = sum(estimator.parts, Part("total"))
    return {
        "teacher": source, "via": settings.run.teacher_via, "paid": paid,
        "parts": [as_facts(part) for part in estimator.parts], "total": as_facts(total),
        "budget": budget(settings, total, spent) if paid else None, "time": time_of(settings, total, seconds),
        "basis": basis(estimator, paid, seconds),
    }  # fmt: skip


def walk(estimator: CostEstimator, lake: LakeReader, say: Callable[[str], None]) -> None:
    """Have each asset ask the cost estimator instead of the teacher, in the order of a run."""
    tracks = lake.settings.run.tracks
    folder, model = lake.settings.teacher.prompts, lake.settings.teacher.model
    # The prompt files in their present version, of which a run would make snapshots.
    needed: list[str] = ["original", *tracks]
    prompts = {track: load_prompt((folder / f"{track}.md").absolute(), model=model) for track in needed}

    def count(artefact: ArtefactId, track: str, rows: Rows) -> None:
        say(str(artefact))
        estimator.begin(str(artefact), track)
        originals = out if artefact.asset not in ("validation_answers", "original") else None
        ask(track_plan(lake, track, rows, prompts[track], out, originals), estimator, out)

    with TemporaryDirectory() as temporary:
        out = Path(temporary)
        count(ArtefactId("validation_answers"), "original", validation_rows(lake))
        for stage in stages_up_to(max(lake.settings.run.stages, key=STAGES.index)):
            rows, _ = increment(lake, stage)
            count(ArtefactId("original", stage), "original", rows)
            write_answers(out)
            for track in (track for track in TRACKS if track in tracks and track != "original"):
                count(ArtefactId(track, stage), track, rows)
    if lake.settings.evaluation.zero_shot_flows:
        say(ZERO_SHOT_ASSET)
        estimator.begin(ZERO_SHOT_ASSET, ZERO_SHOT)
        prompt = load_prompt((folder / f"{ZERO_SHOT}.md").absolute(), model=model)
        estimator.stream(zero_shot_requests(lake, prompt).values(), accept, lambda _: None)


def budget(settings: Settings, total: Part, spent: float) -> dict[str, Any]:
    """Return the budget in dollars: cap, spent, left, expected, worst case, and True if the rest is enough."""
    batch = settings.run.teacher_via == "batch"
    usd = total.usd_batch if batch else total.usd_requests
    worst = total.worst_usd * (pricing.BATCH_FACTOR if batch else 1)
    left = max(0.0, settings.run.teacher_budget_usd - spent)
    return {
        "cap_usd": settings.run.teacher_budget_usd, "spent_usd": round(spent, 5), "left_usd": round(left, 5),
        "expected_usd": round(usd, 5), "worst_usd": round(worst, 5), "enough": usd <= left,
    }  # fmt: skip


def time_of(settings: Settings, total: Part, seconds: float | None) -> dict[str, Any]:
    """Return the time: seconds by concurrent requests and the limit that applies; batches, and maximum hours of one."""
    assumed = EMBEDDED_SECONDS if settings.teacher.server == EMBEDDED else MODEL_SECONDS  # while none is timed
    needed = seconds_needed(
        total, seconds or assumed, settings.run.teacher_concurrency, settings.run.teacher_rpm,
        settings.run.teacher_tpm,
    )  # fmt: skip
    limit = max(needed, key=lambda name: needed[name])
    return {
        "requests_seconds": round(needed[limit], 1), "limited_by": limit, "batches": total.batches,
        "hours_a_batch_at_most": BATCH_HOURS,
    }  # fmt: skip


def basis(estimator: CostEstimator, paid: bool, seconds: float | None) -> list[str]:
    """Describe the basis of the estimate in words."""
    lines = []
    answers = {prompt: learned.answers for prompt, learned in estimator.learned.items() if prompt and learned.answers}
    if answers:
        told = ", ".join(f"{count:,} of {prompt}" for prompt, count in sorted(answers.items()))
        lines.append(f"tokens and attempts an answer as stored answers took them ({told})")
    else:
        own = is_embedded(estimator.source)
        rule = "as it counts them itself" if own else "by a rule (4 %), without a prompt cache"
        lines.append(f"no answer of this teacher is stored: tokens {rule}, one attempt a request")
    if estimator.drafted:
        drafted = ", ".join(sorted(estimator.drafted))
        lines.append(f"length of answers as the embedded rules would write them ({drafted})")
    if not paid:
        lines.append(f"nothing is billed by this teacher: dollars are what {pricing.REFERENCE_MODEL} would cost")
    if seconds is None:
        lines.append("seconds an answer assumed, none was timed yet")
    return lines


# -- printing ------------------------------------------------------------------------------------------------


def show(found: dict[str, Any], as_json: bool) -> None:
    """Print the estimate."""
    if as_json:
        print(json.dumps(found, indent=1, allow_nan=False))
        return
    columns = {
        "requests": "requests", "cached": "cached", "waiting": "in batches", "to_ask": "to ask",
        "prompt_tokens": "tokens in", "completion_tokens": "tokens out", "usd_requests": "$ by requests",
        "usd_batch": "$ by Batch",
    }  # fmt: skip
    table = Table("asset", title=Text(f"What the teacher {found['teacher']} would be asked"))
    for name in columns.values():
        table.add_column(name, justify="right", no_wrap=True)
    for part in [*found["parts"], found["total"]]:
        if part is found["total"]:
            table.add_section()
        cells = (f"{part[name]:,.4f}" if "usd" in name else f"{part[name]:,}" for name in columns)
        table.add_row(Text(part["name"]), *cells)
    console, given = wide_console(), found["time"]
    console.print(table)
    time = (
        f"by requests about {given['requests_seconds']:,.0f} s, limited by {given['limited_by']}; by Batch "
        f"{given['batches']:,} batches, each within {BATCH_HOURS} hours"
    )
    for line in [*told_budget(found), time, *found["basis"]]:
        console.print(Text(line), soft_wrap=True)


def told_budget(found: dict[str, Any]) -> list[str]:
    """Describe budget and worst case in words."""
    given = found["budget"]
    if given is None:
        return []
    verdict = "enough" if given["enough"] else "NOT enough: it will stop there; raise IOT_TEACHER_BUDGET_USD"
    return [
        f"budget ${given['cap_usd']:,.2f}, ${given['spent_usd']:,.4f} spent; expected ${given['expected_usd']:,.4f} by "
        f"{found['via']}: {verdict}",
        f"worst case, every answer as long as its prompt file allows: ${given['worst_usd']:,.4f}",
    ]
