"""Signals that end a program, made to wait while something is changed or put back in this process.

For work in this process itself; for a command that runs beside it there is :mod:`hwbench.doctor.foreground`. Python
calls handlers in the main thread whichever thread the signal reached, so a mask of the main thread's would not do.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While it is entered, SIGINT, SIGTERM and SIGHUP are ``KeyboardInterrupt``; and only inside :meth:`let_in`.

    One that comes outside of it is raised at the next chance: on going in, or at the end. Enter it in the main thread.
    """

    def __init__(self) -> None:
        self._holding = True
        self._pending = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._came) for number in _ENDING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pending and kind is None:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def let_in(self) -> Iterator[None]:
        """Let signals end the body."""
        try:
            self._holding = False
            if self._pending:
                raise KeyboardInterrupt
            yield
        finally:
            self._holding = True

    def _came(self, _: int, __: FrameType | None) -> None:
        self._pending = True
        if not self._holding:
            self._holding = True
            raise KeyboardInterrupt
