"""The runtimes whose arithmetic is known, or how they round."""

from __future__ import annotations

from hwbench.errors import UsageError
from hwbench.fake_quant.arithmetic import Arithmetic, Rounds
from hwbench.fake_quant.litert import LiteRt
from hwbench.fake_quant.onnxruntime import OnnxRuntime
from hwbench.fake_quant.openvino import OpenVino
from hwbench.fake_quant.tensorrt import TensorRt

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


def rounding(runtime: str) -> Rounds:
    """Return how a runtime rounds: of those above, and of ``tensorrt``.

    Raises:
        UsageError: it is not known.
    """
    return TensorRt() if runtime == TensorRt.name else arithmetic(runtime)
