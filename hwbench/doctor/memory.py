"""Memory and disk: whether there is enough, and whether the kernel moves it about."""

from __future__ import annotations

import re
import shutil

from hwbench.doctor.answers import cannot_tell, info, ok, warning
from hwbench.doctor.subject import Subject
from hwbench.records.base import Missing
from hwbench.records.health import HealthCheck
from hwbench.units import format_bytes

_LEAST_MEMORY_BYTES = 2 * 2**30
_LEAST_DISK_BYTES = 2**30
_HUGE_PAGES = "sys/kernel/mm/transparent_hugepage/enabled"
_ASLR = "proc/sys/kernel/randomize_va_space"


def memory_available(subject: Subject) -> HealthCheck:
    """Check that a model fits without swapping."""
    available = subject.host.memory_available_bytes
    text = f"{format_bytes(available)} of memory available"
    limit = Missing(code="none", why="") if isinstance(subject.device, Missing) else subject.device.memory_limit_bytes
    if not isinstance(limit, Missing):
        text += f"; the control group may use {format_bytes(limit)}"
        available = min(available, limit)
    if available >= _LEAST_MEMORY_BYTES:
        return ok("memory", text, available_bytes=available)
    return warning(
        "memory",
        text,
        "a runtime with its model may not fit: swapping, or an end by the kernel",
        "close other programs, or raise the limit",
        available_bytes=available,
    )


def swap(subject: Subject) -> HealthCheck:
    """Check that nothing is swapped out."""
    name, text = "swap", subject.tree.text("proc/meminfo") or ""
    sizes = {
        key: int(size) * 1024 for key, size in re.findall(r"^(SwapTotal|SwapFree):\s*(\d+) kB", text, re.MULTILINE)
    }
    if len(sizes) < 2:
        return cannot_tell(name, subject.not_shown("swap", "/proc/meminfo"))
    used = sizes["SwapTotal"] - sizes["SwapFree"]
    if not used:
        return ok(name, "no swap in use" if sizes["SwapTotal"] else "no swap")
    return warning(
        name,
        f"{format_bytes(used)} of swap in use",
        "memory was short at some time; what was swapped out comes back by page faults, in the middle of a measurement",
        "with enough memory free: sudo swapoff -a && sudo swapon -a",
        swap_used_bytes=used,
    )


def huge_pages(subject: Subject) -> HealthCheck:
    """Check that pages are not joined behind the program's back."""
    name, text = "huge_pages", subject.tree.text(_HUGE_PAGES)
    chosen = re.search(r"\[(\w+)\]", text or "")
    if chosen is None:
        return cannot_tell(name, subject.not_shown("whether pages are joined", f"/{_HUGE_PAGES}"))
    if chosen[1] != "always":
        return ok(name, f"transparent huge pages: {chosen[1]}")
    return warning(
        name,
        "transparent huge pages: always",
        "whether a buffer gets huge pages depends on how fragmented memory is, so runs differ from process to process",
        f"echo madvise | sudo tee /{_HUGE_PAGES} (lost at the next boot)",
    )


def address_randomisation(subject: Subject) -> HealthCheck:
    """Tell whether the layout of memory changes from process to process."""
    name, value = "aslr", subject.tree.integer(_ASLR)
    if value is None:
        return cannot_tell(name, subject.not_shown("address randomisation", f"/{_ASLR}"))
    if value == 0:
        return info(name, "address randomisation is off: every process has the same layout, good or bad")
    return info(
        name, "address randomisation is on: processes differ a little, so compare several (it protects: keep it)"
    )


def disk(subject: Subject) -> HealthCheck:
    """Check that results can be written."""
    name, folder = "disk", subject.folder
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return cannot_tell(name, Missing(code="unreadable", why=f"{folder} cannot be looked at: {error.strerror}"))
    text = f"{format_bytes(free)} free in {folder}"
    if free >= _LEAST_DISK_BYTES:
        return ok(name, text, free_bytes=free)
    return warning(
        name,
        text,
        "a run exports the model and keeps every sample; on a full disk it ends early",
        "make room, or write elsewhere (-o)",
        free_bytes=free,
    )
