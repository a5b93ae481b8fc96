"""The same signals wherever the tests are started: what ``nohup`` or ``&`` had ignored, children would ignore too."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
