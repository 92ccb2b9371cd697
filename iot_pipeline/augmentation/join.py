"""Join of a track: requests and replies by key give its chat rows, their provenance, and the counts for the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iot_pipeline.augmentation.diversity import SAMPLE, diversity
from iot_pipeline.augmentation.plan import REQUESTS, ROWS_AT_ONCE, TrackPlan
from iot_pipeline.augmentation.wording import word_mask
from iot_pipeline.errors import UserError
from iot_pipeline.flows.ordered_join import numbered, ordered_join
from iot_pipeline.flows.sql import connect, scan
from iot_pipeline.lake.atomic import replacing
from iot_pipeline.teacher.request import EMBEDDED_MODEL, is_embedded

PROVENANCE = pa.schema(
    [
        ("position", pa.int64()), ("row_id", pa.int64()), ("flow_group", pa.string()), ("label", pa.string()),
        ("repeat", pa.int32()), ("kind", pa.string()), ("status", pa.string()), ("reasons", pa.list_(pa.string())),
        ("answer", pa.string()), ("key", pa.string()), ("seed", pa.int64()), ("variation", pa.string()),
        ("factor", pa.float64()), ("varied_group", pa.string()), ("model", pa.string()), ("source", pa.string()),
        ("attempts", pa.int32()), ("from_cache", pa.bool_()),
    ]
)  # fmt: skip
CHAT_ROW = '{"messages": [{"role": "user", "content": %s}, {"role": "assistant", "content": %s}]}\n'
REPLIED = ["answer", "reasons", "model", "source", "attempts", "from_cache"]
ANSWERS = pa.schema([("flow_group", pa.string()), ("label", pa.string()), ("answer", pa.string())])


@dataclass(frozen=True)
class TrackResult:
    """Result of one track's increment, whose rows and answers are files.

    report: equal in every equal run. usage: also what the answers cost, whichever run asked for them. headline: facts
    for the asset's page, including what this run sent. examples: (kind, rows, one of its reasons) of what is
    quarantined, the most frequent kind first.
    """

    report: dict[str, Any]
    usage: dict[str, Any]
    headline: dict[str, Any]
    examples: tuple[tuple[str, int, str], ...] = ()


def join(plan: TrackPlan, folder: Path, source: str) -> TrackResult:
    """Write track.jsonl and provenance.parquet from requests.parquet and replies.parquet, and count.

    The original track gets answers.parquet too, if there is an answer; replies.parquet goes.

    Args:
        plan: Plan that was asked.
        folder: Folder of the files.
        source: Source of the teacher.

    Raises:
        RuntimeError: Rows were not drawn, or requests got no answer.
    """
    requests, replies, provenance = (folder / f"{name}.parquet" for name in ("requests", "replies", "provenance"))
    query = f"""
        SELECT requests.place AS requests, replies.place AS replies, texts.place AS texts
        FROM {numbered(requests, "position, key, flow_group")} requests
        LEFT JOIN {numbered(replies, "key")} replies USING (key)
        JOIN {numbered(plan.texts, "flow_group")} texts USING (flow_group) ORDER BY position"""
    expected, drawn = plan.counts[0], pq.read_metadata(requests).num_rows if requests.is_file() else 0
    if drawn != expected:
        raise RuntimeError(f"{drawn:,} of {expected:,} rows were drawn")
    encode = json.JSONEncoder(ensure_ascii=False).encode
    wording, unanswered = Wording(plan.config.spec.feature_names), set[str]()
    with (
        replacing(folder / "track.jsonl") as jsonl,
        jsonl.open("w", encoding="utf-8") as lines,
        replacing(provenance) as temporary,
        pq.ParquetWriter(temporary, PROVENANCE, compression="zstd") as writer,
    ):
        for _, rows, found, texts in ordered_join(
            query, requests=(requests, REQUESTS.names), replies=(replies, REPLIED), texts=(plan.texts, ["text"])
        ):
            answers = pc.coalesce(found["answer"], rows["given"])
            asked = [column.to_pylist() for column in (rows["key"], found["reasons"], rows["reason"])]
            unanswered |= {key for key, said, _ in zip(*asked, strict=True) if key is not None and said is None}
            added = {
                "answer": answers,
                "status": pc.if_else(pc.is_null(answers), "quarantined", "ok"),
                "reasons": [
                    said if key is not None else [reason] if reason else []
                    for key, said, reason in zip(*asked, strict=True)
                ],
            }
            columns = {name: part[name] for part in (found, rows) for name in part.column_names} | added
            writer.write_table(pa.table({name: columns[name] for name in PROVENANCE.names}, schema=PROVENANCE))
            flows = pc.coalesce(rows["text"], texts["text"])
            for flow, answer in zip(flows.to_pylist(), answers.to_pylist(), strict=True):
                if answer is not None:
                    lines.write(CHAT_ROW % (encode(flow), encode(answer)))
                    wording.add(answer)
        if unanswered:
            raise RuntimeError(f"{len(unanswered):,} requests got no answer")
    result = count(plan, folder, source, wording)
    if plan.answers is None and result.report["rows"]:
        write_answers(folder)
    replies.unlink()
    return result


class Wording:
    """Counts of distinct answers and wordings, the words of all analyses, and a sample of distinct analyses.

    Memory: 32 bytes a row, and the sample: the distinct answers with the smallest digests, whatever their order.
    """

    def __init__(self, features: Sequence[str]) -> None:
        self.answers, self.wordings, self.words = bytearray(), bytearray(), 0
        self._features = tuple(features)
        self._mask = word_mask(self._features)
        self._sample: dict[bytes, str] = {}

    def add(self, answer: str) -> None:
        """Add the answer of one row."""
        _, _, rest = f"\n{answer}".partition("\nANALYSIS: ")
        analysis = rest.partition("\n")[0]
        words = analysis.split()
        found = digest(answer)
        self.answers += found
        self.wordings += digest("".join(map(self._mask, words)))
        self.words += len(words)
        self._sample[found] = analysis
        if len(self._sample) >= 2 * SAMPLE:
            self._sample = self._smallest()

    def diversity(self) -> dict[str, Any]:
        """Measure the diversity of the sampled analyses."""
        return diversity(list(self._smallest().values()), self._features)

    def _smallest(self) -> dict[bytes, str]:
        return {found: self._sample[found] for found in sorted(self._sample)[:SAMPLE]}


def digest(text: str) -> bytes:
    """Return a 16-byte digest of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def distinct(digests: bytearray) -> int:
    """Count the distinct digests in their concatenation."""
    return len(np.unique(np.frombuffer(digests, dtype="S16")))


def write_answers(folder: Path) -> None:
    """Write answers.parquet: the good answers by flow group and label, from requests.parquet and replies.parquet."""
    requests, replies = folder / "requests.parquet", folder / "replies.parquet"
    query = f"""
        SELECT DISTINCT flow_group, label, place AS answers FROM {scan(requests)}
        JOIN {numbered(replies, "key", "answer IS NOT NULL")} USING (key) ORDER BY flow_group, label"""
    with (
        replacing(folder / "answers.parquet") as temporary,
        pq.ParquetWriter(temporary, ANSWERS, compression="zstd") as writer,
    ):
        for rows, answers in ordered_join(query, requests, answers=(replies, ["answer"])):
            table = pa.table([rows["flow_group"], rows["label"], answers["answer"]], schema=ANSWERS)
            writer.write_table(table, row_group_size=ROWS_AT_ONCE)


def count(plan: TrackPlan, folder: Path, source: str, wording: Wording) -> TrackResult:
    """Count rows, reasons, distinct answers and wordings of a joined track, and what its answers cost.

    Args:
        plan: Plan of the track.
        folder: Folder of replies.parquet and provenance.parquet.
        source: Source of the answers.
        wording: Wordings that were written.
    """
    replies, provenance = folder / "replies.parquet", folder / "provenance.parquet"
    with connect(replies, provenance) as connection:

        def ask(query: str) -> list[tuple[Any, ...]]:
            return connection.execute(query).fetchall()

        connection.execute(f"CREATE TEMP VIEW rows AS SELECT * FROM {scan(provenance)}")
        connection.execute(f"CREATE TEMP VIEW replies AS SELECT * FROM {scan(replies)}")
        [(good, bad, requests, wanted)] = ask(
            "SELECT count(answer), count(*) - count(answer), count(DISTINCT key), "
            "count(DISTINCT coalesce(key, flow_group || label)) FILTER (answer IS NOT NULL) FROM rows"
        )
        by_class = ask(
            "SELECT label, count(answer), count(*) - count(answer), count(DISTINCT flow_group) FROM rows "
            "GROUP BY label ORDER BY label"
        )
        [(attempts, fresh, cached, prompt, completion, usd, embedded)] = ask(f"""
            SELECT sum(attempts), sum(attempts) FILTER (NOT from_cache), count(*) FILTER (from_cache),
                sum(prompt_tokens), sum(completion_tokens), fsum(billed_usd), bool_or(model = '{EMBEDDED_MODEL}')
            FROM replies""")
        examples = ask(
            "SELECT split_part(reason, ':', 1) AS kind, count(*) AS n, min(reason) FROM "
            "(SELECT unnest(reasons) AS reason FROM rows) GROUP BY kind ORDER BY n DESC, kind"
        )
        answers, wordings = distinct(wording.answers), distinct(wording.wordings)
        report = {
            "rows": good, "quarantined": bad, "distinct_requests": requests, "distinct_answers": answers,
            "distinct_wordings": wordings,
            # Share of answers, each request's and each given one, that repeat another word for word.
            "exact_copies": round(1 - answers / wanted, 4) if wanted else 0.0,
            "mean_analysis_words": round(wording.words / max(1, good), 2),
            "kinds": dict(ask("SELECT kind, count(*) FROM rows GROUP BY kind")),
            "quarantine_reasons": {kind: rows for kind, rows, _ in sorted(examples)},
            "diversity": wording.diversity(),
            "variations": dict(ask("SELECT variation, count(*) FROM rows WHERE variation IS NOT NULL GROUP BY ALL")),
            **variations_by_class(ask(
                "SELECT label, variation, count(*) FROM rows WHERE variation IS NOT NULL GROUP BY ALL ORDER BY ALL"
            )),
            "by_class": [
                dict(zip(("class", "rows", "quarantined", "distinct_flows"), row, strict=True))
                | dict(zip(("yield", "yield_low", "yield_high"), share(row[1], row[1] + row[2]), strict=True))
                for row in by_class
            ],
        }  # fmt: skip
    usage = {
        "rows": good, "requests": int(attempts or 0), "distinct_requests": requests,
        "prompt_tokens": int(prompt or 0), "completion_tokens": int(completion or 0), "billed_usd": usd or 0.0,
        "model": plan.prompt.model, "quarantined": bad,
        # Started by this run, or reached as a separate server.
        "embedded": is_embedded(source) or bool(embedded),
    }  # fmt: skip
    headline = {
        "distinct_answers": answers, "distinct_wordings": wordings, "requests": usage["requests"],
        "billed_usd": round(usage["billed_usd"], 4), "requests_of_this_run": int(fresh or 0),
        "taken_from_cache_by_this_run": cached,
    }  # fmt: skip
    return TrackResult(report, usage, headline, tuple(examples))


def variations_by_class(counted: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    """Return the share of repeat rows that were varied, and the rows by class and outcome; nothing without such rows.

    `counted` are (class, outcome, rows).
    """
    total = sum(rows for *_, rows in counted)
    if not total:
        return {}
    varied = sum(rows for _, outcome, rows in counted if outcome == "varied")
    outcomes = sorted({outcome for _, outcome, _ in counted}, key=lambda outcome: (outcome != "varied", outcome))
    table: dict[str, dict[str, Any]] = {}
    for name, outcome, rows in counted:
        table.setdefault(name, {"class": name, "repeat_rows": 0} | dict.fromkeys(outcomes, 0))[outcome] = rows
        table[name]["repeat_rows"] += rows
    return {"repeat_rows": total, "share_varied": round(varied / total, 4), "variations_by_class": [*table.values()]}


def read_answers(folder: Path) -> Path:
    """Return the path of the original track's answers; UserError if no answer was accepted."""
    path = folder / "answers.parquet"
    if not path.is_file():
        raise UserError(f"{path} is missing: no answer of the original track was accepted; make it again.")
    return path


def share(hits: int, of: int) -> tuple[float, float, float]:
    """Return a share with its 95 % interval (Wilson), to 4 digits."""
    from scipy.stats import binomtest

    low, high = binomtest(hits, of).proportion_ci(method="wilson")
    return round(hits / of, 4), round(float(low), 4), round(float(high), 4)
