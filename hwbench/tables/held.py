"""How long the threads of this process have waited for a CPU while they could have run.

Linux tells by thread, in nanoseconds (``/proc/self/task/*/schedstat``, the second figure). Elsewhere, and where it is
not told, nothing counts as held up.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType

_TASKS = Path("/proc/self/task")
_LONGEST = 100  # bytes: three figures


class Held:
    """Reads what the threads that are there at the beginning have waited. Use as a context manager."""

    def __init__(self) -> None:
        self._files: list[int] = []

    def __enter__(self) -> Held:
        with contextlib.suppress(OSError):
            for task in sorted(_TASKS.iterdir()):
                with contextlib.suppress(OSError):  # a thread that has ended in between
                    self._files.append(os.open(task / "schedstat", os.O_RDONLY))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            os.close(file)

    def waited_ns(self) -> int:
        """Return the sum over threads since they began."""
        total = 0
        for file in self._files:
            with contextlib.suppress(OSError, IndexError, ValueError):  # a thread that has ended
                total += int(os.pread(file, _LONGEST, 0).split()[1])
        return total
