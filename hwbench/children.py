"""Work in a child process: nothing it does to itself (crash, leak, hang, be killed) reaches the parent.

The parent writes ``job.json`` into a folder and starts ``python -m <module> <folder>``. The child answers on its
standard output, one JSON object a line: ``{"event": "progress", ...}``, ``{"event": "error", ...}`` or
``{"event": "done"}``, and leaves ``result.json``. Whatever else it or a runtime inside it prints goes to ``log.txt`` in
the same folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec
import psutil

from hwbench import errors
from hwbench.errors import HwbenchError
from hwbench.files import decode, read_bytes, write_record
from hwbench.records.base import Record
from hwbench.units import format_bytes

J = TypeVar("J", bound=Record)
R = TypeVar("R", bound=Record)

Event = dict[str, Any]
Emit = Callable[[Event], None]

_LOG_TAIL_LINES = 12


def run_child(
    module: str,
    job: Record,
    result: type[R],
    *,
    folder: Path,
    what: str,
    failure: type[HwbenchError],
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> R:
    """Run ``module`` on ``job`` in a process of its own and return its result.

    Args:
        module: a module whose ``__main__`` calls :func:`serve`.
        job: what it is given.
        result: the record type it leaves.
        folder: scratch folder of this child; made if needed. ``log.txt`` stays there.
        what: the work, in words, for error messages (``"onnxruntime fp32"``).
        failure: the error class for a crash or a time-out.
        timeout_s: the longest silence allowed between two events.
        env: variables to add to the child's environment.
        on_event: called with each progress event.

    Raises:
        HwbenchError: what the child raised, raised again here; or ``failure``.
        KeyboardInterrupt: passed on after the child was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / "job.json", job)
    log = folder / "log.txt"
    with log.open("wb") as log_stream:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_stream,
            env={**os.environ, **(env or {}), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
    try:
        error = _follow(process, what=what, timeout_s=timeout_s, failure=failure, on_event=on_event, log=log)
        code = process.wait()
    finally:
        _kill(process)
    if error is not None:
        raise error
    if code != 0:
        raise failure(f"{what}: {_death(code)}", hint=_log_hint(log))
    return decode(read_bytes(folder / "result.json"), result, what=f"the result of {what}")


def _follow(
    process: subprocess.Popen[bytes],
    *,
    what: str,
    timeout_s: float,
    failure: type[HwbenchError],
    on_event: Callable[[Event], None] | None,
    log: Path,
) -> HwbenchError | None:
    """Read events until the child closes its end; return the error it reported, if any."""
    assert process.stdout is not None
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    reported: HwbenchError | None = None
    while True:
        try:
            line = lines.get(timeout=timeout_s)
        except queue.Empty:
            msg = f"{what}: no sign of life for {timeout_s:g} s; the process was stopped"
            return failure(msg, hint=f"--timeout raises the limit. {_log_hint(log)}")
        if line is None:
            return reported
        event = msgspec.json.decode(line, type=dict[str, Any])
        if event["event"] == "error":
            reported = errors.by_name(event["type"])(event["message"], hint=event["hint"])
        elif event["event"] == "crash":
            reported = failure(f"{what}: {event['message']}", hint=_log_hint(log))
        elif event["event"] != "done" and on_event is not None:
            on_event(event)


def _pump(stream: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()
    process.wait()


def _death(code: int) -> str:
    if code > 0:
        return f"the process ended with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL":
        available = format_bytes(psutil.virtual_memory().available)
        return f"the process was killed (SIGKILL), most likely for want of memory ({available} are free now)"
    return f"the process crashed with {name}"


def _log_hint(log: Path) -> str:
    tail = "\n    ".join(log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
    return f"its log is {log}" + (f":\n    {tail}" if tail else " (empty)")


def serve(handler: Callable[[J, Path, Emit], Record], job_type: type[J]) -> None:
    """Be the child: read the job, run ``handler``, leave its result. Ends the process on failure."""
    _die_with_parent()
    folder = Path(sys.argv[1])
    with _protocol_stream() as stream:

        def emit(event: Event) -> None:
            stream.write(msgspec.json.encode(event) + b"\n")

        try:
            job = decode(read_bytes(folder / "job.json"), job_type, what="the job")
            write_record(folder / "result.json", handler(job, folder, emit))
        except HwbenchError as error:
            traceback.print_exc()
            emit({"event": "error", "type": type(error).__name__, "message": error.message, "hint": error.hint})
            sys.exit(1)
        except BaseException as error:  # noqa: BLE001 - the boundary: the parent reports it
            traceback.print_exc()
            emit({"event": "crash", "message": f"{type(error).__name__}: {error}"})
            sys.exit(1)
        emit({"event": "done"})


@contextlib.contextmanager
def _protocol_stream() -> Iterator[IO[bytes]]:
    """Take standard output for the protocol; what anybody prints from here on goes to standard error."""
    sys.stdout.flush()
    stream = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    with stream:
        yield stream


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere the closed pipe ends it at its next event."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Throttle:
    """Lets through at most one event per ``period_s``: progress must not disturb what is being timed."""

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self._last = -period_s

    def ready(self) -> bool:
        """Say whether it is time again."""
        now = time.monotonic()
        if now - self._last < self.period_s:
            return False
        self._last = now
        return True
