"""Every error hwbench raises on purpose, and the exit code each one ends with.

    HwbenchError
    ├── UsageError            2   the request itself is wrong: a flag, a shape, an unknown name
    ├── ModelError            3   the model cannot be read, exported or understood
    ├── DeviceError           3   the device is not here, or not reachable
    ├── EngineError           3   a runtime is missing, refused the model, failed or crashed
    │   └── Unsupported       3   the engine does not offer what was asked: nothing failed
    ├── PluginError           3   a plugin is unknown, registered twice or does not import
    ├── StorageError          3   a file of ours cannot be read or written
    ├── InvalidMeasurement    4   there are numbers, and they must not be believed
    └── Interrupted         130   Ctrl-C; what was finished has been saved

A message says what was asked and what was there; ``hint`` says what to do about it. Anything that is
not an ``HwbenchError`` is a bug in hwbench or in a plugin, and keeps its traceback.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_GOAL_MISSED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3
EXIT_INVALID = 4
EXIT_INCONCLUSIVE = 5
EXIT_INTERRUPTED = 130


class HwbenchError(Exception):
    """Base of all deliberate errors."""

    exit_code: ClassVar[int] = EXIT_UNAVAILABLE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(HwbenchError):
    """The request is wrong: an unknown name, a shape that does not fit, two flags that exclude each other."""

    exit_code = EXIT_USAGE


class ModelError(HwbenchError):
    """The model cannot be read, exported or understood."""


class DeviceError(HwbenchError):
    """The device is not here, or cannot be reached."""


class EngineError(HwbenchError):
    """A runtime is not installed, refused the model, failed while running, or crashed."""


class Unsupported(EngineError):
    """The engine does not offer what was asked of it, such as a precision. Nothing failed."""


class PluginError(HwbenchError):
    """A plugin is not registered, is registered twice, or does not import."""


class StorageError(HwbenchError):
    """A file that hwbench reads or writes is missing, corrupt, too new, or the disk is full."""


class InvalidMeasurement(HwbenchError):
    """A measurement was taken and must not be believed."""

    exit_code = EXIT_INVALID


class Interrupted(HwbenchError):
    """The user stopped the run; finished parts were saved."""

    exit_code = EXIT_INTERRUPTED


def by_name(name: str) -> type[HwbenchError]:
    """Return the error class called ``name``; used to raise again, here, what a child process raised."""
    todo: list[type[HwbenchError]] = [HwbenchError]
    for cls in todo:
        if cls.__name__ == name:
            return cls
        todo.extend(cls.__subclasses__())
    return HwbenchError
