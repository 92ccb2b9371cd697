"""`iot-pipeline teacher retry`: withdraw verdicts on quarantined answers, so that the next run asks them again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import Settings
from iot_pipeline.teacher.archive import no_store
from iot_pipeline.teacher.redaction import shown_words
from iot_pipeline.teacher.request import EMBEDDED, Answer, is_embedded
from iot_pipeline.teacher.store.quarantine import kind_of, quarantined, sources, withdraw
from iot_pipeline.teacher.store.store import LOOKUP_BATCH, NO_ANSWER, Store, exists, is_verdict
from iot_pipeline.teacher_factory import REPLAY, source_of, store_of
from iot_pipeline.vocabulary import TRACKS

ANSWERED = [*TRACKS, "validation_answers"]  # assets whose provenance.parquet tells the keys of their requests
ROWS_AT_ONCE = 50_000
STALE = "verdicts on its quarantined answers were withdrawn (teacher retry)"


@dataclass
class Found:
    """Quarantined answers, counted by kind of reason: withdrawn, without a verdict to withdraw, and left alone."""

    withdrawn: Counter[str] = field(default_factory=Counter)
    asked_anyway: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)  # of all that are asked again


def retry(settings: Settings, reason: str | None, track: str | None, dry_run: bool) -> dict[str, Any]:
    """Withdraw the verdicts on quarantined answers of the present teacher; return their numbers by reason.

    A track that holds such rows is marked as stale, so that a run makes it again. Nothing else changes: good answers,
    other teachers' answers and the ledger stay.

    Args:
        settings: The present settings.
        reason: Kind of the reason (`mislabelled`), or its beginning; None for all.
        track: Track of the requests; None for all.
        dry_run: True to count only.
    """
    url, lake = store_of(settings), Lake(settings.lake_path, read_only=dry_run)
    if settings.teacher.server == REPLAY:
        raise UserError("IOT_TEACHER=replay never asks: set IOT_TEACHER to the teacher that shall be asked again.")
    if not exists(url):
        raise no_store(url)
    of_track = None if track is None else {key for one in _artefacts(lake, track) for key, _ in _held(lake, one)}
    found, wanted = Found(), (reason or "").strip().casefold()
    with Store(url, read_only=dry_run) as store:
        mine = [source for source in sources(store) if _is_of(source, settings)]
        for source in mine:
            chosen: list[Answer] = []
            for answer in quarantined(store, source):
                if of_track is None or answer.key in of_track:
                    _sort(answer, wanted, found, chosen)
                if len(chosen) >= LOOKUP_BATCH and not dry_run:
                    withdraw(store, chosen)
                    chosen = []
            if chosen and not dry_run:
                withdraw(store, chosen)
    if wanted and not found.withdrawn + found.asked_anyway:
        there = ", ".join(f"{kind} ({n:,})" for kind, n in found.left.most_common(10)) or "none"
        raise UserError(f"--reason {shown_words(reason or '')}: no answer is quarantined for it; there are: {there}.")
    stale = [str(one) for one in _mark(lake, found.keys, dry_run)] if found.keys else []
    return {
        "teacher": shown_words(", ".join(mine)) or "nobody", "withdrawn": dict(found.withdrawn.most_common()),
        "asked_again_anyway": dict(found.asked_anyway.most_common()), "left": dict(found.left.most_common()),
        "made_again_by_the_next_run": stale, "dry_run": dry_run,
    }  # fmt: skip


def _sort(answer: Answer, wanted: str, found: Found, chosen: list[Answer]) -> None:
    """Count an answer, and add it to `chosen` if its verdict is to be withdrawn."""
    kind, reason = shown_words(kind_of(answer)), "".join(answer.reasons[:1]).removeprefix(NO_ANSWER)
    if not reason.casefold().startswith(wanted):
        found.left[kind] += 1
        return
    found.keys.add(answer.key)
    if is_verdict(answer):
        found.withdrawn[kind] += 1
        chosen.append(answer)
    else:
        found.asked_anyway[kind] += 1


def _is_of(source: str, settings: Settings) -> bool:
    """Return True for a source of the present teacher: any edition of the embedded one, else its address."""
    return is_embedded(source) if settings.teacher.server == EMBEDDED else source == source_of(settings)


def _artefacts(lake: Lake, track: str) -> list[ArtefactId]:
    """List a track's artefacts; UserError if there is no such track or nothing of it has been made."""
    if track not in ANSWERED:
        raise UserError(f"--track {shown_words(track)}: it must be one of {', '.join(ANSWERED)}.")
    found = [one for one in lake.artefacts() if one.asset == track]
    if not found:
        raise UserError(f"--track {track}: nothing of it has been made in {lake.address}; leave --track out.")
    return found


def _held(lake: Lake, artefact: ArtefactId) -> Iterator[tuple[str, str]]:
    """Yield key and status of every row of an artefact that has a request."""
    path = lake.folder(artefact) / "provenance.parquet"
    if not path.is_file():
        return
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=["key", "status"]):
            pairs = zip(batch["key"].to_pylist(), batch["status"].to_pylist(), strict=True)
            yield from ((key, status) for key, status in pairs if key is not None)


def _mark(lake: Lake, keys: set[str], dry_run: bool) -> list[ArtefactId]:
    """Mark the artefacts with quarantined rows of these requests as stale; return them."""
    found = []
    for artefact in lake.artefacts():
        if artefact.asset in ANSWERED and any(s != "ok" and key in keys for key, s in _held(lake, artefact)):
            found.append(artefact)
            if not dry_run:
                lake.mark_stale(artefact, STALE)
    return found


def sentences(told: Mapping[str, Any]) -> list[str]:
    """Return the outcome in sentences."""
    total = sum(told["withdrawn"].values())
    verb = "to be withdrawn (dry run)" if told["dry_run"] else "withdrawn"
    lines = [f"Verdicts {verb}: {total:,}, of {told['teacher']}; what was paid stays in the ledger."]
    lines += [f"  {count:,} {kind}" for kind, count in told["withdrawn"].items()]
    if anyway := sum(told["asked_again_anyway"].values()):
        lines.append(f"Without a verdict, because no answer came: {anyway:,}, which are asked again as well.")
    if left := sum(told["left"].values()):
        lines.append(f"Left as they are: {left:,} of other reasons.")
    if stale := told["made_again_by_the_next_run"]:
        lines.append(f"The next `iot-pipeline run` makes again: {', '.join(stale)}.")
    return lines
