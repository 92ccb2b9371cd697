"""A small table as text, and reading it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from iot_pipeline.flows.reading.rules import ReadingRules
from iot_pipeline.flows.source import SourceReport, read_tables

NAMES = ["dur", "orig_pkts", "rate", "proto", "label"]
LINES = [f"{n / 4},{n % 7},{n}e-2,{('tcp', 'udp')[n % 2]},{('Normal', 'DoS', 'Scan')[n % 3]}" for n in range(40)]
TEXT = "\n".join([",".join(NAMES), *LINES]) + "\n"


def read(
    folder: Path, data: bytes | str, rules: ReadingRules | None = None, name: str = "t.csv", share: float = 0.0
) -> tuple[pd.DataFrame, SourceReport]:
    """Read one file of these bytes; return the table and the report."""
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    out = folder / "raw.parquet"
    report = read_tables(str(folder / name), out, rules or ReadingRules(), max_rejected_share=share)
    return pd.read_parquet(out), report
