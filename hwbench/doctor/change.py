"""Changing files of the system and putting them back, each step read back to see that it took.

Either all changes are made or none is: what can be known beforehand is checked before the first one, and when one fails
all the same, those before it are put back.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import hwbench
from hwbench.doctor import journal
from hwbench.errors import DeviceError
from hwbench.records.changes import JOURNAL_SCHEMA, Change, Journal

_AS_ROOT = "run it as root (sudo); in a container, on the host"


@contextlib.contextmanager
def changed(root: Path, changes: Sequence[Change], command: Sequence[str]) -> Iterator[None]:
    """Make ``changes``, and put everything back when the block ends, however it ends.

    Raises:
        DeviceError: a change cannot be made, and none was; or, at the end, a value could not be put back.
    """
    if not changes:  # needs no rights; and what another run has changed would not stay so
        refuse_another(root)
        _refuse_left_over(root)
        yield
        return
    _check_permitted(root, changes)
    with journal.held(root):
        _refuse_left_over(root)
        _refuse_changed_meanwhile(root, changes)
        journal.write_journal(
            root,
            Journal(
                schema_version=JOURNAL_SCHEMA,
                hwbench=hwbench.__version__,
                created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                command=tuple(command),
                changes=tuple(changes),
            ),
        )
        try:
            for change in changes:
                _make(root, change)
            yield
        finally:
            _put_back(root, changes)
            journal.remove_journal(root)


def refuse_another(root: Path) -> None:
    """Refuse while another run is at work: before the machine is looked at, which shows that run's settings.

    Raises:
        DeviceError: it is.
    """
    if journal.is_held(root):
        raise journal.at_work()


def restore(root: Path) -> tuple[list[Change], list[Change]] | None:
    """Put back what a killed run left; return what was put back and what was left alone, None where nothing was left.

    A value that is no longer the one that was set was set by somebody else since, or by a boot: it is left alone.

    Raises:
        DeviceError: that run is still at work, or a value cannot be put back; the journal stays.
    """
    if not journal.journal_path(root).exists():
        return None
    with journal.held(root):
        left = journal.read_journal(root)
        if left is None:
            return None
        done = _put_back(root, left.changes, only_ours=True)
        journal.remove_journal(root)
        return done


def _refuse_left_over(root: Path) -> None:
    if journal.read_journal(root) is not None:
        msg = "an earlier hwbench doctor --apply was killed, and its changes are still there"
        raise DeviceError(msg, hint="put them back first: sudo hwbench doctor --restore")


def _refuse_changed_meanwhile(root: Path, changes: Sequence[Change]) -> None:
    """Refuse a plan whose values are no longer there: what it calls «before» may be another run's, put back since."""
    for change in changes:
        if _read(root, change) != change.before:
            raise DeviceError(f"/{change.path} has changed meanwhile; nothing has been changed", hint="run it again")


def _check_permitted(root: Path, changes: Sequence[Change]) -> None:
    for change in changes:
        path = root / change.path
        if not _permitted(path, change):
            msg = f"{change.setting} may not be changed by this user (/{change.path}); nothing has been changed"
            raise DeviceError(msg, hint=_AS_ROOT)


def _permitted(path: Path, change: Change) -> bool:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return False
    if change.kind == "mode":
        return os.geteuid() in {0, path.stat().st_uid}
    return os.access(path, os.W_OK)


def _make(root: Path, change: Change) -> None:
    if change.after is None:
        return
    reason = _write(root, change, change.after)
    if reason:
        msg = f"{change.setting} could not be set: {reason}; what had been changed is put back"
        raise DeviceError(msg, hint="leave it out of --apply, or see the kernel's log: dmesg | tail")


def _put_back(root: Path, changes: Sequence[Change], *, only_ours: bool = False) -> tuple[list[Change], list[Change]]:
    """Put back, last change first, and go on after a failure; return what was and, with ``only_ours``, what was not.

    Each value is looked at when its turn comes: files of a CPU that was taken away are there again only after ``smt``.
    """
    moved, foreign, failures = [], [], []
    for change in reversed(changes):
        now = _read(root, change)
        if now == change.before:
            continue
        if only_ours and now != change.after and change.after is not None:
            foreign.append(change)
        elif reason := _write(root, change, change.before):
            failures.append((reason, change))
        else:
            moved.append(change)
    if failures:
        msg = f"not everything could be put back: {'; '.join(reason for reason, _ in failures)}"
        by_hand = "\n".join(_by_hand(change) for _, change in failures)
        raise DeviceError(msg, hint=f"try hwbench doctor --restore, or by hand:\n{by_hand}")
    return moved, foreign


def _by_hand(change: Change) -> str:
    if change.kind == "mode":
        return f"sudo chmod {change.before} /{change.path}"
    return f"echo {change.before} | sudo tee /{change.path}"


def _read(root: Path, change: Change) -> str | None:
    path = root / change.path
    try:
        if change.kind == "mode":
            return f"{stat.S_IMODE(path.stat().st_mode):04o}"
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _write(root: Path, change: Change, value: str) -> str | None:
    """Write a value and read it back; return what went wrong, None when nothing did."""
    path = root / change.path
    try:
        if change.kind == "mode":
            path.chmod(int(value, 8))
        else:
            descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
            try:
                os.write(descriptor, value.encode())
            finally:
                os.close(descriptor)
    except OSError as error:
        return f"/{change.path} does not take {value}: {error.strerror}"
    now = _read(root, change)
    return None if now == value else f"/{change.path} says {now} after {value} was written"
