"""Writing a network down for LiteRT: hub -> float ``.tflite`` -> each layer in the scheme that the plan gives it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hwbench.engines.edge import installed, refuse_nvidia_only
from hwbench.engines.litert_choose import Choice, Ranges, choose
from hwbench.engines.litert_convert import Converted, convert
from hwbench.engines.litert_quantize import quantized
from hwbench.errors import EngineError, Unsupported
from hwbench.protocols import LowerRequest
from hwbench.records.base import Missing
from hwbench.records.model import Layer
from hwbench.records.quantization import Lowered, PrecisionPlan, Scheme

FILE = "model.tflite"
_EXTRA = "mobile-convert"

_HALF = (
    "weights are stored in 16-bit floating point and widened when the file is loaded: XNNPACK computes in fp32 on this "
    "processor; GPU delegates and processors with fp16 arithmetic may compute in fp16"
)
_FOUR_BITS = (
    "4-bit weights are multiplied with activations that the runtime rounds to 8 bits as they come: LiteRT has no fast "
    "kernel for 4-bit weights with floating activations"
)
_COMPUTED: dict[Scheme, str] = {
    "float": "fp32",
    "int8": "int8",
    "int8-dynamic": "int8",
    "int8-weights": "fp32",
    "int4-weights": "int8",
}


def lower(request: LowerRequest) -> Lowered:
    """Write the network into ``request.folder`` as one ``.tflite`` file.

    Its inputs and outputs have the hub's names, types and layout; integer arithmetic is inside.

    Raises:
        Unsupported: litert-torch or litert-quantizer is not installed, or the plan asks for what LiteRT has not.
        EngineError: a tool fails, or the converted file does not compute what the network does.
    """
    _require_tools()
    plan = request.plan
    refuse_nvidia_only("litert", plan)
    _require_offered(plan, request.model.layers)
    calibration = request.calibration
    if plan.needs_ranges and calibration is None:
        raise EngineError("LiteRT was asked for int8 layers without ranges", hint="calibrate first")
    folder = Path(request.files.folder)
    with np.load(folder / request.files.inputs) as stored:
        feeds = {name: stored[name] for name in stored.files}
    converted = convert(folder / request.files.runtime_graph, feeds, keep_inputs=plan.needs_ranges)
    ranges = Ranges(converted, {} if calibration is None else calibration.tensors)
    choice = choose(converted, request.model.layers, plan, ranges, request.files.merged)
    (request.folder / FILE).write_bytes(_content(converted, choice, ranges, plan))
    return Lowered(
        files=(FILE,),
        arithmetic=_arithmetic(request.model.layers, choice),
        settings={},
        layers=choice.layers,
        same_bytes=True,
        notes=_notes(plan, choice),
    )


def _require_tools() -> None:
    for package in ("litert-torch", "litert-quantizer"):
        support = installed(package, _EXTRA)
        for reason in support.reasons:
            raise Unsupported(reason.why, hint=reason.cure)


def _require_offered(plan: PrecisionPlan, layers: Sequence[Layer]) -> None:
    if plan.floating == "bf16":
        raise Unsupported("LiteRT has no bf16", hint="fp32 and fp16 are offered")
    unknown = sorted(set(plan.layers) - {layer.name for layer in layers})
    if unknown:
        raise Unsupported(f"the plan names layers that the network has not: {', '.join(unknown[:5])}")


def _content(converted: Converted, choice: Choice, ranges: Ranges, plan: PrecisionPlan) -> bytes:
    half = plan.floating == "fp16"
    if not choice.schemes and not half:
        return converted.graph.to_bytes()
    return quantized(converted.graph, choice.schemes, ranges, half=half)


def _arithmetic(layers: Sequence[Layer], choice: Choice) -> str:
    """Return what most multiply-adds are computed in."""
    got = {layer.layer: layer.got for layer in choice.layers}
    found: Counter[str] = Counter()
    for layer in layers:
        if not isinstance(layer.macs, Missing):
            found[_COMPUTED[got.get(layer.name, "float")]] += layer.macs
    return max(sorted(found), key=found.__getitem__) if found else "fp32"


def _notes(plan: PrecisionPlan, choice: Choice) -> tuple[str, ...]:
    notes = [_HALF] if plan.floating == "fp16" else []
    if any(layer.got == "int4-weights" for layer in choice.layers):
        notes.append(_FOUR_BITS)
    return tuple(notes)
