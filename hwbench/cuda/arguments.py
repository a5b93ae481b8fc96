"""Arguments of kernels and arrays to copy, as the backends want them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from hwbench.cuda.api import Address, Argument
from hwbench.errors import EngineError

_INT32 = range(-(1 << 31), 1 << 31)


def as_bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the memory of an array as bytes: element types such as bfloat16 have no buffer of their own.

    Raises:
        ValueError: it is not contiguous, so its bytes are not those of its elements in order.
    """
    if not array.flags.c_contiguous:
        raise ValueError("only contiguous arrays can be copied to or from a GPU")
    return array.reshape(-1).view(np.uint8)


def letters(arguments: Sequence[Argument]) -> str:
    """Return the types in the letters of :mod:`struct`: ``P`` an address, ``i`` an int32, ``f`` a float32.

    Raises:
        EngineError: an integer that is no address does not fit 32 bits.
    """
    return "".join(_letter(argument, number) for number, argument in enumerate(arguments))


def _letter(argument: Argument, number: int) -> str:
    if isinstance(argument, Address):
        return "P"
    if isinstance(argument, float):
        return "f"
    if argument not in _INT32:
        raise EngineError(
            f"argument {number} of the kernel is {argument}, which is no int32",
            hint="an address goes in as hwbench.cuda.api.Address",
        )
    return "i"


_BOXES: dict[str, Any] = {"P": ctypes.c_uint64, "i": ctypes.c_int32, "f": ctypes.c_float}


class Packed:
    """Arguments in memory, and an array of pointers to them, as ``cuLaunchKernel`` takes them."""

    def __init__(self, arguments: Sequence[Argument]) -> None:
        types = letters(arguments)
        self._values = [_BOXES[letter](argument) for letter, argument in zip(types, arguments, strict=True)]
        self._pointers = (ctypes.c_void_p * len(self._values))(*[ctypes.addressof(value) for value in self._values])

    @property
    def address(self) -> int:
        """Of the array of pointers; it lives as long as this."""
        return ctypes.addressof(self._pointers)
