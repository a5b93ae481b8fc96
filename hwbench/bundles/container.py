"""A folder and a zip file, looked at alike: names with sizes, and streams.

Nothing in it is believed: no link is followed, no name leads out, no entry is larger than the file that holds it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from hwbench.bundles.layout import LARGEST, MANIFEST, MOST_FILES, REFUSED, SUFFIX, require_names
from hwbench.errors import ModelError
from hwbench.files import near_names
from hwbench.units import format_bytes

_ENCRYPTED = 0x1
_DAMAGE = (
    zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, KeyError, IndexError,
    struct.error, OverflowError,
)  # fmt: skip
"""What :mod:`zipfile` raises on files that are damaged, or made to hurt."""


class Container(Protocol):
    """What holds a bundle."""

    where: str  # for messages
    sizes: dict[str, int]  # bytes of each file, by its name with ``/``

    def open(self, name: str) -> IO[bytes]:
        """Open a file that is in ``sizes``, for reading."""
        ...


def is_bundle(path: Path) -> bool:
    """Say whether a path looks like a bundle: its suffix, or a folder with a manifest."""
    try:
        return path.suffix.lower() == SUFFIX or (path / MANIFEST).is_file()
    except (OSError, ValueError):  # a name too long, one with a NUL
        return False


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Container]:
    """Open a bundle and check its names and sizes, before anything in it is read.

    Raises:
        ModelError: it is not there, is no folder and no zip file, or could do harm.
    """
    where = f"the bundle '{path}'"
    with contextlib.ExitStack() as held:
        with damage(where):
            container = _container(path, where, held)
        require_names(container.sizes, where)
        yield container


def _container(path: Path, where: str, held: contextlib.ExitStack) -> Container:
    if path.is_dir():
        return _Folder(path, where)
    if not path.exists():
        near = near_names(path, {SUFFIX})
        raise ModelError(f"there is no bundle '{path}'", hint=near or f"looked in {path.parent.resolve()}")
    return _Zip(held.enter_context(zipfile.ZipFile(path)), path.stat().st_size, where)


@contextlib.contextmanager
def damage(where: str) -> Iterator[None]:
    """Say in words that what is being read is damaged."""
    try:
        yield
    except _DAMAGE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ModelError(f"{where} cannot be read: {reason or type(error).__name__}", hint=_DAMAGED) from error


_DAMAGED = "it is damaged or cut short: get it again from where it was built"


def read(container: Container, name: str) -> bytes:
    """Return a whole file, which must be of those with a limit.

    Raises:
        ModelError: it is not there, is too large, or has another size than the container said.
    """
    size = container.sizes.get(name)
    if size is None:
        raise ModelError(f"{container.where} has no {name}", hint=_DAMAGED)
    if size > LARGEST[name]:
        raise ModelError(f"{container.where}: {name} has {format_bytes(size)}: no bundle needs that", hint=REFUSED)
    with damage(container.where), container.open(name) as stream:
        data = stream.read(size + 1)
    if len(data) != size:
        raise ModelError(f"{container.where}: {name} is cut short", hint=_DAMAGED)
    return data


class _Folder:
    """A bundle that lies open."""

    def __init__(self, folder: Path, where: str) -> None:
        self.folder = folder
        self.where = where
        self.sizes = dict(self._walk(folder, ""))

    def _walk(self, folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
        for count, entry in enumerate(sorted(os.scandir(folder), key=lambda entry: entry.name)):
            name = f"{prefix}{entry.name}"
            if count >= MOST_FILES:
                raise ModelError(f"{self.where} holds more than {MOST_FILES} files in one folder", hint=REFUSED)
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from self._walk(folder / entry.name, f"{name}/")
            elif stat.S_ISREG(mode):
                yield name, entry.stat(follow_symlinks=False).st_size
            else:
                raise ModelError(f"{self.where}: {name!a} is a link or no plain file", hint=REFUSED)

    def open(self, name: str) -> IO[bytes]:
        descriptor = os.open(
            self.folder / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        )
        return os.fdopen(descriptor, "rb")


class _Zip:
    """A bundle in one file: stored without compression, so that nothing in it can be larger than it is."""

    def __init__(self, archive: zipfile.ZipFile, size: int, where: str) -> None:
        self.archive = archive
        self.where = where
        self.sizes: dict[str, int] = {}
        entries = archive.infolist()
        if len(entries) > MOST_FILES:
            raise ModelError(f"{where} holds {len(entries)} files", hint=REFUSED)
        for entry in entries:
            self._admit(entry)
        if sum(self.sizes.values()) > size:
            raise ModelError(f"{where} claims more bytes than the file has", hint=REFUSED)

    def _admit(self, entry: zipfile.ZipInfo) -> None:
        name = entry.orig_filename  # zipfile cuts names at NUL and turns separators
        if name in self.sizes:
            raise ModelError(f"{self.where} holds two files called {name!a}", hint=REFUSED)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in {0, stat.S_IFREG}:
            raise ModelError(f"{self.where}: {name!a} is a link or no plain file", hint=REFUSED)
        if entry.flag_bits & _ENCRYPTED:
            raise ModelError(f"{self.where}: {name!a} is encrypted", hint=REFUSED)
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ModelError(
                f"{self.where}: {name!a} is compressed, and a bundle's files are stored as they are",
                hint="unpack it by hand and give the folder, or get it again from where it was built",
            )
        self.sizes[name] = entry.file_size

    def open(self, name: str) -> IO[bytes]:
        return self.archive.open(name)
