"""Reading ``/proc`` and ``/sys``, or a recorded copy of them.

Every finder reads through a :class:`Tree`, so a test can hand it the files of another machine. A file that is not
there, or that the kernel refuses to give right now, is None here; the caller turns that into a reason.
"""

from __future__ import annotations

from pathlib import Path

from hwbench.records.base import Missing
from hwbench.resources import sysfs_root


class Tree:
    """The files under one root; paths are relative to it (``proc/cpuinfo``)."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else sysfs_root()

    def text(self, path: str) -> str | None:
        """Return the content without surrounding white space and NULs, or None."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip(" \t\r\n\0")
        except OSError:
            return None

    def integer(self, path: str) -> int | None:
        """Return the content as a whole number, or None when there is none."""
        return as_integer(self.text(path))

    def exists(self, path: str) -> bool:
        """Tell whether there is such a file or folder, and it may be seen."""
        try:
            return (self.root / path).exists()
        except OSError:
            return False

    def glob(self, folder: str, pattern: str) -> list[str]:
        """Return the paths in ``folder`` that match, sorted, relative to the root."""
        try:
            return sorted(f"{folder}/{entry.name}" for entry in (self.root / folder).glob(pattern))
        except OSError:
            return []


def as_integer(text: str | None) -> int | None:
    """Read a whole number, or return None."""
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def cpu_list(text: str | None) -> tuple[int, ...] | None:
    """Read the kernel's list format, ``0-3,8,10-11``; None when there is no text or it is not a list."""
    if text is None:
        return None
    cpus: list[int] = []
    try:
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            cpus.extend(range(int(first), int(last or first) + 1))
    except ValueError:
        return None
    return tuple(sorted(set(cpus)))


def not_shown(what: str, *, virtual: bool, where: str | None = None) -> Missing:
    """Return the reason for a quantity that the kernel does not show.

    Args:
        what: the quantity, as in "the governor".
        virtual: whether this is a virtual machine, where that is to be expected.
        where: the file that would hold it.
    """
    if virtual:
        return Missing(code="not_exposed_in_vm", why=f"a virtual machine is not shown {what}")
    return Missing(code="not_exposed", why=f"the kernel does not show {what}" + (f" ({where})" if where else ""))
