"""A child process that is kept alive and asked, one question at a time.

It starts like any other child (:mod:`hwbench.children`: job in a file, events on its standard output, a log for the
rest) and serves the same way; its handler calls :func:`questions` and answers each with :func:`answer`. A question is
one JSON object a line on its standard input, an answer an event ``{"event": "answer", "body": ...}``. When the parent
closes that pipe, the handler returns its record and the child ends as usual.

A crash, an error or silence beyond the limit raises here; leaving the ``with`` block, on Ctrl-C too, kills the child
and whatever it started.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from hwbench import errors
from hwbench.children import Emit, death, kill_group, log_hint, pump
from hwbench.errors import HwbenchError
from hwbench.files import decode, read_bytes, write_record
from hwbench.records.base import Record

Q = TypeVar("Q", bound=Record)
A = TypeVar("A", bound=Record)

_LOOK_S = 0.5  # how often to see whether a silent child is still there
_EXIT_S = 5.0  # for a child to end by itself after its last word


class Dialogue:
    """The parent's end. Use as a context manager."""

    def __init__(
        self,
        module: str,
        job: Record,
        *,
        folder: Path,
        what: str,
        failure: type[HwbenchError],
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Start ``module``; the arguments are those of :func:`hwbench.children.run_child`."""
        write_record(folder / "job.json", job)
        (folder / "result.json").unlink(missing_ok=True)
        self._folder, self._what, self._failure, self._timeout_s = folder, what, failure, timeout_s
        self._on_event = on_event
        self._log = folder / "log.txt"
        with self._log.open("wb") as log_stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_stream,
                env={**os.environ, **(env or {}), "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"},
                start_new_session=True,
            )
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=pump, args=(self._process.stdout, self._lines), daemon=True).start()

    def __enter__(self) -> Dialogue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kill_group(self._process)
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def hear(self, kind: type[A]) -> A:
        """Wait for the next answer.

        Raises:
            HwbenchError: what the child raised, raised again here; or ``failure``.
        """
        event = self._next("answer")
        return msgspec.convert(event["body"], type=kind)

    def ask(self, question: Record, kind: type[A]) -> A:
        """Ask and wait for the answer; raises like :meth:`hear`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: what it said last is in the queue
            self._process.stdin.write(msgspec.json.encode(question) + b"\n")
            self._process.stdin.flush()
        return self.hear(kind)

    def finish(self, kind: type[A]) -> A:
        """Let the child end and return the record it leaves; raises like :meth:`hear`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._next("done")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_S)
        return decode(read_bytes(self._folder / "result.json"), kind, what=f"the result of {self._what}")

    def _next(self, wanted: str) -> dict[str, Any]:
        heard = time.monotonic()
        while True:
            try:
                line = self._lines.get(timeout=min(_LOOK_S, self._timeout_s))
            except queue.Empty:
                if time.monotonic() - heard >= self._timeout_s:
                    msg = f"{self._what}: no sign of life for {self._timeout_s:g} s; the process was stopped"
                    raise self._failure(msg, hint=f"--timeout raises the limit. {log_hint(self._log)}") from None
                if self._process.poll() is None or not self._lines.empty():
                    continue
                line = None
            if line is None:
                raise self._died()
            heard = time.monotonic()
            event = _event(line)
            if event.get("event") == wanted:
                return event
            self._raise_reported(event)
            if event and self._on_event is not None:
                self._on_event(event)

    def _raise_reported(self, event: dict[str, Any]) -> None:
        if event.get("event") == "error":
            raise errors.by_name(event["type"])(event["message"], hint=event["hint"])
        if event.get("event") == "crash":
            raise self._failure(f"{self._what}: {event['message']}", hint=log_hint(self._log))

    def _died(self) -> HwbenchError:
        try:
            code = self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            return self._failure(f"{self._what}: the process closed its end without an answer")
        return self._failure(f"{self._what}: {death(code)}", hint=log_hint(self._log))


def _event(line: bytes) -> dict[str, Any]:
    """Return the event a line holds; nothing for what a library printed before the child took its output over."""
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def questions(kind: type[Q]) -> Iterator[Q]:
    """Yield the parent's questions, in the child, until the parent closes the pipe."""
    for line in sys.stdin.buffer:
        yield decode(line, kind, what="a question")


def answer(emit: Emit, body: Record) -> None:
    """Answer, in the child."""
    emit({"event": "answer", "body": msgspec.to_builtins(body)})
