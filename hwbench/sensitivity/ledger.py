"""What has been run, a line each in a file, so that a run which was killed goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import msgspec

from hwbench.errors import StorageError, UsageError
from hwbench.plan.designs import key_of
from hwbench.records.base import Record
from hwbench.records.planning import Design
from hwbench.records.sensitivity import StitchAnswer

NAME = "evaluated.jsonl"


class Header(Record, frozen=True, kw_only=True):
    """The first line: what the numbers are of."""

    identity: str


class Entry(Record, frozen=True, kw_only=True):
    """One design, run. ``key``: of the design and the number of samples."""

    key: str
    answer: StitchAnswer


class Ledger:
    """Answers by design and number of samples; every new one is written at once."""

    def __init__(self, folder: Path, identity: str, *, resume: bool) -> None:
        """Open the file in ``folder``.

        Raises:
            UsageError: it is to be resumed and holds the numbers of another network, of other data or settings.
            StorageError: it cannot be read or written.
        """
        self.path = folder / NAME
        self.answers: dict[str, StitchAnswer] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines = self.path.read_bytes().splitlines() if resume and self.path.exists() else []
            if lines:
                self._take(lines, identity)
            entries = [Entry(key=key, answer=answer) for key, answer in self.answers.items()]
            anew = self.path.with_suffix(".new")  # a run that is killed here leaves the old file
            anew.write_bytes(b"".join(_line(each) for each in (Header(identity=identity), *entries)))
            anew.replace(self.path)
            self._stream = self.path.open("ab")
        except OSError as error:
            raise StorageError(f"cannot use {self.path}: {error.strerror or error}") from error

    def find(self, design: Design, samples: int) -> StitchAnswer | None:
        """Return what a design was found to lose on so many samples."""
        return self.answers.get(_key(design, samples))

    def enter(self, design: Design, samples: int, answer: StitchAnswer) -> None:
        """Keep an answer.

        Raises:
            StorageError: the disk is full.
        """
        key = _key(design, samples)
        self.answers[key] = answer
        try:
            self._stream.write(_line(Entry(key=key, answer=answer)))
            self._stream.flush()
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _take(self, lines: list[bytes], identity: str) -> None:
        header = None
        with contextlib.suppress(msgspec.DecodeError):
            header = msgspec.json.decode(lines[0], type=Header)
        if header is None or header.identity != identity:
            raise UsageError(
                f"{self.path} holds losses of another network, of other data or settings",
                hint="begin anew: no --resume",
            )
        for line in lines[1:]:
            with contextlib.suppress(msgspec.DecodeError):  # the last one, when the run was killed in it
                entry = msgspec.json.decode(line, type=Entry)
                self.answers[entry.key] = entry.answer


def _line(record: Record) -> bytes:
    return msgspec.json.encode(record) + b"\n"


def _key(design: Design, samples: int) -> str:
    return hashlib.sha256(f"{key_of(design)} {samples}".encode()).hexdigest()[:32]
