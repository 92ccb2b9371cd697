"""Dozens of files broken in seeded ways: each is read rightly or refused in one clear line."""

from __future__ import annotations

import gzip
import io
import itertools
import random
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.source import read_source
from iot_pipeline.flows.spec import load_spec

SPEC = load_spec("farm_flow")
ROWS = 40
Mutation = Callable[[bytes, random.Random], bytes]


def good_csv() -> bytes:
    """A small table that reads without a rejected row."""
    random_ = random.Random(1)
    lines = [",".join([*SPEC.feature_names, "is_attack", "traffic"])]
    for number in range(ROWS):
        values = [f"{random_.uniform(-1, 3):.6f}" for _ in SPEC.feature_names]
        lines.append(",".join([*values, "1.0", str((0, 1, 3, 4, 5, 6, 7)[number % 7])]))
    return "\n".join(lines).encode() + b"\n"


def at_line(change: Callable[[str, random.Random], str], header: bool = False) -> Mutation:
    """A change of one random line (or the header)."""

    def mutate(data: bytes, chance: random.Random) -> bytes:
        lines = data.decode().split("\n")
        place = 0 if header else chance.randrange(1, len(lines) - 1)
        lines[place] = change(lines[place], chance)
        return "\n".join(lines).encode()

    return mutate


def cell(text: str) -> Mutation:
    """One random cell replaced."""

    def change(line: str, chance: random.Random) -> str:
        cells = line.split(",")
        cells[chance.randrange(len(cells))] = text
        return ",".join(cells)

    return at_line(change)


def flip(data: bytes, chance: random.Random) -> bytes:
    """A random byte anywhere."""
    place = chance.randrange(len(data))
    return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]


MUTATIONS: dict[str, Mutation] = {
    "cut": lambda data, chance: data[: chance.randrange(len(data))],
    "flip": flip,
    "flips": lambda data, chance: [data := flip(data, chance) for _ in range(20)][-1],
    "utf16": lambda data, chance: data.decode().encode("utf-16"),
    "latin1 cell": lambda data, chance: cell("caf\u00e9")(data, chance).decode().encode("latin-1"),
    "bom": lambda data, chance: b"\xef\xbb\xbf" + data,
    "semicolons": lambda data, chance: data.replace(b",", b";"),
    "tabs": lambda data, chance: data.replace(b",", b"\t"),
    "mixed delimiters": at_line(lambda line, chance: line.replace(",", ";")),
    "crlf": lambda data, chance: data.replace(b"\n", b"\r\n"),
    "cr only": lambda data, chance: data.replace(b"\n", b"\r"),
    "mixed ends": lambda data, chance: data.replace(b"\n", b"\r\n", chance.randrange(1, 20)),
    "empty line": at_line(lambda line, chance: line + "\n"),
    "comma line": at_line(lambda line, chance: line + "\n" + "," * line.count(",")),
    "few columns": at_line(lambda line, chance: ",".join(line.split(",")[: chance.randrange(1, 20)])),
    "many columns": at_line(lambda line, chance: line + ",1,2,3"),
    "open quote": at_line(lambda line, chance: '"' + line),
    "quote inside": cell('a"b"c'),
    "quoted newline": cell('"1\n2"'),
    "null byte": cell("\x00"),
    "huge": cell("1" + "0" * 400),
    "tiny": cell("1e-400"),
    "nan": cell("nan"),
    "inf": cell("-inf"),
    "word": cell("many"),
    "empty cell": cell(""),
    "spaces": cell("  0.5  "),
    "unknown label": at_line(lambda line, chance: line.rsplit(",", 1)[0] + ",99"),
    "label name": at_line(lambda line, chance: line.rsplit(",", 1)[0] + ",HTTP_Flood"),
    "column gone": lambda data, chance: data.replace(b"resp_pkts,", b"", 1),
    "column renamed": at_line(lambda line, chance: line.replace("orig_pkts", "Orig Pkts"), header=True),
    "column twice": at_line(lambda line, chance: line.replace("resp_pkts", "orig_pkts"), header=True),
    "no header": lambda data, chance: data.split(b"\n", 1)[1],
    "header only": lambda data, chance: data.split(b"\n", 1)[0] + b"\n",
    "header twice": lambda data, chance: data.split(b"\n", 1)[0] + b"\n" + data,
    "nothing": lambda data, chance: b"",
    "blank": lambda data, chance: b"\n\n\n",
    "not a table": lambda data, chance: chance.randbytes(3000),
    "parquet magic": lambda data, chance: b"PAR1" + data,
    "long line": at_line(lambda line, chance: line + "," + "9" * 2_000_000),
}


def zipped(data: bytes) -> bytes:
    """A zip with the table in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("table.csv", data)
    return buffer.getvalue()


# A byte, a quote or a cut may make lines of what was none, or none of what was one.
LINES_UNKNOWN = {"flip", "flips", "cut", "open quote", "quoted newline", "quote inside", "long line", "null byte"}


def read(file: Path, folder: Path) -> tuple[str, int]:
    """`read` and the rows and lines that were kept or counted (rejected, repeated header), or a UserError's text and 0.

    Any other error is a failure of the test.
    """
    try:
        source = read_source(SPEC, str(file), folder / "raw.parquet", max_rejected_share=0.1)
        flows = build_flows(SPEC, folder / "raw.parquet", folder / "flows.parquet", max_rejected_share=0.1)
    except UserError as error:
        return str(error), 0
    assert source.rows == flows.rows_in
    assert flows.rows_in == flows.rows_kept + sum(flows.rejected.values()) + sum(flows.left_out.values())
    return "read", source.rows + sum(source.rejected.values()) + sum(source.left_out.values())


FORMS: dict[str, Callable[[bytes], bytes]] = {"csv": bytes, "csv.gz": gzip.compress, "zip": zipped}


def cases() -> Iterator[tuple[str, int, str]]:
    """Yield mutations with seed and form of file: three each, and one of a mutation that draws nothing."""
    forms = itertools.cycle(FORMS)
    for name, mutate in MUTATIONS.items():
        draws = mutate(good_csv(), random.Random(1)) != mutate(good_csv(), random.Random(2))
        yield from ((name, seed, next(forms)) for seed in range(3 if draws else 1))


@pytest.mark.parametrize("lost", [1, 9, 29])
def test_a_cut_archive_is_refused(lost: int, tmp_path: Path) -> None:
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(good_csv())[:-lost])
    said, _ = read(tmp_path / "table.csv.gz", tmp_path)
    assert said.startswith("table.csv.gz cannot be unpacked: ")


@pytest.mark.parametrize(("name", "seed", "form"), cases())
def test_broken_files(name: str, seed: int, form: str, tmp_path: Path) -> None:
    data = MUTATIONS[name](good_csv(), random.Random(f"{name}{seed}"))
    file = tmp_path / f"table.{form}"
    file.write_bytes(FORMS[form](data))
    out = tmp_path / "out"
    out.mkdir()
    said, told = read(file, out)
    assert said.count("\n") == 0 and 0 < len(said) < 600
    assert str(tmp_path) not in said
    assert {path.name for path in out.iterdir()} <= {"raw.parquet", "flows.parquet"}
    assert (out / "flows.parquet").exists() == (said == "read")
    if said == "read":
        # One broken line costs one row; of 20 flipped bytes each may fall into another row.
        assert len(kept(out) - kept_of_good()) <= (20 if name == "flips" else 2)
        if name not in LINES_UNKNOWN:
            lines = data.decode("utf-16" if name == "utf16" else "latin-1").replace("\r\n", "\n").replace("\r", "\n")
            assert told == sum(1 for line in lines.split("\n") if line.strip()) - 1


def kept(folder: Path) -> set[tuple[object, ...]]:
    """The flows that were read, as values and label."""
    table = pq.read_table(folder / "flows.parquet", columns=[*SPEC.feature_names, "label"])
    return set(zip(*(column.to_pylist() for column in table.columns), strict=True))


@cache
def kept_of_good() -> frozenset[tuple[object, ...]]:
    """What the unbroken file holds."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "good.csv").write_bytes(good_csv())
        assert read(Path(folder) / "good.csv", Path(folder)) == ("read", ROWS)
        return frozenset(kept(Path(folder)))
