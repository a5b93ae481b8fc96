"""Hashes of files, and the one that names an artefact."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

from hwbench.errors import StorageError

_CHUNK = 1 << 20


def file_sha256(*paths: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal, or of several as if they were one."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            update([digest], stream)
    return digest.hexdigest()


def artefact_sha256(folder: Path, files: Sequence[str]) -> str:
    """Return the hash of an engine: over its files in order of name, each after its name and length.

    ``name NUL length NUL bytes`` for each, the name in UTF-8 with ``/`` between its parts, the length in decimal. So it
    does not depend on where the engine lies, and no other set of files has the same.
    """
    digest = hashlib.sha256()
    for name in sorted(files):
        path = folder / name
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as stream:
            update([digest], stream)
    return digest.hexdigest()


class Hash(Protocol):
    """Of :mod:`hashlib`."""

    def update(self, data: bytes, /) -> None: ...


def update(digests: Sequence[Hash], stream: IO[bytes], sink: IO[bytes] | None = None) -> int:
    """Feed a stream to hashes, and to ``sink`` where there is one; return how many bytes it had.

    Raises:
        StorageError: ``sink`` cannot be written.
    """
    size = 0
    while chunk := stream.read(_CHUNK):
        for digest in digests:
            digest.update(chunk)
        size += len(chunk)
        if sink is not None:
            try:
                sink.write(chunk)
            except OSError as error:
                raise StorageError(f"cannot write {sink.name}: {error.strerror or error}") from error
    return size
