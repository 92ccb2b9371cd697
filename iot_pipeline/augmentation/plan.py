"""Plan of a track: what each row asks of the teacher or is given, and the distinct requests."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iot_pipeline.augmentation.answers import OBJECT_VERSION, SCHEMA_VERSION, answer_schema
from iot_pipeline.augmentation.checks import MIN_INDICATORS
from iot_pipeline.augmentation.prompts import PromptFile
from iot_pipeline.augmentation.variation import Varied, Varier
from iot_pipeline.flows.dataset import Rows
from iot_pipeline.flows.feature import CATEGORY, Feature
from iot_pipeline.flows.matrix import numbered_rows
from iot_pipeline.flows.ordered_join import numbered, ordered_join
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import connect, one
from iot_pipeline.lake.atomic import replacing
from iot_pipeline.teacher.request import Request

ROWS_AT_ONCE = 5000
MOST_INDICATORS = 12  # asked for; an answer may have more
REQUESTS = pa.schema(
    [
        ("position", pa.int64()), ("row_id", pa.int64()), ("flow_group", pa.string()), ("label", pa.string()),
        ("repeat", pa.int32()), ("kind", pa.string()), ("key", pa.string()), ("seed", pa.int64()),
        ("given", pa.string()), ("reason", pa.string()), ("variation", pa.string()), ("factor", pa.float64()),
        ("varied_group", pa.string()), ("text", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class FlowRequest(Request):
    """Request with the context for checking its answer.

    flow: text of the flow. original: answer to paraphrase, if any. data_set: what else judges an
    answer, as JSON: classes, standardised features, known values of categories.
    """

    flow: str = field(default="", compare=False)
    label: str = field(default="", compare=False)
    original: str = field(default="", compare=False)
    data_set: str = field(default="", compare=False)

    def context(self) -> dict[str, str]:
        """Return the checking context as texts."""
        return {name: getattr(self, name) for name in ("flow", "label", "original", "data_set")}


@dataclass(frozen=True)
class TrackConfig:
    """Track configuration: what the teacher gets besides flow and label, the same for all rows.

    words: length of ANALYSIS. order: `label_first` or `explanation_first`. seed: part of every request. objects:
    answers are requested as JSON objects. marked: features are cited as marked facts.
    """

    spec: DatasetSpec
    words: int
    order: str
    serialisation: str
    seed: int
    objects: bool = False
    marked: bool = False

    def variables(self) -> dict[str, Any]:
        """Return the template variables that every prompt can use."""
        return {
            "classes": self.spec.classes, "words": self.words, "order": self.order,
            "serialisation": self.serialisation, "standardised": self.spec.scaling != "none",
            "glossary": glossary(self.spec, self.serialisation), "objects": self.objects,
            "marked": self.marked, "indicators": asked_indicators(len(self.spec.features)),
        }  # fmt: skip


def glossary(spec: DatasetSpec, serialisation: str) -> Sequence[Feature]:
    """Return the features as prompts list them: a category is called one, and how it is read and cited is said."""
    if not spec.category_names:
        return spec.features
    printed = " and its share of the training flows" if serialisation == "ranked" else ""
    told = f"; its value is a word{printed}, cited exactly as printed; it is neither above nor below anything"
    return [
        f.model_copy(update={"unit": ", ".join(filter(None, (f.unit, CATEGORY))), "meaning": f.meaning + told})
        if f.is_category
        else f
        for f in spec.features
    ]


class Row(NamedTuple):
    """One row of requests.parquet: it asks the request `key`, or has `given`, or `reason` says why neither.

    variation, factor, varied_group, text: of a varied flow, see variation.Varied.
    """

    position: int
    row_id: int
    flow_group: str
    label: str
    repeat: int
    kind: str = "original"
    key: str | None = None
    seed: int | None = None
    given: str | None = None
    reason: str = ""
    variation: str | None = None
    factor: float | None = None
    varied_group: str | None = None
    text: str | None = None


@dataclass
class TrackPlan:
    """Requests of a track, drawn in one pass that writes a row of `out` (requests.parquet) for each row of the track.

    Without `answers` it is the original track: one request for each (flow group, label), shared by its rows. With
    them, the first row of a (flow group, label) is given the original answer, and each further row asks: for a
    paraphrase of that answer, or, with `varier`, for an explanation of the flow varied. The same request may be
    drawn twice; the teacher answers it once.

    Args:
        rows: Rows of the track.
        texts: texts.parquet of the asset flow_texts.
        prompt: Prompt file of the track.
        config: Track configuration.
        out: File to write.
        answers: answers.parquet of the original track.
        varier: Variation of the flows, for the feature-varied track.
        flows: flows.parquet, for the feature-varied track.
    """

    rows: Rows
    texts: Path
    prompt: PromptFile
    config: TrackConfig
    out: Path
    answers: Path | None = None
    varier: Varier | None = None
    flows: Path | None = None
    pending: dict[str, str] = field(default_factory=dict)  # label by key, of requests not yet answered

    def __post_init__(self) -> None:
        self.variables, self.params = self.config.variables(), self.prompt.params()
        self.version = OBJECT_VERSION if self.config.objects else SCHEMA_VERSION
        self.schema = answer_schema(self.config.order) if self.config.objects else None
        spec = self.config.spec
        marked = {"marked": True} if self.config.marked else {}
        known = {"known": sorted(spec.known_values)} if spec.known_values else {}
        self.data_set = json.dumps({"classes": spec.classes, "signed": sorted(spec.standardised)} | marked | known)

    @cached_property
    def counts(self) -> tuple[int, int]:
        """Number of rows, and about how many distinct requests they make."""
        asking = "count(DISTINCT (flow_group, label))" if self.answers is None else "count(*) FILTER (repeat > 0)"
        with connect(self.rows.file) as connection:
            rows, requests = one(connection, f"SELECT count(*), {asking} FROM ({self.rows.query})")
        return rows, requests

    def __length_hint__(self) -> int:
        return self.counts[1]

    def __iter__(self) -> Iterator[FlowRequest]:
        keys: dict[tuple[str, str], str] = {}  # of the original track
        with row_writer(self.out, REQUESTS) as write:
            for row, text, answer, varied in self._read():
                request = None
                if self.answers is None:
                    group, seed = (row.flow_group, row.label), self.config.seed
                    if group not in keys:
                        _, request = self._ask(row, text, seed)
                        keys[group] = request.key
                    row = row._replace(key=keys[group], seed=seed)
                elif row.repeat == 0 or (answer is None and self.varier is None):
                    reason = "" if answer is not None else "the original answer is quarantined"
                    row = row._replace(given=answer, reason=reason)
                elif varied is None:
                    seed = derived_seed(self.config.seed, row.repeat)
                    row, request = self._ask(row._replace(kind="paraphrase"), text, seed, answer or "")
                else:
                    row = row._replace(
                        kind=varied.outcome.split(":")[0], variation=varied.outcome, factor=varied.factor,
                        varied_group=varied.group, text=varied.text,
                    )  # fmt: skip
                    row, request = self._ask(row, varied.text, derived_seed(self.config.seed, row.repeat))
                write(row)
                if request is not None:
                    self.pending.setdefault(request.key, request.label)
                    yield request

    def close(self) -> None:
        """End what varies flows, which no later iteration can use."""
        if self.varier is not None:
            self.varier.close()

    def _read(self) -> Iterator[tuple[Row, str, str | None, Varied | None]]:
        """Yield rows by position with text, original answer and, where they are varied, the varied flow."""
        names = self.config.spec.feature_names
        sources: dict[str, tuple[Path, Sequence[str]]] = {"texts": (self.texts, ["text"])}
        joins = f"JOIN {numbered(self.texts, 'flow_group')} texts USING (flow_group)"
        if self.answers is not None:
            sources["answers"] = self.answers, ["answer"]
            joins += f" LEFT JOIN {numbered(self.answers, 'flow_group, label')} answers USING (flow_group, label)"
        if self.flows is not None:
            sources["flows"] = self.flows, names
            joins += f" JOIN {numbered(self.flows, 'row_id')} flows USING (row_id)"
        numbers = ", ".join(f"{name}.place AS {name}" for name in sources)
        query = f"""
            SELECT r.position, r.row_id, r.flow_group, r.label, r.repeat, {numbers}
            FROM ({self.rows.query}) r {joins} ORDER BY r.position"""
        for rows, *parts in ordered_join(query, self.rows.file, **sources):
            found = dict(zip(sources, parts, strict=True))
            listed = [Row(*row) for row in zip(*(column.to_pylist() for column in rows.columns[:5]), strict=True)]
            texts = found["texts"]["text"].to_pylist()
            answers = found["answers"]["answer"].to_pylist() if self.answers is not None else [None] * len(rows)
            varied: list[Varied | None] = [None] * len(rows)
            if self.flows is not None:
                varied = self._varied(listed, texts, numbered_rows(found["flows"], self.config.spec))
            yield from zip(listed, texts, answers, varied, strict=True)

    def _varied(self, rows: Sequence[Row], texts: Sequence[str], values: np.ndarray) -> list[Varied | None]:
        """Vary the repeated ones of some rows; None for the others."""
        assert self.varier is not None
        found: list[Varied | None] = [None] * len(rows)
        places = [place for place, row in enumerate(rows) if row.repeat > 0]
        repeated = [rows[place] for place in places]
        varied = self.varier.vary(
            [row.row_id for row in repeated], [row.flow_group for row in repeated], [row.label for row in repeated],
            values[places], [texts[place] for place in places],
        )  # fmt: skip
        for place, moved in zip(places, varied, strict=True):
            found[place] = moved
        return found

    def _ask(self, row: Row, text: str, seed: int, original: str = "") -> tuple[Row, FlowRequest]:
        """Return the row with its request; `original` is the answer to paraphrase."""
        answer = {"answer": original} if original else {}
        messages = self.prompt.render(**self.variables, flow=text, label=row.label, **answer)
        request = FlowRequest(
            self.prompt.model, messages, self.params | {"seed": seed}, self.version, self.schema, text, row.label,
            original, self.data_set,
        )  # fmt: skip
        return row._replace(key=request.key, seed=seed), request


def asked_indicators(features: int) -> str:
    """Return how many key indicators a prompt asks for: 3 to 12, and never more than a flow has features."""
    least, most = min(MIN_INDICATORS, features), min(MOST_INDICATORS, features)
    return f"between {least} and {most}" if least < most else f"exactly {most}"


def derived_seed(seed: int, repeat: int) -> int:
    """Derive the request seed of a repeated row: 0..2^31-1."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{repeat}".encode()).digest()[:4], "big") >> 1


@contextlib.contextmanager
def row_writer(path: Path, schema: pa.Schema) -> Iterator[Callable[[tuple[Any, ...]], None]]:
    """Open a Parquet file (zstd) for rows, written some thousands at a time; it appears complete or not at all."""
    rows: list[tuple[Any, ...]] = []

    def flush() -> None:
        columns = zip(*rows, strict=True)
        writer.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema))
        rows.clear()

    def write(row: tuple[Any, ...]) -> None:
        rows.append(row)
        if len(rows) == ROWS_AT_ONCE:
            flush()

    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        yield write
        if rows:
            flush()
