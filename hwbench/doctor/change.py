"""Changing settings of the system and putting them back, each step read back to see that it took.

Either all changes are made or none is: what can be known beforehand is checked before the first one, and when one fails
all the same, those before it are put back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import hwbench
from hwbench.doctor import journal
from hwbench.doctor.gpu_hand import GpuHand
from hwbench.doctor.hands import UNTOLD, ContentHand, Hand, ModeHand
from hwbench.doctor.jetson_hands import JetsonClocksHand, NvpmodelHand
from hwbench.errors import DeviceError
from hwbench.records.changes import JOURNAL_SCHEMA, Change, Journal

HANDS: dict[str, Hand] = {
    "content": ContentHand(),
    "mode": ModeHand(),
    "gpu": GpuHand(),
    "nvpmodel": NvpmodelHand(),
    "jetson_clocks": JetsonClocksHand(),
}


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


def refuse_early(root: Path, changes: Sequence[Change]) -> None:
    """Refuse what :func:`changed` would, as far as it can be known by now.

    Raises:
        DeviceError: another run was killed and has left its changes, or this user may not make these.
    """
    _refuse_left_over(root)
    _check_permitted(root, changes)


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
        hand = hand_of(change)
        if hand.read(root, change) not in {change.before, UNTOLD}:
            msg = f"{hand.where(change)} has changed meanwhile; nothing has been changed"
            raise DeviceError(msg, hint="run it again")


def _check_permitted(root: Path, changes: Sequence[Change]) -> None:
    for change in changes:
        refused = hand_of(change).refusal(root, change)
        if refused is not None:
            why, cure = refused
            raise DeviceError(f"{change.setting} {why}; nothing has been changed", hint=cure)


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
        now = hand_of(change).read(root, change)
        if now == change.before:
            continue
        if only_ours and now not in {change.after, UNTOLD} and change.after is not None:
            foreign.append(change)
        elif reason := _write(root, change, change.before):
            failures.append((reason, change))
        else:
            moved.append(change)
    if failures:
        msg = f"not everything could be put back: {'; '.join(reason for reason, _ in failures)}"
        by_hand = "\n".join(hand_of(change).by_hand(change) for _, change in failures)
        raise DeviceError(msg, hint=f"try hwbench doctor --restore, or by hand:\n{by_hand}")
    return moved, foreign


def hand_of(change: Change) -> Hand:
    """Return what looks at a change and makes it."""
    return HANDS[change.kind]


def _write(root: Path, change: Change, value: str) -> str | None:
    """Set a value and look whether it is there; return what went wrong, None when nothing did."""
    hand = hand_of(change)
    reason = hand.write(root, change, value)
    if reason is not None:
        return f"{hand.where(change)} does not take {value}: {reason}"
    now = hand.read(root, change)
    return None if now in {value, UNTOLD} else f"{hand.where(change)} says {now} after {value} was written"
