"""Options of `iot-pipeline classify`, with their help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

STDIN = "-"
EXAMPLES = """Examples:

iot-pipeline classify flows.csv --out events.jsonl

iot-pipeline classify conn.log flowmeter.log --follow --to ocsf --out events.ocsf

zcat flows.csv.gz | iot-pipeline classify - | jq 'select(.unsure)'

docs/classify.md describes formats, logs and the fields of an event."""

Inputs = Annotated[
    list[str],
    Argument(
        metavar="INPUT...",
        help="Flows, labels optional: CSV, Parquet, JSON lines or ARFF, Zeek's conn.log and flowmeter.log (joined by "
        "uid), archives of them, globs, URLs; - is standard input.",
    ),
]
Stage = Annotated[str | None, Option(help="Stage of the student; default: the largest one made.")]
Track = Annotated[str | None, Option(help="Track of the student; default: original, or the first one made.")]
To = Annotated[str, Option(help="json (lines), csv, parquet, ocsf, ecs or eve.")]
Out = Annotated[
    Path | None,
    Option(help="New file for the events; after a kill the same command resumes. Default: standard output."),
]
Explain = Annotated[str, Option(help="Flows that get an explanation: none, unsure, new (not in the cache) or all.")]
Follow = Annotated[bool, Option("--follow", help="Follow growing logs, also through rotation.")]
JoinWait = Annotated[
    float, Option(min=0, help="Seconds that a followed line waits for its match in the other Zeek log.")
]
IdleExit = Annotated[float | None, Option(min=0, help="Stop following after so many seconds without a line.")]
Units = Annotated[str, Option(help="For scaled data sets: raw, scaled, or auto (Zeek logs are raw, tables scaled).")]
Invalid = Annotated[
    str | None, Option(help="Invalid rows: error (default for files), or skip and count (default for streams).")
]
Benign = Annotated[
    str | None, Option(metavar="CLASS,..", help="Classes that are not attacks; default: by their names.")
]
Cache = Annotated[str | None, Option(metavar="FILE", help="File of cached verdicts, or none; default: in the lake.")]
CacheSize = Annotated[int | None, Option(min=1, help="Verdicts that the cache keeps; default: 1,000,000.")]
Replicas = Annotated[
    int | None,
    Option(min=1, help="Replicas that classify files in parallel on Ray (IOT_BATCH=ray); default: IOT_RAY_REPLICAS."),
]
Summary = Annotated[bool, Option("--json", help="Print the summary as JSON.")]


@dataclass(frozen=True)
class Options:
    """Options as given."""

    inputs: list[str]
    stage: str | None = None
    track: str | None = None
    to: str = "json"
    out: Path | None = None
    explain: str = "none"
    follow: bool = False
    join_wait: float = 30.0
    idle_exit: float | None = None
    units: str = "auto"
    invalid: str | None = None
    benign: str | None = None
    cache: str | None = None
    cache_size: int | None = None
    replicas: int | None = None

    @property
    def streams(self) -> bool:
        """True if flows come as lines: from logs that grow, or standard input."""
        return self.follow or STDIN in self.inputs

    @property
    def skips(self) -> bool:
        """True if rows that are no flow are counted and left out: a stream must not end for one bad line."""
        return (self.invalid or ("skip" if self.streams else "error")) == "skip"
