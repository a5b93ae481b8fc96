"""Work in a child process: nothing it does to itself (crash, leak, hang, be killed) reaches the parent.

The parent writes ``job.json`` into a folder and starts ``python -m <module> <folder>``. The child answers on its
standard output, one JSON object a line: ``{"event": "progress", ...}``, ``{"event": "error", ...}`` or
``{"event": "done"}``, and leaves ``result.json``. Whatever else it or a runtime inside it prints goes to ``log.txt`` in
the same folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
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
from hwbench.errors import HwbenchError, StorageError
from hwbench.files import decode, read_bytes, write_record
from hwbench.records.base import Record
from hwbench.units import MonotonicClock, format_bytes

J = TypeVar("J", bound=Record)
R = TypeVar("R", bound=Record)

Event = dict[str, Any]
Emit = Callable[[Event], None]

_LOG_TAIL_LINES = 12
_LOG_TAIL_BYTES = 64 * 1024
_LOOK_S = 0.5  # how often to see whether a silent child is still there
_GRACE_S = 0.2  # for the last words of one that is not
_SPAWNED = "HWBENCH_SPAWNED_NS"
_EXIT_S = 5.0  # for a child to end by itself after its last word
_FAULT = "Fatal Python error:"  # where faulthandler begins
_FAULT_BEFORE, _FAULT_AFTER = 8, 6  # lines of the log around it: the runtime's last words, the call that fell
_FOREIGN = "code of a runtime or a driver"
_CRASHES = {
    "SIGSEGV": f"{_FOREIGN} reached for memory that is not there",
    "SIGBUS": f"{_FOREIGN} reached for memory that is gone, as when a mapped file or shared memory is too small",
    "SIGABRT": f"{_FOREIGN} found something wrong with itself and gave up",
    "SIGILL": f"{_FOREIGN} has instructions that this CPU lacks",
    "SIGFPE": f"{_FOREIGN} divided by zero",
}
_ACCESS_VIOLATION = 0xC0000005  # as Windows calls SIGSEGV


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
        timeout_s: the longest silence allowed between two events; what the child prints counts as a sign of life too,
            as long as it has not begun to serve.
        env: variables to add to the child's environment.
        on_event: called with each progress event.

    Raises:
        HwbenchError: what the child raised, raised again here; or ``failure``.
        KeyboardInterrupt: passed on after the child was killed.
    """
    answer, log = folder / "result.json", folder / "log.txt"
    write_record(folder / "job.json", job)
    _remove(answer)  # an earlier child's, which must not be taken for this one's
    _remove(log)
    with log.open("ab") as log_stream:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_stream,
            env={
                **os.environ,
                **(env or {}),
                "PYTHONUNBUFFERED": "1",
                "PYTHONSAFEPATH": "1",
                _SPAWNED: str(MonotonicClock().now_ns()),
            },
            start_new_session=True,
        )
    try:
        last = _follow(process, timeout_s=timeout_s, on_event=on_event, log=log)
    finally:
        kill_group(process)
    if last is None:
        msg = f"{what}: no sign of life for {timeout_s:g} s; the process was stopped"
        raise failure(msg, hint=f"--timeout raises the limit. {log_hint(log)}")
    if last["event"] == "error":
        raise errors.by_name(last["type"])(last["message"], hint=last["hint"])
    if last["event"] == "crash":
        raise failure(f"{what}: {last['message']}", hint=log_hint(log))
    if last["event"] == "died":
        phase = f" (in phase '{last['phase']}')" if last["phase"] else ""
        raise failure(f"{what}: {death(process.returncode)}{phase}", hint=log_hint(log))
    return decode(read_bytes(answer), result, what=f"the result of {what}")


def _follow(
    process: subprocess.Popen[bytes], *, timeout_s: float, on_event: Callable[[Event], None] | None, log: Path
) -> Event | None:
    """Pass events on until the child says its last word, and return that; None after ``timeout_s`` of silence.

    How it ends after its last word does not matter: runtimes crash or hang while they are torn down. A child that ends
    without one has ``died``, also where something it started still holds the other end of the pipe.
    """
    assert process.stdout is not None
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=pump, args=(process.stdout, lines), daemon=True).start()
    heard, phase = time.monotonic(), None
    while True:
        ended = process.poll() is not None  # asked before the queue is, so that its last words are in there
        try:
            line = lines.get(timeout=_GRACE_S if ended else min(timeout_s, _LOOK_S))
        except queue.Empty:
            if ended:
                return {"event": "died", "phase": phase}
            if time.monotonic() - heard >= timeout_s:
                return None
            continue
        if line is None:
            return _end(process, timeout_s, phase)
        heard = time.monotonic()
        event = _event(line)
        if event is None:
            with log.open("ab") as noise:  # printed before the child had taken its standard output for itself
                noise.write(line)
        elif event["event"] in {"done", "error", "crash"}:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_EXIT_S)
            return event
        else:
            phase = event.get("phase", phase)
            if on_event is not None:
                on_event(event)


def _end(process: subprocess.Popen[bytes], timeout_s: float, phase: str | None) -> Event | None:
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None
    return {"event": "died", "phase": phase}


def _event(line: bytes) -> Event | None:
    """Return the event that a line holds, or None when it is something else."""
    try:
        event = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return event if "event" in event else None


def pump(stream: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    """Put the lines of a stream into a queue, and None at its end."""
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot replace {path}: {error.strerror or error}") from error


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()
    process.wait()


def death(code: int) -> str:
    """Say in words how a process ended that returned ``code``."""
    if code == _ACCESS_VIOLATION:
        return f"the process crashed: {_CRASHES['SIGSEGV']}"
    if code >= 0:
        return f"the process ended with status {code} and without a result"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL":
        available = format_bytes(psutil.virtual_memory().available)
        return f"the process was killed (SIGKILL), most likely for want of memory ({available} are free now)"
    return f"the process crashed with {name}" + (f": {_CRASHES[name]}" if name in _CRASHES else "")


def log_hint(log: Path) -> str:
    """Say where a child's log is, with its last lines; of a crash, those before it and the call that fell."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        text = stream.read().decode(errors="replace")
    lines = text.splitlines()
    fault = next((number for number, line in enumerate(lines) if line.startswith(_FAULT)), None)
    around = (
        slice(-_LOG_TAIL_LINES, None) if fault is None else slice(max(0, fault - _FAULT_BEFORE), fault + _FAULT_AFTER)
    )
    tail = "\n    ".join(lines[around])
    return f"its log is {log}" + (f":\n    {tail}" if tail else " (empty)")


def serve(handler: Callable[[J, Path, Emit], Record], job_type: type[J]) -> None:
    """Be the child: read the job, run ``handler``, leave its result. Ends the process on failure."""
    _die_with_parent()
    faulthandler.enable(all_threads=False)  # a crash leaves in the log which call it was
    folder = Path(sys.argv[1])
    with _protocol_stream() as stream:

        def emit(event: Event) -> None:
            stream.write(msgspec.json.encode(event) + b"\n")

        try:
            job = decode(read_bytes(folder / "job.json"), job_type, what="the job")
            write_record(folder / "result.json", handler(job, folder, emit))
        except HwbenchError as error:
            traceback.print_exc()
            emit({"event": "error", "type": _known_type(error), "message": error.message, "hint": error.hint})
            sys.exit(1)
        except BaseException as error:  # noqa: BLE001 - the boundary: the parent reports it
            traceback.print_exc()
            emit({"event": "crash", "message": f"{type(error).__name__}: {error}"})
            sys.exit(1)
        emit({"event": "done"})


def _known_type(error: HwbenchError) -> str:
    """Return the name of the nearest class that the parent knows: a plugin may raise a subclass of its own."""
    return next(cls.__name__ for cls in type(error).__mro__ if cls.__module__ == errors.__name__)


@contextlib.contextmanager
def _protocol_stream() -> Iterator[IO[bytes]]:
    """Take standard output for the protocol; what anybody prints from here on goes to standard error."""
    sys.stdout.flush()
    stream = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    with stream:
        yield stream


def thread_limits(threads: int) -> dict[str, str]:
    """Return the environment that holds the thread pools of a child's libraries to ``threads``."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def spawned_ns() -> int:
    """Return when the parent started this child, by ``time.perf_counter_ns``: one clock for all processes.

    In a process that no parent started so, the time is now.
    """
    return int(os.environ.get(_SPAWNED, MonotonicClock().now_ns()))


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
