"""The runtimes whose arithmetic is known."""

from __future__ import annotations

from hwbench.errors import UsageError
from hwbench.fake_quant.arithmetic import Arithmetic
from hwbench.fake_quant.litert import LiteRt
from hwbench.fake_quant.onnxruntime import OnnxRuntime
from hwbench.fake_quant.openvino import OpenVino

RUNTIMES: dict[str, Arithmetic] = {one.name: one for one in (OnnxRuntime(), OpenVino(), LiteRt())}


def arithmetic(runtime: str) -> Arithmetic:
    """Return the arithmetic of a runtime.

    Raises:
        UsageError: it is not known.
    """
    found = RUNTIMES.get(runtime)
    if found is None:
        raise UsageError(f"the arithmetic of '{runtime}' is not known", hint=f"known: {', '.join(RUNTIMES)}")
    return found
