"""What a track came out like: yield, reasons, cost, length, variety of wording.

Belongs here: figures over one finished track. Does not belong here: making it (tracks.py), comparing tracks (reporting).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from iot_pipeline.augmentation.answers import facts_of, masked_bigrams, parse_answer

DIVERSITY_SAMPLE = 2000  # answers; distinct-2 falls with the size of the sample, so it is always the same


def track_report(track: str, table: pa.Table, texts: Sequence[str], summary: dict[str, Any]) -> dict[str, Any]:
    """Figures of a track as plain data; `texts` are the flow texts of the table's rows.

    `distinct_2` is the share of different ones among the masked bigrams of the first DIVERSITY_SAMPLE answers;
    `teacher` is the engine's summary of this call, `cost_usd` what the answers cost whenever they were made.
    """
    columns = {name: table.column(name).to_pylist() for name in ("label", "status", "words", "answer", "variation")}
    rows, good = Counter(columns["label"]), Counter[str]()
    for label, status in zip(columns["label"], columns["status"], strict=True):
        good[label] += status == "ok"
    reasons = Counter(
        found[0].split(":")[0] for found in table.column("reasons").to_pylist() if found
    )
    answers = [answer for answer in columns["answer"] if answer is not None]
    words = [count for count in columns["words"] if count is not None]
    variation = Counter(what for what in columns["variation"] if what is not None)
    return {
        "track": track,
        "rows": table.num_rows,
        "rows_ok": len(answers),
        "rows_quarantined": table.num_rows - len(answers),
        "yield_by_class": {
            label: {"rows": rows[label], "ok": good[label], "share": good[label] / rows[label]}
            for label in sorted(rows)
        },
        "reasons": dict(sorted(reasons.items())),
        "kept_original": sum(table.column("kept_original").to_pylist()),
        "variation": dict(sorted(variation.items())),
        "sources": dict(sorted(Counter(s for s in table.column("source").to_pylist() if s is not None).items())),
        "distinct_answers": len(set(answers)),
        "distinct_answers_share": len(set(answers)) / len(answers) if answers else 0.0,
        "mean_words": sum(words) / len(words) if words else 0.0,
        "distinct_2": _distinct_2(texts, columns["answer"]),
        "cost_usd": sum(table.column("cost_usd").to_pylist()),
        "teacher": summary,
    }


def _distinct_2(texts: Sequence[str], answers: Sequence[str | None]) -> float:
    seen: dict[str, str] = {}
    for text, answer in zip(texts, answers, strict=True):
        if answer is not None and len(seen) < DIVERSITY_SAMPLE:
            seen.setdefault(answer, text)
    bigrams: Counter[tuple[str, str]] = Counter()
    for answer, text in seen.items():
        bigrams.update(masked_bigrams(parse_answer(answer).analysis, facts_of(text)))
    total = bigrams.total()
    return len(bigrams) / total if total else 0.0
