"""Verdicts by replicas on Ray: the flows of a file that are not known are answered before their events are written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.flows.batches import batches
from iot_pipeline.inference.ray_batch import BLOCK, run_blocks
from iot_pipeline.inference.ray_blocks import GROUP, Answer, Pool
from iot_pipeline.lake.atomic import read_json, remove, replacing, write_json
from iot_pipeline.serving.cache import VERDICT, VerdictCache, cache_key
from iot_pipeline.serving.cached import CachedClassifier, Explain
from iot_pipeline.serving.classifier import Classifier, Verdict
from iot_pipeline.setting_sections import RunSettings
from iot_pipeline.settings import Settings

Log = Callable[[str], None]
EXPLAINED_BLOCK = 64  # flows: explaining so many takes a minute or two
READ = 8192  # rows at once
ALL = 2**62  # verdicts that a store of one run keeps


def without_secrets(settings: Settings) -> Settings:
    """Return what classifying needs of the settings: addresses and passwords must not go to other machines."""
    changes: dict[str, Any] = {
        "run": RunSettings.model_validate({}),
        "data": settings.data.model_copy(update={"source": "simulate"}),
        "teacher": settings.teacher.model_copy(update={"server": "embedded"}),
    }
    return settings.model_copy(update=changes)


@dataclass(frozen=True)
class GiveVerdicts:
    """Work: classify flows, and explain those that `explain` asks for. Columns flow_group, verdict (JSON).

    `classifier`: what the replicas work by, with an opener in place of its student.
    """

    classifier: Classifier
    explain: Explain

    @property
    def columns(self) -> Sequence[str]:
        """Columns that it reads."""
        return (GROUP, *self.classifier.spec.feature_names)

    @property
    def key(self) -> Mapping[str, Any]:
        """Facts that decide the verdicts besides the flows."""
        return {"classifier": cache_key(self.classifier), "explain": self.explain}

    def open(self, threads: int | None) -> Answer:
        """Load the student."""
        cached = CachedClassifier(loaded(self.classifier, threads), None, self.explain)

        def answer(given: pa.Table) -> pa.Table:
            found, groups = cached.verdicts(given), given[GROUP]
            told = [VERDICT.dump_json(found[group]).decode() for group in groups.to_pylist()]
            return pa.table({GROUP: groups, "verdict": told})

        return answer


def loaded(classifier: Classifier, threads: int | None) -> Classifier:
    """Return a classifier with its student loaded in this process."""
    opening: Any = classifier.student
    return replace(classifier, student=opening.open(threads))


class Answered:
    """Verdicts that replicas gave, in place of a classifier.

    A flow that was known as the replicas began may have left the cache since, which keeps a fixed number: it is
    answered here, by a student that is loaded then.
    """

    def __init__(self, store: VerdictCache, classifier: Classifier, threads: int | None, log: Log) -> None:
        self._store, self._classifier, self._threads, self._log = store, classifier, threads, log
        self._here: Classifier | None = None

    def classify(self, flows: Any, log: Log | None = None) -> list[Verdict]:
        """Return the verdict on each row, without an explanation."""
        groups = flows[GROUP].to_pylist()
        found = {group: verdict.without_explanation() for group, verdict in self._store.get(groups).items()}
        lost = [row for row, group in enumerate(groups) if group not in found]
        if lost:
            told = self._loaded().classify(flows.take(lost), log)
            found |= {groups[row]: verdict for row, verdict in zip(lost, told, strict=True)}
        return [found[group] for group in groups]

    def explain(self, flows: Any, verdicts: Sequence[Verdict], log: Log | None = None) -> list[Verdict]:
        """Return the verdicts with their explanations."""
        groups = flows[GROUP].to_pylist()
        known = self._store.get(groups)
        found = {group: one for group, one in known.items() if one.explanation is not None}
        lost = [row for row, group in enumerate(groups) if group not in found]
        if lost:
            told = self._loaded().explain(flows.take(lost), [verdicts[row] for row in lost], log)
            found |= {groups[row]: verdict for row, verdict in zip(lost, told, strict=True)}
        return [found[group] for group in groups]

    def _loaded(self) -> Classifier:
        if self._here is None:
            self._log("flows have left the cache since the replicas began: a student is loaded here for them")
            self._here = loaded(self._classifier, self._threads)
        return self._here

    def close(self) -> None:
        """Close the store, and free the memory of a student that was loaded here."""
        self._store.close()
        if self._here is not None:
            self._here.student.close()


def answer_file(
    cached: CachedClassifier, classifier: Classifier, flows: Path, folder: Path, pool: Pool, log: Log
) -> Answered:
    """Answer the flows of a prepared file that the cache does not answer, and return their verdicts.

    Args:
        cached: Look-up of known flows, with what is to be explained.
        classifier: Classifier with an opener in place of its student.
        flows: Prepared file.
        folder: Folder that outlives a kill; finished blocks in it of the same flows and student are kept.
        pool: Replicas.
        log: Receives progress messages.

    Raises:
        UserError: Ray is missing or fails, or a flow cannot be answered.
    """
    work = GiveVerdicts(replace(classifier, settings=without_secrets(classifier.settings)), cached.explain)
    _begin(folder, {"flows": _groups_digest(flows), **work.key})
    source, known = folder / "flows.parquet", folder / "verdicts.sqlite"
    for left in folder.glob(f"{known.name}*"):
        left.unlink()  # it is made of the blocks
    store = VerdictCache(known, cache_key(classifier), ALL)
    answered = Answered(store, classifier, pool.threads, log)
    # Chosen once: the events that a killed run had written are in the cache by now.
    if source.exists() or _choose(cached, flows, source, work.columns):
        rows = BLOCK if cached.explain == "none" else EXPLAINED_BLOCK
        for table in run_blocks(source, folder / "answers", work, pool, log, rows).tables():
            told = zip(table[GROUP].to_pylist(), table["verdict"].to_pylist(), strict=True)
            store.put({group: VERDICT.validate_json(verdict) for group, verdict in told})
    return answered


def _begin(folder: Path, run: Mapping[str, Any]) -> None:
    """Make the folder; what replicas answered of other flows, or by another student, before a kill is removed."""
    path = folder / "run.json"
    if not path.exists() or read_json(path) != run:
        remove(folder)
        write_json(path, run)


def _groups_digest(flows: Path) -> str:
    digest = hashlib.sha256()
    for table in batches(flows, READ, columns=[GROUP]):
        digest.update("".join(table[GROUP].to_pylist()).encode())
    return digest.hexdigest()


def _choose(cached: CachedClassifier, flows: Path, out: Path, columns: Sequence[str]) -> int:
    """Write the flows that the student must be asked about, each flow group once; return their number."""
    seen: set[bytes] = set()
    number, writer = 0, None
    with replacing(out) as temporary, ExitStack() as written_file:
        for table in batches(flows, READ, columns=columns):
            groups = table[GROUP].to_pylist()
            new = {group: row for row, group in reversed(list(enumerate(groups))) if bytes.fromhex(group) not in seen}
            seen |= {bytes.fromhex(group) for group in new}
            rows = sorted(new[group] for group in cached.unanswered(list(new)))
            writer = writer or written_file.enter_context(pq.ParquetWriter(temporary, table.schema, compression="zstd"))
            writer.write_table(table.take(pa.array(rows, pa.int64())))
            number += len(rows)
    return number
