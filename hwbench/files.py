"""Records on disk: JSON with a version, an upgrade path from older files, and a refusal of newer ones.

Writing is atomic: a reader sees the old file or the new one, never half of one, and a full disk leaves the old one.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hwbench.errors import StorageError
from hwbench.records.base import Record

T = TypeVar("T", bound=Record)

RESULT = "result.json"  # in the folder of one run
REQUEST = "request.json"

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)  # the last: an int beyond floats

Migration = Callable[[dict[str, Any]], dict[str, Any]]


def encode(record: Record, *, indent: int = 1) -> bytes:
    """Return ``record`` as JSON text.

    Raises:
        StorageError: it holds text that is no Unicode, such as a file name in another encoding.
    """
    try:
        return msgspec.json.format(msgspec.json.encode(record), indent=indent)
    except UnicodeEncodeError as error:
        text = ascii(error.object)
        msg = f"a {type(record).__name__} cannot be written as JSON: {text[:200]} is not valid Unicode"
        raise StorageError(msg, hint="rename the file") from error


def decode(data: bytes, kind: type[T], *, what: str) -> T:
    """Read a record that has no version of its own; ``what`` names it in an error."""
    try:
        return msgspec.json.decode(data, type=kind)
    except _UNREADABLE as error:
        msg = f"{what} is not a valid {kind.__name__}: {error}"
        raise StorageError(msg) from error


def read_record(path: Path, kind: type[T], *, schema: int, migrations: Mapping[int, Migration] | None = None) -> T:
    """Read a versioned record.

    Args:
        path: the file.
        kind: the record type; it has a field ``schema_version``.
        schema: the version this hwbench writes.
        migrations: ``{n: f}`` where ``f`` turns the decoded JSON of version n into that of version n + 1.

    Raises:
        StorageError: the file is missing, not JSON, from a newer hwbench, or does not fit ``kind``.
    """
    return parse_record(read_bytes(path), kind, schema=schema, migrations=migrations, what=str(path))


def parse_record(
    data: bytes, kind: type[T], *, schema: int, migrations: Mapping[int, Migration] | None = None, what: str
) -> T:
    """Like :func:`read_record`, for bytes already read."""
    try:
        raw = msgspec.json.decode(data)
    except _UNREADABLE as error:
        msg = f"{what} is not JSON: {error}"
        raise StorageError(msg, hint="the file is damaged or not one of hwbench's") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        msg = f"{what} has no schema_version: it is not a {kind.__name__} file"
        raise StorageError(msg)
    if version > schema:
        msg = f"{what} was written by a newer hwbench (format {version}; this one reads up to {schema})"
        raise StorageError(msg, hint="upgrade hwbench to read it")
    while version < schema:
        step = (migrations or {}).get(version)
        if step is None:
            msg = f"{what} has format {version}, and there is no upgrade from it to {schema}"
            raise StorageError(msg)
        try:
            raw = step(raw)
        except (LookupError, TypeError, ValueError, AttributeError) as error:  # a step trusts the format it reads
            msg = f"{what} is not a valid file of format {version}: {type(error).__name__}: {error}"
            raise StorageError(msg, hint="the file is damaged") from error
        version += 1
        raw["schema_version"] = version
    try:
        return msgspec.convert(raw, type=kind)
    except _UNREADABLE as error:
        msg = f"{what} is not a valid {kind.__name__}: {error}"
        raise StorageError(msg) from error


def read_bytes(path: Path) -> bytes:
    """Read a whole file, or say why not."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _storage_error("read", path, error) from error


def write_record(path: Path, record: Record) -> None:
    """Write ``record`` as JSON, atomically."""
    write_bytes(path, encode(record) + b"\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically, making its folder if needed.

    A path that exists and is no regular file (``/dev/stdout``, a pipe) is written directly.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise _storage_error("write", path, error) from error


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def near_names(path: Path, suffixes: Collection[str] = ()) -> str | None:
    """Return "did you mean ...?" with what lies beside a path that is not there and bears a similar name.

    Only files with one of ``suffixes`` (lower case), where there are any. None where there is nothing like it, or its
    folder cannot be looked into.
    """
    try:
        entries = {
            entry.name.lower(): entry.name
            for entry in path.parent.iterdir()
            if not suffixes or entry.suffix.lower() in suffixes
        }
    except OSError:
        return None
    near = [entries[name] for name in difflib.get_close_matches(path.name.lower(), sorted(entries), n=3)]
    return f"did you mean {' or '.join(str(path.with_name(name)) for name in near)}?" if near else None


def _storage_error(verb: str, path: Path, error: OSError) -> StorageError:
    hint = near_names(path) if isinstance(error, FileNotFoundError) else None
    return StorageError(f"cannot {verb} {path}: {error.strerror or error}", hint=hint)
