"""Running the user's command in the foreground, with every signal that would end this process held until it is safe.

The command stays in this process's group, so that it owns the terminal as if it had been started alone, and a Ctrl-C
reaches it directly. Signals are held from before the first change until after the last one is put back: this process
is told of them only while it waits, and passes on those that the command cannot have seen.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence

from hwbench.errors import Interrupted, UsageError

_ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
_HELD = _ENDING | {signal.SIGCHLD}
_FROM_KERNEL = 0x80  # si_code of a signal that a terminal's key sends to the whole group (sigaction(2))
_LOOK_S = 1.0
_KILLED_BY = 128  # a shell's exit code for a command that a signal ended is this and the signal's number


def check_command(command: Sequence[str]) -> None:
    """Refuse a command that cannot be started.

    Raises:
        UsageError: there is no such program.
    """
    if shutil.which(command[0]) is None:
        msg = f"there is no command {command[0]!r}; nothing has been changed"
        raise UsageError(msg, hint="write it as you would without hwbench doctor, after --")


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold the signals that would end this process; those that arrive meanwhile are dropped at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        while signal.sigtimedwait(_HELD, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run(command: Sequence[str]) -> int:
    """Run ``command`` to its end and return its exit code; call it inside :func:`signals_held`.

    Raises:
        Interrupted: a signal came before the command could be started.
        UsageError: the system cannot start it.
    """
    if signal.sigtimedwait(_ENDING, 0) is not None:
        msg = "stopped before the command was started"
        raise Interrupted(msg)
    try:
        process = subprocess.Popen(command, preexec_fn=_let_signals_in)  # noqa: PLW1509 - one thread, and only a mask
    except OSError as error:
        msg = f"the command cannot be started: {error}"
        raise UsageError(msg) from error
    while process.poll() is None:
        told = signal.sigtimedwait(_HELD, _LOOK_S)
        if told is not None and told.si_signo in _ENDING and told.si_code != _FROM_KERNEL:
            process.send_signal(told.si_signo)
    code = process.returncode
    return code if code >= 0 else _KILLED_BY - code


def _let_signals_in() -> None:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would raise here, before the command
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
