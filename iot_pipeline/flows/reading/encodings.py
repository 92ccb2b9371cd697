"""Text of a table as UTF-8 with line feeds, whatever encoding and line ends it came in.

UTF-8 is read as it is. UTF-16 and UTF-32 are known by their first bytes. A file that is not UTF-8 is read as
Windows-1252 if its odd bytes stand within words, as a person's text has them; an odd byte within a number is damage,
and costs its line. Any other encoding than UTF-8 is announced.
"""

from __future__ import annotations

import codecs
import io
import re
from dataclasses import dataclass
from pathlib import Path

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.rules import Findings

CHUNK = 1 << 20
# Longest first: the mark of UTF-16 begins that of UTF-32.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
SHOWN_NAMES = {"cp1252": "Windows-1252", "latin-1": "Latin-1"}
CELL_ENDS = re.compile(rb"[,;\t|\r\n]")
WORD = re.compile(rb"[A-Za-z]{2}")
MOST_LINES_JUDGED = 1_000


@dataclass
class Evidence:
    """Lines that are not ASCII: in UTF-8, not in UTF-8 within a word, not in UTF-8 elsewhere; line ends by kind."""

    utf8: int = 0
    words: int = 0
    damaged: int = 0
    first: bytes = b""
    crlf: int = 0
    lf: int = 0
    cr: int = 0

    @property
    def is_legacy(self) -> bool:
        """True if the bytes are text of an older encoding rather than damage."""
        return self.words > self.damaged and self.words > self.utf8

    @property
    def is_judged(self) -> bool:
        """True if so many lines were judged that further ones add nothing."""
        return self.utf8 + self.words + self.damaged > MOST_LINES_JUDGED

    def count_ends(self, chunk: bytes) -> None:
        """Count the line ends of a chunk that does not end between CR and LF."""
        crlf = chunk.count(b"\r\n") if b"\r" in chunk else 0
        self.crlf += crlf
        self.lf += chunk.count(b"\n") - crlf
        self.cr += chunk.count(b"\r") - crlf if b"\r" in chunk else 0

    @property
    def ends_differ(self) -> bool:
        """True if line ends are of several kinds, as in files joined from two systems; DuckDB reads one kind."""
        return sum(map(bool, (self.crlf, self.lf, self.cr))) > 1


def as_utf8(name: str, plain: Path, copy: Path, findings: Findings) -> Path:
    """Return a file with the text of `plain` in UTF-8: itself where it is so already, else `copy`.

    Args:
        name: Display name of the file.
        plain: File as delivered.
        copy: File to write if need be.
        findings: Receives the encoding, unless it is UTF-8.

    Raises:
        UserError: The file begins with the mark of an encoding in which it cannot be decoded.
    """
    with plain.open("rb") as handle:
        start = handle.read(CHUNK)
    encoding = marked_encoding(start)
    shown, equal_ends = "", bool(encoding)
    if not encoding:
        found = evidence(plain)
        if found.is_legacy:
            encoding = "cp1252" if decodes(plain, "cp1252") else "latin-1"
            shown = f", such as {found.first.decode(encoding)!r}"
        equal_ends = found.ends_differ or (found.cr > 0 and not found.lf + found.crlf)
        if found.ends_differ:
            findings.note(f"{name} has line ends of several kinds, which are read alike.")
    if not encoding and not equal_ends:
        return plain
    told = SHOWN_NAMES.get(encoding, encoding.upper())
    if encoding:
        findings.encodings[name] = told
        findings.note(f"{name} is not UTF-8: it is read as {told}{shown}.")
    try:
        transcode(plain, copy, encoding or "utf-8", equal_ends)
    except UnicodeError as error:
        raise UserError(f"{name} begins like {told} and cannot be decoded: save it as UTF-8.") from error
    return copy


def first_text(plain: Path) -> str:
    """Return the first characters of a file, by the encoding that its first bytes show, without a mark."""
    with plain.open("rb") as handle:
        start = handle.read(4096)
    return start.decode(marked_encoding(start) or "utf-8-sig", errors="replace").removeprefix("\ufeff")


def marked_encoding(start: bytes) -> str:
    """Return the encoding that the first bytes of a file show, empty if none: a mark, or the zeros of UTF-16."""
    for mark, encoding in MARKS:
        if start.startswith(mark):
            return encoding
    sample = start[:4096]
    zeros = sample[0::2].count(0), sample[1::2].count(0)
    if len(sample) >= 8 and max(zeros) > 0.4 * len(sample) and min(zeros) == 0:
        return "utf-16-be" if zeros[0] else "utf-16-le"
    return ""


def evidence(plain: Path) -> Evidence:
    """Judge the lines of a file that are not ASCII, the first MOST_LINES_JUDGED of them, and count all line ends."""
    found = Evidence()
    with plain.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            if not chunk.isascii() or chunk.endswith(b"\r"):
                chunk += handle.readline(CHUNK)
            found.count_ends(chunk)
            if chunk.isascii() or found.is_judged:
                continue
            for line in chunk.splitlines():
                if not line.isascii():
                    judge(line, found)
    return found


def judge(line: bytes, found: Evidence) -> None:
    """Count one line that is not ASCII."""
    line = line.removeprefix(codecs.BOM_UTF8)
    try:
        line.decode()
    except UnicodeDecodeError:
        cells = [cell for cell in CELL_ENDS.split(line) if not cell.isascii()]
        if all(map(WORD.search, cells)):
            found.words += 1
            found.first = found.first or cells[0][:60]
        else:
            found.damaged += 1
    else:
        found.utf8 += not line.isascii()


def decodes(plain: Path, encoding: str) -> bool:
    """Return whether a file can be decoded."""
    try:
        with plain.open(encoding=encoding, newline="") as text:
            while text.read(CHUNK):
                pass
    except UnicodeDecodeError:
        return False
    return True


def transcode(plain: Path, copy: Path, encoding: str, equal_ends: bool) -> None:
    """Write a file anew in UTF-8 without a mark.

    Args:
        plain: File to read.
        copy: File to write.
        encoding: Encoding of `plain`; undecodable bytes of UTF-8 stay as they are.
        equal_ends: True to make every line end LF.
    """
    errors = "surrogateescape" if encoding == "utf-8" else "strict"
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(errors), translate=equal_ends)
    first = True
    with plain.open("rb") as incoming, copy.open("wb") as outgoing:
        while chunk := incoming.read(CHUNK):
            text = decoder.decode(chunk)
            outgoing.write((text.removeprefix("\ufeff") if first else text).encode(errors=errors))
            first = first and not text
        outgoing.write(decoder.decode(b"", final=True).encode(errors=errors))
