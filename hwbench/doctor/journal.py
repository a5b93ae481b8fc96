"""What has to be put back, on disk before anything is changed; and the lock that allows one change at a time.

Both lie in ``run/hwbench`` under the root, because the settings belong to the machine and not to a user, and because
``/run`` is forgotten at a boot just as they are. The lock is held by a process that has changed something, and ends
with it however it ends: a journal without a holder is one that was left behind.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from hwbench.errors import DeviceError
from hwbench.files import read_record, write_record
from hwbench.records.changes import JOURNAL_SCHEMA, Journal

_FOLDER = "run/hwbench"


def journal_path(root: Path) -> Path:
    """Return where the journal of the machine under ``root`` is, whether there is one or not."""
    return root / _FOLDER / "restore.json"


def read_journal(root: Path) -> Journal | None:
    """Return what has to be put back, None when nothing has.

    Raises:
        StorageError: there is a journal, and it cannot be read.
    """
    path = journal_path(root)
    return read_record(path, Journal, schema=JOURNAL_SCHEMA) if path.exists() else None


def write_journal(root: Path, journal: Journal) -> None:
    """Write the journal so that it survives this process."""
    write_record(journal_path(root), journal)


def remove_journal(root: Path) -> None:
    """Forget the journal: everything is as it was."""
    journal_path(root).unlink(missing_ok=True)


@contextlib.contextmanager
def held(root: Path) -> Iterator[None]:
    """Hold the machine's lock.

    Raises:
        DeviceError: another process holds it, or this one may not write there.
    """
    path = root / _FOLDER / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        msg = f"cannot keep a journal in {path.parent}: {error.strerror}; nothing has been changed"
        raise DeviceError(msg, hint="run it as root (sudo)") from error
    try:
        if not _lock(descriptor, exclusive=True):
            raise at_work()
        yield
    finally:
        os.close(descriptor)


def at_work() -> DeviceError:
    """Return the refusal of a second run beside the first."""
    msg = "another hwbench doctor --apply is at work on this machine; nothing has been changed"
    return DeviceError(msg, hint="wait until its command has ended")


def is_held(root: Path) -> bool:
    """Tell whether a process that has changed something is still there; needs no rights."""
    try:
        descriptor = os.open(root / _FOLDER / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _lock(descriptor, exclusive=False)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, exclusive: bool) -> bool:
    import fcntl  # noqa: PLC0415 - not on Windows, where the checks run too

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
