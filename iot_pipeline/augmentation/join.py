"""Join of a track: requests and replies by key give its chat rows, their provenance, and the counts for the report."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.augmentation.answers import Facts, facts_of, masked_bigrams, parse_answer
from iot_pipeline.augmentation.plan import ROWS_AT_ONCE, TrackPlan, row_writer
from iot_pipeline.errors import UserError
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
ANSWERS = pa.schema([("flow_group", pa.string()), ("label", pa.string()), ("answer", pa.string())])


@dataclass(frozen=True)
class TrackResult:
    """Result of one track's increment, whose rows and answers are files.

    report: equal in every equal run. usage: also what the answers cost, whichever run asked for them. headline: facts
    for the asset's page, including what this run sent.
    """

    report: dict[str, Any]
    usage: dict[str, Any]
    headline: dict[str, Any]


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
        SELECT r.position, r.row_id, r.flow_group, r.label, r.repeat, r.kind,
            CASE WHEN coalesce(a.answer, r.given) IS NULL THEN 'quarantined' ELSE 'ok' END AS status,
            CASE WHEN r.key IS NOT NULL THEN a.reasons WHEN r.reason <> '' THEN [r.reason] ELSE [] END AS reasons,
            coalesce(a.answer, r.given) AS answer, r.key, r.seed, r.variation, r.factor, r.varied_group,
            a.model, a.source, a.attempts, a.from_cache, coalesce(r.text, t.text) AS text
        FROM {scan(requests)} r LEFT JOIN {scan(replies)} a USING (key) JOIN {scan(plan.texts)} t USING (flow_group)"""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    check_complete(plan, folder)
    wording = Wording()
    with (
        connect(requests, replies, plan.texts) as connection,
        replacing(folder / "track.jsonl") as jsonl,
        jsonl.open("w", encoding="utf-8") as lines,
        replacing(provenance) as temporary,
        pq.ParquetWriter(temporary, PROVENANCE, compression="zstd") as writer,
    ):
        for window in plan.windows():
            for part in connection.sql(f"{query} WHERE {window} ORDER BY r.position").to_arrow_reader(ROWS_AT_ONCE):
                writer.write_table(pa.Table.from_batches([part]).select(PROVENANCE.names).cast(PROVENANCE))
                for flow, answer in zip(part["text"].to_pylist(), part["answer"].to_pylist(), strict=True):
                    if answer is not None:
                        lines.write(encode({"messages": [turn("user", flow), turn("assistant", answer)]}) + "\n")
                        wording.add(flow, answer)
    result = count(plan, folder, source, wording)
    if plan.answers is None and result.report["rows"]:
        write_answers(folder)
    replies.unlink()
    return result


class Wording:
    """Counts of distinct answers and wordings, and of the words of all analyses. Memory: 32 bytes a row."""

    def __init__(self) -> None:
        self.answers, self.wordings, self.words = bytearray(), bytearray(), 0
        self._facts: Facts | None = None
        self._measure = lru_cache(65_536)(self._measured)  # the original track's rows share their answers

    def add(self, flow: str, answer: str) -> None:
        """Add the answer of one row."""
        # Any flow text will do: only feature names matter for the wording.
        self._facts = self._facts or facts_of(flow)
        text, wording, words = self._measure(answer)
        self.answers += text
        self.wordings += wording
        self.words += words

    def _measured(self, answer: str) -> tuple[bytes, bytes, int]:
        assert self._facts is not None
        analysis = parse_answer(answer).analysis
        wording = "\n".join(map(" ".join, masked_bigrams(analysis, self._facts)))
        return digest(answer), digest(wording), len(analysis.split())


def digest(text: str) -> bytes:
    """Return a 16-byte digest of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def distinct(digests: bytearray) -> int:
    """Count the distinct digests in their concatenation."""
    return len(np.unique(np.frombuffer(digests, dtype="S16")))


def turn(role: str, content: str) -> dict[str, str]:
    """Return one message of a chat row."""
    return {"role": role, "content": content}


def check_complete(plan: TrackPlan, folder: Path) -> None:
    """Raise RuntimeError unless every row was drawn and each request has a reply, good or bad."""
    requests, replies = folder / "requests.parquet", folder / "replies.parquet"
    drawn = pq.read_metadata(requests).num_rows if requests.is_file() else 0
    missing = 0
    if drawn:
        with connect(requests, replies) as connection:
            answered = f"SELECT key FROM {scan(replies)}"
            query = f"SELECT count(DISTINCT key) FROM {scan(requests)} WHERE key NOT IN ({answered})"
            missing = connection.execute(query).fetchall()[0][0]
    if missing or drawn != plan.counts[0]:
        raise RuntimeError(f"{drawn:,} of {plan.counts[0]:,} rows were drawn, {missing:,} requests got no answer")


def write_answers(folder: Path) -> None:
    """Write answers.parquet: the good answers by flow group and label, from requests.parquet and replies.parquet."""
    requests, replies = folder / "requests.parquet", folder / "replies.parquet"
    query = f"SELECT DISTINCT flow_group, label, answer FROM {scan(requests)} JOIN {scan(replies)} USING (key)"
    with connect(requests, replies) as connection, row_writer(folder / "answers.parquet", ANSWERS) as write:
        for digit in "0123456789abcdef":  # part by part, so that each part can be sorted in memory
            part = f"answer IS NOT NULL AND starts_with(flow_group, '{digit}')"
            connection.execute(f"{query} WHERE {part} ORDER BY flow_group, label")
            while rows := connection.fetchmany(ROWS_AT_ONCE):
                for row in rows:
                    write(row)


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
        [(good, bad, requests)] = ask("SELECT count(answer), count(*) - count(answer), count(DISTINCT key) FROM rows")
        by_class = ask(
            "SELECT label, count(answer), count(*) - count(answer), count(DISTINCT flow_group) FROM rows "
            "GROUP BY label ORDER BY label"
        )
        [(attempts, fresh, cached, prompt, completion, usd, embedded)] = ask(f"""
            SELECT sum(attempts), sum(attempts) FILTER (NOT from_cache), count(*) FILTER (from_cache),
                sum(prompt_tokens), sum(completion_tokens), fsum(billed_usd), bool_or(model = '{EMBEDDED_MODEL}')
            FROM replies""")
        answers, wordings = distinct(wording.answers), distinct(wording.wordings)
        report = {
            "rows": good, "quarantined": bad, "distinct_requests": requests, "distinct_answers": answers,
            "distinct_wordings": wordings, "mean_analysis_words": round(wording.words / max(1, good), 2),
            "kinds": dict(ask("SELECT kind, count(*) FROM rows GROUP BY kind")),
            "quarantine_reasons": dict(ask(
                "SELECT split_part(reason, ':', 1) AS kind, count(*) FROM (SELECT unnest(reasons) AS reason FROM rows) "
                "GROUP BY kind ORDER BY kind"
            )),
            "variations": dict(ask("SELECT variation, count(*) FROM rows WHERE variation IS NOT NULL GROUP BY ALL")),
            "by_class": [
                dict(zip(("class", "rows", "quarantined", "distinct_flows"), row, strict=True)) for row in by_class
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
    return TrackResult(report, usage, headline)


def read_answers(folder: Path) -> Path:
    """Return the path of the original track's answers; UserError if no answer was accepted."""
    path = folder / "answers.parquet"
    if not path.is_file():
        raise UserError(f"{path} is missing: no answer of the original track was accepted; make it again.")
    return path
