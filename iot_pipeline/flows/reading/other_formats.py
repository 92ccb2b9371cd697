"""Formats that are no tables or are not read, told by their first bytes, so that a person learns what to do."""

from __future__ import annotations

import re
from pathlib import Path

from iot_pipeline.errors import UserError

CAPTURE = "a packet capture: make flows of it first, with Zeek or CICFlowMeter, and give their log or CSV"
WORKBOOK = "an Excel workbook: save its sheet as CSV"
STARTS = {
    b"\xd4\xc3\xb2\xa1": CAPTURE, b"\xa1\xb2\xc3\xd4": CAPTURE, b"\x4d\x3c\xb2\xa1": CAPTURE,
    b"\xa1\xb2\x3c\x4d": CAPTURE, b"\x0a\x0d\x0d\x0a": CAPTURE,
    b"\xd0\xcf\x11\xe0": WORKBOOK,
    b"ARROW1": "an Arrow or Feather file: save it as Parquet",
    b"FEA1": "a Feather file: save it as Parquet",
    b"ORC": "an ORC file: save it as Parquet",
    b"Obj\x01": "an Avro file: save it as Parquet",
    b"SQLite format 3\x00": "an SQLite database: export its table as CSV or Parquet",
    b"\x89HDF": "an HDF5 file: save its table as CSV or Parquet",
    b"MATLAB 5.0": "a MATLAB file: save its table as CSV or Parquet",
    b"\x93NUMPY": "a NumPy array, which has no column names: save it as CSV or Parquet",
    b"\x80\x04": "a pickle, which may run code when it is read: save it as Parquet",
    b"\x80\x05": "a pickle, which may run code when it is read: save it as Parquet",
    b"%PDF": "a PDF: give the table itself",
    b"<!DOCTYPE": "a web page, as comes where a download wants a sign-in: fetch the file itself",
    b"<html": "a web page, as comes where a download wants a sign-in: fetch the file itself",
    b"version https://git-lfs": "a pointer of git-lfs: run git lfs pull where it comes from",
}  # fmt: skip
LONGEST = max(map(len, STARTS))
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")


def refuse_other_formats(name: str, plain: Path) -> None:
    """Raise UserError for a file that begins like a known format that is not read; `name` is its display name."""
    with plain.open("rb") as handle:
        start = handle.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
        handle.seek(0)
        raw = handle.read(LONGEST)
    for magic, told in STARTS.items():
        if magic == b"ORC" and not CONTROL.search(start):
            continue  # the first of a CSV's names, such as ORCID
        if raw.startswith(magic) or (magic[:1] == b"<" and start.lower().startswith(magic.lower())):
            raise UserError(f"{name} is {told}.")
    if start.startswith(b"[") and start[1:].lstrip().startswith((b"{", b"[", b"]")):
        raise UserError(f"{name} is a JSON array: write one object a line (`jq -c '.[]' FILE > FILE.jsonl`).")
