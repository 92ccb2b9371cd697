"""`iot-pipeline estimate`: requests, tokens, dollars and time that the teacher would take, before anything is sent."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from iot_pipeline.augmentation.estimating import CostEstimator, Part, as_facts, seconds_needed
from iot_pipeline.augmentation.prompts import PromptFile, load_prompt
from iot_pipeline.commands.show import wide_console
from iot_pipeline.defs.augmentation import assets
from iot_pipeline.defs.reads import present_value
from iot_pipeline.defs.recording import Step
from iot_pipeline.defs.versions import code_version
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import Settings
from iot_pipeline.teacher import pricing
from iot_pipeline.teacher.config import BatchLimits
from iot_pipeline.teacher.request import EMBEDDED, is_embedded
from iot_pipeline.teacher.store.store import Store, exists
from iot_pipeline.teacher_factory import is_paid, source_of, store_of
from iot_pipeline.vocabulary import STAGES, stages_up_to

DATA = "training_order"  # downstream of everything that the estimate reads
# Seconds per answer while none is timed: measured for the embedded teacher; for a model, at about 60 tokens/s.
EMBEDDED_SECONDS, MODEL_SECONDS = 0.1, 4.0
BATCH_HOURS = 24  # the Batch API promises an answer within this time


class Preview(Step):
    """Step without output: it reads what an asset's body reads, and records and writes nothing."""

    def __init__(self, lake: Lake, settings: Settings, artefact: ArtefactId) -> None:
        self.lake, self.settings, self.artefact = lake, settings, artefact
        self._seen, self._present, self._lineage = {}, present_value(lake, settings), {}

    def input(self, asset: str, partition: str = "") -> Path:
        """Return the folder of an artefact; UserError if a run would materialise it first."""
        artefact = ArtefactId(asset, partition)
        if broken := self.lake.broken_lineage(artefact, self._present, self._lineage):
            raise UserError(f"{broken}; `iot-pipeline run --until {DATA}` makes what the estimate reads, free of cost")
        return self.lake.folder(artefact)

    def log(self, text: str) -> None:
        """Ignore the text."""

    def note(self, **facts: Any) -> None:
        """Ignore the facts."""


def estimate(settings: Settings, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Estimate the teacher's requests: parts (one per asset partition), total, budget, time and basis.

    `say` is called with each asset that is being counted. Nothing is sent or written. Raises UserError if flows or
    splits are missing or stale, a prompt file cannot be read, or a paid model has no price.
    """
    if not settings.lake_path.exists():
        raise UserError(f"no lake at {settings.lake_path}; `iot-pipeline run --until {DATA}` makes one, free of cost")
    paid = is_paid(settings)
    with opened_store(settings) as store:
        source = source_of(settings)
        if source == EMBEDDED:
            source = f"{EMBEDDED}-{code_version('iot_pipeline.embedded_teacher.analyst')}"
        survey = CostEstimator(
            source,
            store,
            pricing.price_of if paid else lambda _: pricing.price_of(pricing.REFERENCE_MODEL),
            settings.teacher.explanation_words,
            BatchLimits(tokens=settings.run.teacher_enqueued_tokens),
        )
        walk(survey, Lake(settings.lake_path, read_only=True), settings, say)
        spent = store.spent_usd() if store is not None else 0.0
        seconds = store.answer_seconds(source) if store is not None else None
    total = sum(survey.parts, Part("total"))
    return {
        "teacher": source, "via": settings.run.teacher_via, "paid": paid,
        "parts": [as_facts(part) for part in survey.parts], "total": as_facts(total),
        "budget": budget(settings, total, spent) if paid else None, "time": time_of(settings, total, seconds),
        "basis": basis(survey, paid, seconds),
    }  # fmt: skip


@contextlib.contextmanager
def opened_store(settings: Settings) -> Iterator[Store | None]:
    """Open the store of answers for reading; None if there is none yet."""
    location = store_of(settings)
    if not exists(location):
        yield None
        return
    with Store(location, read_only=True) as store:
        yield store


def walk(survey: CostEstimator, lake: Lake, settings: Settings, say: Callable[[str], None]) -> None:
    """Have each asset ask the cost estimator instead of the teacher, in the order of a run."""
    prompts = {track: prompt_file(settings, track) for track in {"original", *settings.run.tracks}}

    def begin(artefact: ArtefactId, track: str) -> Preview:
        say(str(artefact))
        survey.begin(str(artefact), track)
        return Preview(lake, settings, artefact)

    assets.ask_validation(begin(ArtefactId("validation_answers"), "original"), prompts["original"], survey)
    for stage in stages_up_to(max(settings.run.stages, key=STAGES.index)):
        step = begin(ArtefactId("original", stage), "original")
        answers = assets.ask_original(step, prompts["original"], survey).answers
        for track, ask in (("paraphrased", assets.ask_paraphrased), ("feature_varied", assets.ask_feature_varied)):
            if track in settings.run.tracks:
                step = begin(ArtefactId(track, stage), track)
                ask(step, prompts[track], survey, answers)


def prompt_file(settings: Settings, track: str) -> PromptFile:
    """Load the prompt file in its present version, which a run would snapshot."""
    return load_prompt((settings.teacher.prompts / f"{track}.md").absolute(), model=settings.teacher.model)


def budget(settings: Settings, total: Part, spent: float) -> dict[str, Any]:
    """Return the budget in dollars: cap, spent, left, expected, worst case, and True if the rest is enough."""
    usd = total.usd_batch if settings.run.teacher_via == "batch" else total.usd_requests
    worst = total.worst_usd * (pricing.BATCH_FACTOR if settings.run.teacher_via == "batch" else 1)
    left = max(0.0, settings.run.teacher_budget_usd - spent)
    return {
        "cap_usd": settings.run.teacher_budget_usd, "spent_usd": round(spent, 5), "left_usd": round(left, 5),
        "expected_usd": round(usd, 5), "worst_usd": round(worst, 5), "enough": usd <= left,
    }  # fmt: skip


def time_of(settings: Settings, total: Part, seconds: float | None) -> dict[str, Any]:
    """Return the time: seconds by concurrent requests and the limit that applies; batches, and maximum hours of one."""
    needed = seconds_needed(
        total, seconds or assumed_seconds(settings), settings.run.teacher_concurrency, settings.run.teacher_rpm,
        settings.run.teacher_tpm,
    )  # fmt: skip
    limit = max(needed, key=lambda name: needed[name])
    return {
        "requests_seconds": round(needed[limit], 1), "limited_by": limit, "batches": total.batches,
        "hours_a_batch_at_most": BATCH_HOURS,
    }  # fmt: skip


def assumed_seconds(settings: Settings) -> float:
    """Return the assumed seconds per answer while none is timed."""
    return EMBEDDED_SECONDS if settings.teacher.server == EMBEDDED else MODEL_SECONDS


def basis(survey: CostEstimator, paid: bool, seconds: float | None) -> list[str]:
    """Describe the basis of the estimate in words."""
    lines = []
    answers = {prompt: learned.answers for prompt, learned in survey.learned.items() if learned.answers}
    if answers:
        told = ", ".join(f"{count:,} of {prompt}" for prompt, count in sorted(answers.items()))
        lines.append(f"tokens and attempts an answer as stored answers took them ({told})")
    else:
        rule = "as it counts them itself" if is_embedded(survey.source) else "by a rule (4 %), without a prompt cache"
        lines.append(f"no answer of this teacher is stored: tokens {rule}, one attempt a request")
    if survey.drafted:
        lines.append(f"length of answers as the embedded rules would write them ({', '.join(sorted(survey.drafted))})")
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
    console = wide_console()
    console.print(table)
    for line in [*told_budget(found), told_time(found), *found["basis"]]:
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


def told_time(found: dict[str, Any]) -> str:
    """Describe the time in words."""
    given = found["time"]
    return (
        f"by requests about {given['requests_seconds']:,.0f} s, limited by {given['limited_by']}; by Batch "
        f"{given['batches']:,} batches, each within {BATCH_HOURS} hours"
    )
