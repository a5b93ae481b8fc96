"""How one kind of change is looked at, made, and told: the protocol, and that of files."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final, Protocol

from hwbench.records.changes import Change

UNTOLD: Final = "untold"
"""What :meth:`Hand.read` returns of a setting that can be made and not be read: it is put back unseen."""

AS_ROOT: Final = "run it as root (sudo); in a container, on the host"


class Hand(Protocol):
    """One kind of change."""

    def read(self, root: Path, change: Change) -> str | None:
        """Return the value now; None where there is nothing to read any more, or :data:`UNTOLD`."""
        ...

    def write(self, root: Path, change: Change, value: str) -> str | None:
        """Set a value; return what went wrong, None when nothing did."""
        ...

    def refusal(self, root: Path, change: Change) -> tuple[str, str] | None:
        """Return why this user may not make the change ("may not be changed by ...") and the cure, None if he may."""
        ...

    def where(self, change: Change) -> str:
        """Return what is changed, in words."""
        ...

    def by_hand(self, change: Change) -> str:
        """Return the command that puts it back without hwbench."""
        ...


class ContentHand:
    """What a file says."""

    def read(self, root: Path, change: Change) -> str | None:
        try:
            return (root / change.path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def write(self, root: Path, change: Change, value: str) -> str | None:
        try:
            descriptor = os.open(root / change.path, os.O_WRONLY | os.O_TRUNC)
            try:
                os.write(descriptor, value.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            return error.strerror or str(error)
        return None

    def refusal(self, root: Path, change: Change) -> tuple[str, str] | None:
        path = root / change.path
        if not _read_only(path) and os.access(path, os.W_OK):
            return None
        return _not_by_this_user(change)

    def where(self, change: Change) -> str:
        return f"/{change.path}"

    def by_hand(self, change: Change) -> str:
        return f"echo {change.before} | sudo tee /{change.path}"


class ModeHand:
    """Who may read a file, in octal."""

    def read(self, root: Path, change: Change) -> str | None:
        try:
            return f"{stat.S_IMODE((root / change.path).stat().st_mode):04o}"
        except OSError:
            return None

    def write(self, root: Path, change: Change, value: str) -> str | None:
        try:
            (root / change.path).chmod(int(value, 8))
        except OSError as error:
            return error.strerror or str(error)
        return None

    def refusal(self, root: Path, change: Change) -> tuple[str, str] | None:
        path = root / change.path
        if not _read_only(path) and os.geteuid() in {0, path.stat().st_uid}:
            return None
        return _not_by_this_user(change)

    def where(self, change: Change) -> str:
        return f"/{change.path}"

    def by_hand(self, change: Change) -> str:
        return f"sudo chmod {change.before} /{change.path}"


def _read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _not_by_this_user(change: Change) -> tuple[str, str]:
    return f"may not be changed by this user (/{change.path})", AS_ROOT
