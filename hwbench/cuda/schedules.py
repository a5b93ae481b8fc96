"""How a thread waits for the GPU, as flags of the context (``CUctx_flags``, cuda.h)."""

from __future__ import annotations

from typing import Final

from hwbench.cuda.api import Schedule
from hwbench.errors import EngineError

_MASK: Final = 0x07  # CU_CTX_SCHED_MASK
FLAGS: Final[dict[Schedule, int]] = {"spin": 0x01, "yield": 0x02, "block": 0x04}
NON_BLOCKING: Final = 1  # CU_STREAM_NON_BLOCKING
THREAD_LOCAL: Final = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_BLOCKING_SYNC, _NO_TIMING = 0x1, 0x2  # CU_EVENT_BLOCKING_SYNC, CU_EVENT_DISABLE_TIMING


def with_schedule(flags: int, schedule: Schedule) -> int:
    """Return the flags of a context with that schedule in place of theirs."""
    return (flags & ~_MASK) | FLAGS[schedule]


def event_flags(schedule: Schedule, *, timing: bool) -> int:
    """Return the flags of an event: whoever waits for it waits as the context does."""
    return (_BLOCKING_SYNC if schedule == "block" else 0) | (0 if timing else _NO_TIMING)


def require_schedule(flags: int, schedule: Schedule) -> None:
    """Check that the context is as asked: another library may have made it before, and it cannot always be changed.

    Raises:
        EngineError: it is not.
    """
    if flags & _MASK == FLAGS[schedule]:
        return
    there = next((name for name, flag in FLAGS.items() if flag == flags & _MASK), "auto")
    raise EngineError(
        f"the context of the GPU was to wait by '{schedule}', and something in this process opened it with '{there}'",
        hint="open it through hwbench.cuda before torch or another library does",
    )
