"""A text file as numbered lines, and refusals that name the line."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hwbench.errors import StorageError
from hwbench.files import read_bytes

DELIMITERS = (",", ";", "\t")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class Line(NamedTuple):
    """One line that is not blank, with its number in the file."""

    number: int
    text: str


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A file of readings. ``finished``: its last line has a line end, so that nothing of it can be missing."""

    path: Path
    sha256: str
    encoding: str
    lines: tuple[Line, ...]
    finished: bool

    def refusal(self, number: int, why: str, hint: str | None = None) -> StorageError:
        """Return the error for a line that cannot be believed."""
        return StorageError(f"line {number} of {self.path}: {why}", hint=hint)

    def whole(self) -> tuple[Line, ...]:
        """Return the lines but for a last one that was not finished: a number in it may lack its end."""
        return self.lines if self.finished else self.lines[:-1]

    @property
    def flags(self) -> tuple[str, ...]:
        return () if self.finished else ("last_line_dropped",)


def read_text(path: Path) -> TextFile:
    """Read a file of text: UTF-8 or UTF-16 with or without its mark, else Windows-1252; any line ends.

    Raises:
        StorageError: it cannot be read, is empty, or is no text.
    """
    data = read_bytes(path)
    encoding = _encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise StorageError(f"{path} is no text: {error}", hint="export the readings as CSV") from error
    if "\0" in text:
        raise StorageError(f"{path} is no text: it holds zero bytes", hint="export the readings as CSV")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = tuple(Line(i, line.strip()) for i, line in enumerate(text.split("\n"), start=1) if line.strip())
    if not lines:
        raise StorageError(f"{path} is empty", hint="give the file that the meter's software wrote")
    return TextFile(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        encoding=encoding,
        lines=lines,
        finished=text.endswith("\n"),
    )


def _encoding(data: bytes) -> str:
    if data.startswith(_UTF16):
        return "utf-16"
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


def delimiter_of(file: TextFile, header: Line) -> str:
    """Return what parts the cells: the one of comma, semicolon and tab that the header has most of.

    Raises:
        StorageError: the header has none of them.
    """
    found = max(DELIMITERS, key=header.text.count)
    if header.text.count(found) == 0:
        hint = "the first line must name the columns, parted by comma, semicolon or tab"
        raise file.refusal(header.number, f"'{header.text[:60]}' has one column only", hint)
    return found


def split(file: TextFile, line: Line, delimiter: str) -> list[str]:
    """Return the cells of a line, without quotes and spaces around them."""
    try:
        cells = next(csv.reader([line.text], delimiter=delimiter, strict=True, skipinitialspace=True))
    except csv.Error as error:
        raise file.refusal(line.number, f"{error}") from error
    return [cell.strip() for cell in cells]


def rows_of(file: TextFile, lines: Sequence[Line], delimiter: str, width: int) -> list[tuple[int, list[str]]]:
    """Return the cells of each line; one cell more is let pass when it is empty (a delimiter at the end).

    Raises:
        StorageError: a line has another number of cells than the header.
    """
    rows: list[tuple[int, list[str]]] = []
    for line in lines:
        cells = split(file, line, delimiter)
        if len(cells) == width + 1 and not cells[-1]:
            cells.pop()
        if len(cells) != width:
            why = f"it has {len(cells)} cells, and the header has {width}"
            hint = "a decimal comma needs another delimiter than the comma" if delimiter == "," else None
            raise file.refusal(line.number, why, hint)
        rows.append((line.number, cells))
    return rows
