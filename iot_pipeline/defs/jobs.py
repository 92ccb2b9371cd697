"""Jobs: each makes what is stale of its part, in order, by the manifests.

An asset job cannot do that: it would make fresh artefacts again, and Dagster refuses one whose assets have different
partitions. So a job is one op that executes a plan, as `iot-pipeline run` does. Its artefacts are runs of their own,
tagged with the id of the job's run. One such run works on a lake at a time.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
from pydantic import Field

from iot_pipeline.defs import plan
from iot_pipeline.defs.execute import Limits, Outcome, execute
from iot_pipeline.defs.home import RUN_LOCK, dagster_home, is_shared
from iot_pipeline.defs.lake_state import report_state
from iot_pipeline.defs.recording import progress
from iot_pipeline.defs.run_monitoring import MANIFEST_TAG
from iot_pipeline.env_file import ONLY_WANTED
from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import held
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import Settings, settings
from iot_pipeline.vocabulary import TRACKS, ZERO_SHOT

LOOKED_EVERY_S, SAID_EVERY_S = 2.0, 60.0
SPENDS = (
    "Makes what is stale or missing by the manifests, nothing twice. Answers of the teacher are kept: a repeated or "
    "retried run asks only what is not answered yet, and never passes IOT_TEACHER_BUDGET_USD (here: ${budget:g})."
)
DESCRIPTIONS = {
    "data": "Flows, quality reports, splits and baselines. Asks no teacher and trains no student.",
    "augment": "Prompts, the teacher's explanations in all tracks, training tensors. May cost money.",
    "train_track": "Base model and checkpoints. `tracks` in the launchpad names the tracks; takes minutes to hours.",
    "evaluate": "Metrics and explanations of trained students.",
    "report": "Study, comparison, cost, claims, the paper report and model cards.",
    "everything": "All parts in order. `iot-pipeline run`, the schedule and the prompt sensor show as runs of it or of "
    "`augment`.",
}


class Making(dg.Config):
    """Choice of what a job makes. The launchpad shows it filled in; an empty list takes what the settings say."""

    parts: list[str] = Field(default=list(plan.PARTS), description=f"parts to make: {', '.join(plan.PARTS)}")
    stages: list[str] = Field(default=[], description="stages in place of IOT_STAGES")
    tracks: list[str] = Field(default=[], description="tracks in place of IOT_TRACKS")
    prompts: list[str] = Field(default=[], description="only these prompts and what was made from them")
    missing: bool = Field(default=True, description="also make what was never made; false: only what has become stale")
    force: bool = Field(default=False, description="make everything of this choice again, fresh or not")
    budget_usd: float | None = Field(
        default=None, description="dollars that the ledger must not pass, at most IOT_TEACHER_BUDGET_USD; empty: that"
    )


def make(context: dg.OpExecutionContext, definitions: dg.Definitions, config: Making) -> Outcome:
    """Make what a job was asked for, and tell what was made, held back and failed.

    Raises dg.Failure without retry if an artefact failed or the choice is wrong.
    """
    try:
        if unknown := {*config.parts} - {*plan.PARTS}:
            raise UserError(f"parts: {', '.join(sorted(unknown))}: there are {', '.join(plan.PARTS)}")
        if unknown := {*config.prompts} - {*TRACKS, ZERO_SHOT}:
            raise UserError(f"prompts: {', '.join(sorted(unknown))}: there are {', '.join((*TRACKS, ZERO_SHOT))}")
        for name in ("stages", "tracks") if os.environ.get(ONLY_WANTED) else ():
            if unasked := {*getattr(config, name)}.difference(getattr(settings().run, name)):
                raise UserError(
                    f"{name}: {', '.join(sorted(unasked))}: add it to IOT_{name.upper()} and open `ui` again"
                )
        chosen = settings().with_run(
            stages=config.stages or None, tracks=config.tracks or None, teacher_budget_usd=config.budget_usd
        )
        budget = None if config.budget_usd is None else min(config.budget_usd, settings().run.teacher_budget_usd)
        with _locked(context, dagster_home(chosen)), _told(context):
            planned = plan.wanted(definitions, chosen)
            limits = Limits(permitted(Lake(chosen.lake_path), planned, config), budget)
            outcome = execute(definitions, chosen, planned, config.force, limits=limits, parent=context.run_id)
    except (UserError, ValueError) as error:
        raise dg.Failure(" ".join(str(error).split()), allow_retries=False) from None
    report_state(context.instance, definitions, chosen)
    context.add_output_metadata(told(outcome))
    for artefact, why in outcome.held:
        context.log.info(f"held back: {artefact}: {why}")
    if outcome.failed:
        sentences = "; ".join(f"{artefact}: {why}" for artefact, why in outcome.failed)
        raise dg.Failure(sentences, metadata=told(outcome), allow_retries=False)
    return outcome


def permitted(lake: Lake, planned: list[plan.Planned], config: Making) -> frozenset[ArtefactId]:
    """Return the artefacts of a plan that a choice lets be made."""
    chosen = {p.artefact for p in planned if p.part in config.parts}
    if not config.missing:
        chosen = {artefact for artefact in chosen if lake.manifest(artefact) is not None}
    if config.prompts:
        chosen &= plan.following(lake, planned, {ArtefactId("prompt", track) for track in config.prompts})
    return frozenset(chosen)


def told(outcome: Outcome) -> dict[str, int | dg.MetadataValue]:
    """Return counts of an outcome and its artefacts by state, for the page of the run."""
    rows = [
        *(dg.TableRecord({"artefact": str(a), "state": "made", "why": ""}) for a in outcome.made),
        *(dg.TableRecord({"artefact": str(a), "state": "failed", "why": why}) for a, why in outcome.failed),
        *(dg.TableRecord({"artefact": str(a), "state": "held back", "why": why}) for a, why in outcome.held),
    ]
    counts = {name: len(getattr(outcome, name)) for name in ("made", "fresh", "held", "failed")}
    return counts | ({"artefacts": dg.MetadataValue.table(rows)} if rows else {})


@contextlib.contextmanager
def _locked(context: dg.OpExecutionContext, home: Path) -> Iterator[None]:
    """Hold the run lock of the lake; wait for a command that holds it, and say so every minute.

    Where PostgreSQL keeps the workers apart there is no such lock.
    """
    if is_shared(home):
        yield
        return
    said = -SAID_EVERY_S
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(held(home / RUN_LOCK, "an `iot-pipeline run` is at work; this run waits for it"))
                break
            except UserError as error:
                if not (home / RUN_LOCK).is_file():
                    raise
                if time.monotonic() - said >= SAID_EVERY_S:
                    said = time.monotonic()
                    context.log.info(str(error))
                time.sleep(LOOKED_EVERY_S)
        yield


class _Told(logging.Handler):
    """Handler that writes the events of artefacts into the log of the job's run."""

    def __init__(self, context: dg.OpExecutionContext) -> None:
        super().__init__()
        self.context = context

    def emit(self, record: logging.LogRecord) -> None:
        """Log an event; the progress of an artefact stands in the log of its own run."""
        event, artefact = getattr(record, "event", ""), getattr(record, "artefact", "")
        if event not in ("progress", "fresh"):
            self.context.log.info(" ".join(f"{artefact}: {event} {record.getMessage()}".split()))


@contextlib.contextmanager
def _told(context: dg.OpExecutionContext) -> Iterator[None]:
    handler = _Told(context)
    progress.addHandler(handler)
    try:
        yield
    finally:
        progress.removeHandler(handler)


def job(name: str, chosen: Settings) -> dg.JobDefinition:
    """Define the job of a part, or of all; its launchpad is filled in with the part."""

    @dg.op(name=f"make_{name}", description=DESCRIPTIONS[name])
    def body(context: dg.OpExecutionContext, config: Making) -> None:
        from iot_pipeline.defs.catalogue import load  # not at import: it loads this module

        make(context, load(), config)

    parts = list(plan.PARTS) if name == "everything" else [name]

    @dg.job(
        name=name,
        description=f"{DESCRIPTIONS[name]}\n\n{SPENDS.format(budget=chosen.run.teacher_budget_usd)}",
        config=config_of(name, Making(parts=parts)),
        tags={MANIFEST_TAG: "job"},
    )
    def made() -> None:
        body()

    return made


def config_of(name: str, making: Making) -> dict[str, object]:
    """Return the run configuration of a job."""
    return {"ops": {f"make_{name}": {"config": making.model_dump()}}}


@dg.definitions
def jobs() -> dg.Definitions:
    """Return the jobs of all parts, and `everything`."""
    return dg.Definitions(jobs=[job(name, settings()) for name in DESCRIPTIONS])
