"""The floating-point arithmetic that designs are planned in, told by the baselines."""

from __future__ import annotations

from hwbench import plugins
from hwbench.optimization_pipeline.proposer import Given
from hwbench.protocols import Builds, Engine
from hwbench.records.quantization import Floating

_FLOATS: dict[Floating, tuple[str, ...]] = {
    "auto": ("auto", "fp16"), "bf16": ("bf16",), "tf32": ("tf32",), "fp32": ("fp32",),
}  # fmt: skip


def floating_for(known: Given) -> Floating:
    """Return the arithmetic of what is not quantised: ``auto``, unless its baseline is no candidate on a GPU.

    There ``auto`` is fp16 for what was written in fp32. Where that falls too far with every engine that quantises, the
    next of bf16, tf32 and fp32 is taken that does not; where none is good enough, designs in ``auto`` may say why.
    """
    if known.target.device.kind not in {"nvidia", "jetson"}:
        return "auto"
    own = known.imported.model.arithmetic
    counting = {each.precision for each in known.baselines if each.counts and _quantises(each.engine)}
    for floating, words in _FLOATS.items():
        if counting & {*words, *([own] if floating == "auto" and own != "fp32" else [])}:
            return floating
    return "auto"


def _quantises(name: str) -> bool:
    engine: Engine = plugins.load("engines", name)
    return isinstance(engine, Builds) and "int8" in engine.schemes
