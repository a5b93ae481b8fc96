"""Memory of this process, as Linux counts it.

Resident set: ``VmRSS`` of ``/proc/self/status``. Proportional set, shared pages by share: ``Pss`` of
``/proc/self/smaps_rollup``. High-water mark: ``VmHWM``, which writing ``5`` to ``/proc/self/clear_refs`` sets back to
the present RSS, so that each phase gets a peak of its own. All in proc(5), which warns that the first and the last lag
by some pages per CPU: good to a megabyte or so. Everything takes an optional ``root`` in place of ``/``;
``HWBENCH_SYSFS_ROOT`` does not apply, because a process must look at itself.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from hwbench.records.base import Missing
from hwbench.records.measurement import Memory

_SLASH = Path("/")
_NOT_RECORDED = Missing(code="not_recorded", why="this phase was not reached")


def rss_bytes(root: Path = _SLASH) -> int | Missing:
    """Return the resident set of this process, shared pages counted whole."""
    return _field_bytes(root / "proc/self/status", "VmRSS")


def pss_bytes(root: Path = _SLASH) -> int | Missing:
    """Return the proportional set of this process. Walks its page tables: not for a timed loop."""
    return _field_bytes(root / "proc/self/smaps_rollup", "Pss")


def peak_rss_bytes(root: Path = _SLASH) -> int | Missing:
    """Return the highest RSS since :func:`reset_peak`, or since the start of the process."""
    return _field_bytes(root / "proc/self/status", "VmHWM")


def lifetime_peak_rss_bytes() -> int | Missing:
    """Return ``ru_maxrss``: the highest RSS of the life of this process; on Linux it may be its parent's.

    :func:`reset_peak` sets it back too, where it works. It survives ``exec``: the child of a large process starts with
    the peak of the copy it was forked as.
    """
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return Missing(code="no_getrusage", why="this operating system has no getrusage")
    kib = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kib


def reset_peak(root: Path = _SLASH) -> bool:
    """Set the high-water mark back to the present RSS; say whether that was possible."""
    try:
        handle = os.open(root / "proc/self/clear_refs", os.O_WRONLY)
    except OSError:
        return False
    try:
        os.write(handle, b"5")
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.close(handle)
    return True


class MemoryTrack:
    """Follows a worker through its phases; call the methods in this order, each once.

    Where the peak cannot be set back, it belongs to a phase only if it rose in it; otherwise that phase's peak is
    Missing (``peak_not_resettable``): it is somewhere below one from before.
    """

    def __init__(self, root: Path = _SLASH) -> None:
        self.root = root
        self._baseline: tuple[int | Missing, int | Missing] = (_NOT_RECORDED, _NOT_RECORDED)
        self._loaded: tuple[int | Missing, int | Missing] = (_NOT_RECORDED, _NOT_RECORDED)
        self._peak_load: int | Missing = _NOT_RECORDED
        self._before: int | Missing | None = None  # high-water mark at the start of the phase; None before any
        self._resets: list[bool] = []

    def baseline(self) -> None:
        """The runtime is imported and nothing else; loading starts."""
        self._baseline = (rss_bytes(self.root), pss_bytes(self.root))
        self._start_phase()

    def loaded(self) -> None:
        """The model is compiled."""
        self._peak_load = self._phase_peak()
        self._loaded = (rss_bytes(self.root), pss_bytes(self.root))

    def start_run(self) -> None:
        """Inference starts."""
        self._start_phase()

    def finish(self, model_file_bytes: int) -> Memory:
        """Inference is over; return what was seen."""
        return Memory(
            baseline_rss_bytes=self._baseline[0],
            baseline_pss_bytes=self._baseline[1],
            loaded_rss_bytes=self._loaded[0],
            loaded_pss_bytes=self._loaded[1],
            peak_load_rss_bytes=self._peak_load,
            peak_run_rss_bytes=self._phase_peak(),
            model_file_bytes=model_file_bytes,
            method=f"VmRSS of /proc/self/status; Pss of /proc/self/smaps_rollup; peaks: {self._peak_method()}",
        )

    def _start_phase(self) -> None:
        self._resets.append(reset_peak(self.root) and not isinstance(peak_rss_bytes(self.root), Missing))
        self._before = self._peak()

    def _phase_peak(self) -> int | Missing:
        if self._before is None:
            return _NOT_RECORDED
        peak = self._peak()
        if isinstance(peak, Missing) or isinstance(self._before, Missing):
            return peak
        if self._resets[-1] or peak > self._before:
            return peak
        return Missing(
            code="peak_not_resettable",
            why=f"the high-water mark ({self._before} bytes) is older than this phase and cannot be set back",
            cure="Linux needs CONFIG_PROC_PAGE_MONITOR for /proc/self/clear_refs",
        )

    def _peak(self) -> int | Missing:
        peak = peak_rss_bytes(self.root)
        return lifetime_peak_rss_bytes() if isinstance(peak, Missing) else peak

    def _peak_method(self) -> str:
        if isinstance(peak_rss_bytes(self.root), Missing):
            return "ru_maxrss, of the whole life of the process, taken only where it rose in the phase"
        if all(self._resets):
            return "VmHWM, set back at the start of each phase (/proc/self/clear_refs)"
        return "VmHWM, which could not be set back, taken only where it rose in the phase"


def _field_bytes(path: Path, name: str) -> int | Missing:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        why = f"{path} cannot be read: {error.strerror or error}"
        return Missing(code="no_procfs", why=why, cure="memory is counted on Linux only")
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        if key == name:
            number, _, unit = rest.strip().partition(" ")
            if number.isdecimal() and unit == "kB":
                return int(number) * 1024  # the kernel writes kB and means KiB
    return Missing(code="no_such_field", why=f"{path} has no usable {name}")
