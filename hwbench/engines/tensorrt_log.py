"""What TensorRT says while it builds: kept line by line, and read for what only the log tells.

TensorRT takes one logger for the life of a process and refuses another, so the logger is one too, and a
:class:`Journal` takes what it is told. A build reads off:

* errors, which TensorRT reports there and nowhere else (a builder returns None, a Runtime looks as if it worked);
* which layers could have 2:4 sparse kernels and which got them: the ``(Sparsity)`` lines (docs.nvidia.com/deeplearning/
  tensorrt, "Sparsity"; written by 8.x to 11.x);
* TensorRT-RTX's ``Layers:`` section, which is the engine inspector's text, and the only one to be had without a GPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOG = "build.log"
_ERRORS = frozenset({"ERROR", "INTERNAL_ERROR"})
_ELIGIBLE = "Layers eligible for sparse math:"
_PICKED = "TRT inference plan picked sparse implementation for layers:"
_LAYERS = "Layers:\n"
_SPARSITY = "(Sparsity)"
_LONGEST = 400


@dataclass(frozen=True, kw_only=True)
class Line:
    """One message: ``severity`` is TensorRT's word, such as ``WARNING``."""

    severity: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """Which layers' weights are 2:4, so that sparse kernels were timed, and which won."""

    eligible: tuple[str, ...]
    picked: tuple[str, ...]


@dataclass
class Journal:
    """Everything a process's logger was told, in order."""

    lines: list[Line] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def logger_for(self, trt: Any) -> Any:
        """Return a logger of the class that this module's builders take."""
        journal = self

        class Logger(trt.ILogger):  # type: ignore[misc]
            """Hands everything on."""

            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                journal.say(str(getattr(severity, "name", severity)), str(message))

        return Logger()

    def say(self, severity: str, text: str) -> None:
        """Take one message."""
        self.lines.append(Line(severity=severity, text=text))
        if severity in _ERRORS:
            self.errors.append(" ".join(text.split())[:_LONGEST])

    def last_error(self) -> str | None:
        """Return the first error since :meth:`forget_errors`: what follows it is mostly its consequence."""
        return self.errors[0] if self.errors else None

    def forget_errors(self) -> None:
        """Start anew: what fails from now on is another matter."""
        self.errors.clear()

    def mark(self) -> int:
        """Return where the journal stands, for :meth:`since`."""
        return len(self.lines)

    def since(self, mark: int) -> tuple[Line, ...]:
        """Return what was said from there on."""
        return tuple(self.lines[mark:])


def write_log(lines: tuple[Line, ...], path: Path) -> None:
    """Write the lines of a build, each with its severity; TensorRT puts no time on them."""
    path.write_text("".join(f"[{line.severity}] {line.text}\n" for line in lines), encoding="utf-8")


def warnings_in(lines: tuple[Line, ...]) -> tuple[str, ...]:
    """Return what TensorRT warned of, each once, in order."""
    return tuple(dict.fromkeys(" ".join(line.text.split())[:_LONGEST] for line in lines if line.severity == "WARNING"))


def sparsity_in(lines: tuple[Line, ...]) -> Sparsity | None:
    """Return what a build with ``SPARSE_WEIGHTS`` said of its layers, or None where it said nothing."""
    texts = [line.text for line in lines if _SPARSITY in line.text]
    if not texts:
        return None
    return Sparsity(eligible=_named(texts, _ELIGIBLE), picked=_named(texts, _PICKED))


def layers_in(lines: tuple[Line, ...]) -> str | None:
    """Return the text of the ``Layers:`` section, one layer a line, or None where there is none."""
    for line in reversed(lines):
        if line.text.startswith(_LAYERS):
            return line.text.removeprefix(_LAYERS).split("\n\n", maxsplit=1)[0].strip()
    return None


def _named(texts: list[str], what: str) -> tuple[str, ...]:
    found: list[str] = []
    for text in texts:
        _, said, names = text.partition(what)
        if said:
            found += [name.strip() for name in re.split(r"[,\n]", names) if name.strip()]
    return tuple(dict.fromkeys(found))
