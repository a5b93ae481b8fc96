"""``perf_event_open`` without the ``perf`` program: three system calls, through ctypes.

A counting event for the whole machine needs few fields of ``struct perf_event_attr`` (include/uapi/linux/perf_event.h):
``type``, ``size`` and ``config``. Its first published size, 64 bytes, holds them, and every kernel takes that. All else
is zero: no sampling, no inheritance, enabled at once.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import Protocol

ATTR_SIZE = 64  # PERF_ATTR_SIZE_VER0
_FLAG_CLOEXEC = 8  # PERF_FLAG_FD_CLOEXEC
_SYSCALL = {"x86_64": 298, "i686": 336, "i386": 336, "aarch64": 241, "riscv64": 241}  # the kernel's syscall tables
_LAYOUT = "=IIQQQQQIIQ"


class PerfCalls(Protocol):
    """The system calls that a counter needs; tests give their own."""

    def open(self, attr: bytes, cpu: int) -> int:
        """Open a counter of all processes on one CPU and return its file.

        Raises:
            OSError: the kernel refuses, with its errno.
        """
        ...

    def read(self, file: int) -> int:
        """Return the count.

        Raises:
            OSError: the counter is in an error state.
        """
        ...

    def close(self, file: int) -> None:
        """Close the counter."""
        ...


def attributes(kind: int, config: int) -> bytes:
    """Return the bytes of ``struct perf_event_attr`` for a counter.

    In order: type, size, config, sample_period, sample_type, read_format, flags, wakeup_events, bp_type, config1.
    """
    return struct.pack(_LAYOUT, kind, ATTR_SIZE, config, 0, 0, 0, 0, 0, 0, 0)


class KernelCalls:
    """The calls of this kernel."""

    def open(self, attr: bytes, cpu: int) -> int:
        number = _SYSCALL.get(platform.machine())
        if number is None:
            raise OSError(errno.ENOSYS, f"the number of perf_event_open on {platform.machine()} is not known")
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall.restype = ctypes.c_long
        buffer = ctypes.create_string_buffer(attr, len(attr))
        everyone, no_group = ctypes.c_int(-1), ctypes.c_int(-1)
        file = int(
            libc.syscall(
                ctypes.c_long(number), buffer, everyone, ctypes.c_int(cpu), no_group, ctypes.c_ulong(_FLAG_CLOEXEC)
            )
        )
        if file < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return file

    def read(self, file: int) -> int:
        text = os.read(file, 8)
        if len(text) != 8:
            raise OSError(f"a counter gave {len(text)} bytes instead of 8")
        return int.from_bytes(text, byteorder=sys.byteorder)

    def close(self, file: int) -> None:
        os.close(file)
