"""What do `datasets check` and `datasets new` say of tables, archives, logs and specs that are broken or hostile?

    .venv/bin/python benchmarks/fuzz_inputs.py --files 200 --seed 2027

Each file is a good one that was changed by drawn mutations. It is read by a spec and drafted anew (a spec is loaded and
used). Allowed are a result and a UserError of one line; any other exception, a line that is too long, and 60 s without
an end are faults. Writes benchmarks/results/fuzz_inputs.json; ends with an error if there is a fault.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import gzip
import io
import json
import lzma
import random
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from result import save

from iot_pipeline.commands.datasets import check, new, show
from iot_pipeline.errors import UserError, printable
from iot_pipeline.flows.spec import load_spec, spec_path
from iot_pipeline_tests.flows.reading.zeek_logs import json_log, logs_of, tsv
from iot_pipeline_tests.flows.test_fuzz import MUTATIONS, flip, good_csv

SPEC = "farm_flow"
LONGEST = 1_000  # characters of an error
SLOWEST_S = 60
LIMIT = 0.05  # share of rejected rows that is let pass
# Values that no key of a spec means.
STRANGE = [
    "null", "[]", "{}", "-1", "1e400", ".nan", "true", "'\u202e\u0007'", "!!python/object:os.system {}", "&a [*a]",
    "9" * 400, "'" + "x" * 5_000 + "'", "'a | b'", "=1+1",
]  # fmt: skip

Made = tuple[str, bytes]  # name of the file, and its content


def bytes_of(random_: random.Random, data: bytes) -> bytes:
    """Change some bytes: flipped, cut off, doubled, moved."""
    start = random_.randrange(len(data))
    part = data[start : start + random_.randrange(1, 400)]
    ways: list[Callable[[], bytes]] = [
        lambda: flip(data, random_), lambda: data[:start], lambda: data.replace(part, b"", 1),
        lambda: data[:start] + part + data[start:], lambda: data[:start] + random_.randbytes(64) + data[start + 64 :],
    ]  # fmt: skip
    return random_.choice(ways)()


def table(random_: random.Random) -> Made:
    """A CSV that was changed by one to three of the mutations of the tests."""
    data = good_csv()
    for name in random_.sample(sorted(MUTATIONS), random_.randint(1, 3)):
        with contextlib.suppress(ValueError, IndexError):  # a mutation of lines on what has none any more
            data = MUTATIONS[name](data, random_)
    return "table.csv", data


def parquet(random_: random.Random) -> Made:
    """A Parquet file with some other bytes."""
    out = io.BytesIO()
    pq.write_table(pa_csv.read_csv(io.BytesIO(good_csv())), out)
    return "table.parquet", bytes_of(random_, out.getvalue())


def log(random_: random.Random) -> Made:
    """Zeek's conn.log with some other bytes, as tabs or as JSON lines."""
    conn, _ = logs_of(load_spec(SPEC), 60, 42)
    text = random_.choice([tsv("conn", conn), json_log(conn)])
    return "conn.log", bytes_of(random_, text.encode())


def archive(random_: random.Random) -> Made:
    """An archive with hostile members, or whose own bytes were changed."""
    data, form = table(random_)[1], random_.choice(["zip", "tar.gz", "gz", "bz2", "xz"])
    names = ["t.csv", "../../t.csv", "/etc/t.csv", "a/b/\x1b[31mt.csv", "t\n.csv", "inner.zip", "x" * 240, ""]
    members = [(random_.choice(names), random_.choice([data, data, b"0," * 2_000_000, b""])) for _ in range(3)]
    if form in ("gz", "bz2", "xz"):
        packed = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[form](data)
    else:
        packed = zipped(members) if form == "zip" else tarred(members, random_)
    return f"table.csv.{form}" if len(form) < 4 and form != "zip" else f"table.{form}", (
        bytes_of(random_, packed) if random_.random() < 0.6 else packed
    )


def zipped(members: list[tuple[str, bytes]]) -> bytes:
    """A zip of these members, some of one name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            file.writestr(zipfile.ZipInfo(name or "t.csv"), data)
    return out.getvalue()


def tarred(members: list[tuple[str, bytes]], random_: random.Random) -> bytes:
    """A tar of these members and of a link or device."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as file:
        for name, data in members:
            member = tarfile.TarInfo(name or "t.csv")
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
        strange = tarfile.TarInfo("t2.csv")
        strange.type = random_.choice([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
        strange.linkname = "/etc/passwd"
        file.addfile(strange)
    return out.getvalue()


def spec(random_: random.Random) -> Made:
    """A spec with another value, a line that is lost, moved or doubled, or other bytes."""
    lines = spec_path(SPEC).read_text(encoding="utf-8").splitlines()
    for _ in range(random_.randint(1, 3)):
        place = random_.randrange(len(lines))
        key = lines[place].split(":", 1)[0]
        way = random_.randrange(5)
        if way == 0 and ":" in lines[place]:
            lines[place] = f"{key}: {random_.choice(STRANGE)}"
        elif way == 1:
            del lines[place]
        elif way == 2:
            lines.insert(random_.randrange(len(lines)), lines[place])
        elif way == 3:
            lines[place] = " " * random_.randrange(4) + lines[place].lstrip()
        else:
            text = bytes_of(random_, lines[place].encode() + b" ")
            lines[place] = text.decode("utf-8", "replace").replace("\n", " ")
    return "spec.yaml", "\n".join(lines).encode()


KINDS: dict[str, Callable[[random.Random], Made]] = {
    "table": table, "parquet": parquet, "log": log, "archive": archive, "spec": spec
}  # fmt: skip


def tasks(kind: str, file: Path) -> Iterator[Callable[[], Any]]:
    """Yield what a user would do with the file."""
    if kind == "spec":
        good = file.with_name("good.csv")
        good.write_bytes(good_csv())
        yield lambda: show(str(file))
        yield lambda: check(str(file), str(good), LIMIT)
    else:
        yield lambda: check(SPEC, str(file), LIMIT)
        yield lambda: new(str(file), None, None, file.with_name("drafted.yaml"))


def outcome(task: Callable[[], Any]) -> tuple[str, str]:
    """Do it; return ok, refused or fault, and what was said."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"no end after {SLOWEST_S} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SLOWEST_S)
    try:
        json.dumps(task(), allow_nan=False, default=str)
        return "ok", ""
    except UserError as error:
        said = printable(str(error))  # as the command line prints it
        return ("refused" if "\n" not in said and 0 < len(said) <= LONGEST else "fault"), said
    except Exception as error:
        return "fault", f"{type(error).__name__}: {error} | {traceback.format_exc()[-1500:]}"
    finally:
        signal.alarm(0)


def main() -> None:
    """Make the files, use each, save, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2027)
    parser.add_argument("--print-only", action="store_true", help="write no result")
    chosen = parser.parse_args()
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    faults, sentences, began = [], set(), time.monotonic()
    for number in range(chosen.files):
        kind = list(KINDS)[number % len(KINDS)]
        name, data = KINDS[kind](random.Random(f"{chosen.seed} {number}"))
        with tempfile.TemporaryDirectory(prefix="iot_fuzz_") as folder:
            file = Path(folder) / name
            file.write_bytes(data)
            for task in tasks(kind, file):
                found, said = outcome(task)
                counts[kind][found] += 1
                sentences.add(said.replace(folder, ""))
                if found == "fault":
                    faults.append({"file": number, "kind": kind, "said": said.replace(folder, "")})
                    print(f"file {number}, {kind}: {said}", file=sys.stderr)
    result = {
        "question": "what broken and hostile inputs give: a result, one sentence, or a fault",
        "files": chosen.files, "seed": chosen.seed, "outcomes": {kind: dict(found) for kind, found in counts.items()},
        "different_sentences": len(sentences - {""}), "seconds": round(time.monotonic() - began, 1), "faults": faults,
    }  # fmt: skip
    save("fuzz_inputs", result, print_only=chosen.print_only)
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
