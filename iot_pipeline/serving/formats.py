"""Output formats of events: JSON lines, CSV, OCSF, ECS, Suricata's EVE, and Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import pyarrow as pa

from iot_pipeline.errors import printable
from iot_pipeline.escaping import csv_cell
from iot_pipeline.serving.classifier import Verdict
from iot_pipeline.serving.events import About, Row, evidence, row_part, verdict_part
from iot_pipeline.serving.evidence import Fact
from iot_pipeline.serving.identity import COLUMNS
from iot_pipeline.serving.siem import ecs, eve, ocsf

Form = Literal["json", "csv", "parquet", "ocsf", "ecs", "eve"]
FORMS: tuple[Form, ...] = get_args(Form)
Record = Callable[[Row, Verdict, About], dict[str, Any]]
RECORDS: dict[str, Record] = {"ocsf": ocsf, "ecs": ecs, "eve": eve}
TEXT, NUMBER, YES = pa.string(), pa.float64(), pa.bool_()
SCHEMA = pa.schema(
    [
        ("uid", TEXT), ("time", pa.timestamp("us", "UTC")), ("time_of", TEXT), ("file", TEXT), ("row", pa.int64()),
        *((f"flow_{name}", TEXT) for name in COLUMNS),
        ("flow_group", TEXT), ("class", TEXT), ("benign", YES), ("probability", NUMBER), ("calibrated", YES),
        ("probabilities", pa.map_(TEXT, NUMBER)), ("set", pa.list_(TEXT)), ("set_level", NUMBER), ("unsure", YES),
        ("unknown", YES), ("unknown_p", NUMBER), ("unknown_because", pa.list_(TEXT)), ("nearest_class", TEXT),
        ("out_of_range", pa.list_(TEXT)),
        ("evidence", pa.list_(pa.struct([("feature", TEXT), ("value", TEXT), ("place", TEXT)]))),
        ("evidence_from", TEXT), ("explanation", TEXT), ("decoding", TEXT), ("unsupported", pa.list_(TEXT)),
        ("stage", TEXT), ("track", TEXT), ("base", TEXT), ("model_digest", TEXT), ("adapter", TEXT), ("prompt", TEXT),
        ("lake", TEXT), ("not_real", TEXT),
    ]
)  # fmt: skip


class Encoder:
    """Encoder of events as bytes of one text format; what rows of a flow group share is encoded once a batch."""

    def __init__(self, form: Form, about: About) -> None:
        self.form, self.about = form, about

    def head(self) -> bytes:
        """Return what a file begins with."""
        return _csv_line(SCHEMA.names) if self.form == "csv" else b""

    def encode(self, rows: Sequence[Row], verdicts: Mapping[str, Verdict]) -> bytes:
        """Return the lines of rows; `verdicts` by flow group."""
        if self.form == "json":
            ends = {group: dumped(verdict_part(verdict, self.about))[1:] for group, verdict in verdicts.items()}
            lines = [f"{dumped(row_part(row))[:-1]}, {ends[row.flow_group]}" for row in rows]
            return "".join(line + "\n" for line in lines).encode()
        if self.form == "csv":
            shared = {group: flat_verdict(verdict, self.about, cells=True) for group, verdict in verdicts.items()}
            return b"".join(_csv_line({**flat_row(row), **shared[row.flow_group]}.values()) for row in rows)
        record = RECORDS[self.form]
        return "".join(dumped(record(row, verdicts[row.flow_group], self.about)) + "\n" for row in rows).encode()

    def table(self, rows: Sequence[Row], verdicts: Mapping[str, Verdict]) -> pa.Table:
        """Return the events of rows as a table of SCHEMA."""
        shared = {group: flat_verdict(verdict, self.about) for group, verdict in verdicts.items()}
        records = [{**flat_row(row), **shared[row.flow_group]} for row in rows]
        times = pa.array([round(row.time * 1e6) for row in rows], pa.int64()).cast(SCHEMA.field("time").type)
        columns = {field.name: [record[field.name] for record in records] for field in SCHEMA}
        arrays = [times if f.name == "time" else pa.array(columns[f.name], f.type) for f in SCHEMA]
        return pa.Table.from_arrays(arrays, schema=SCHEMA)


def dumped(record: Mapping[str, Any]) -> str:
    """Return a record as one line of JSON, in ASCII: a terminal obeys nothing in it."""
    return json.dumps(record, allow_nan=False)


def flat_row(row: Row) -> dict[str, Any]:
    """Return the columns of SCHEMA that are the row's own."""
    flow = {f"flow_{name}": None if (cell := row.flow.get(name)) is None else str(cell) for name in COLUMNS}
    own = {name: value for name, value in row_part(row).items() if name in ("uid", "time", "time_of", "file", "row")}
    return own | flow | {"flow_group": row.flow_group}


def flat_verdict(verdict: Verdict, about: About, cells: bool = False) -> dict[str, Any]:
    """Return the columns of SCHEMA that a flow group shares; with `cells`, lists and maps as text."""
    part, said, facts = verdict_part(verdict, about), verdict.explanation, evidence(verdict)[0]
    model = part.pop("model")
    listed = {
        "probabilities": part["probabilities"],
        "set": part["set"],
        "unknown_because": part["unknown_because"],
        "out_of_range": part["out_of_range"],
        "evidence": part["evidence"],
        "unsupported": said.unsupported if said is not None else None,
    }
    if cells:
        listed = {
            "probabilities": "; ".join(f"{name} {value:g}" for name, value in part["probabilities"].items()),
            "set": None if part["set"] is None else "; ".join(part["set"]),
            "unknown_because": "; ".join(part["unknown_because"]),
            "out_of_range": "; ".join(part["out_of_range"]),
            "evidence": "; ".join(map(fact_text, facts)),
            "unsupported": None if said is None else "; ".join(said.unsupported),
        }
    elif part["probabilities"]:
        listed["probabilities"] = list(part["probabilities"].items())
    found = part | listed | {
        "explanation": None if said is None else said.text,
        "decoding": None if said is None else said.decoding,
        "stage": model["stage"], "track": model["track"], "base": model["base"], "model_digest": model["digest"],
        "adapter": model["adapter"], "prompt": model["prompt"],
        "lake": "; ".join(f"{name} {version}" for name, version in model["lake"].items()),
        "not_real": "; ".join(model["not_real"]),
    }  # fmt: skip
    shared = SCHEMA.names[SCHEMA.get_field_index("class") :]
    return {name: found[name] for name in shared}


def fact_text(fact: Fact) -> str:
    """Return a fact in words: `orig_pkts = 2.265 (p97)`."""
    return f"{fact.feature} = {fact.value} ({fact.place})"


def _csv_line(cells: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([csv_cell(_plain(cell)) for cell in cells])
    return text.getvalue().encode(errors="replace")


def _plain(cell: Any) -> Any:
    if isinstance(cell, bool):
        return str(cell).lower()
    return "" if cell is None else printable(cell) if isinstance(cell, str) else cell
