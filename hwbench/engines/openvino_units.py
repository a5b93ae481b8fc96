"""What OpenVINO really built, read back from its executable graph: units, precisions, the layers they stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

from hwbench.graph.members import assign_members
from hwbench.records.base import Missing
from hwbench.records.measurement import BuiltLayer
from hwbench.records.model import Model, ModelFiles

if TYPE_CHECKING:
    import openvino as ov

NAMES = {
    "float32": "fp32",
    "f32": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "f16": "fp16",
    "float64": "fp64",
    "f64": "fp64",
    "i8": "int8",
    "u8": "int8",
}
_SUFFIXES = ("/DequantizationMultiply", "_original", "/WithoutBiases")
_FLOATING = frozenset({"f32", "f16", "bf16"})


def hint_of(compiled: ov.CompiledModel) -> str:
    """Return the precision that OpenVINO settled on for what is not quantised."""
    hint = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
    return NAMES.get(hint, hint)


def units_of(
    compiled: ov.CompiledModel, model: Model, files: ModelFiles, executed: Container[str] | None = None
) -> list[BuiltLayer]:
    """Return every unit of the executable graph, in order; what does not run (constants, views) has no members.

    Which ran, only a profile tells (``executed``, by name). Without it those count that have a primitive, which
    leaves out some that OpenVINO runs in code of its own (loops, transposes).
    """
    nodes = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = info_of(node)
        if info.get("layerType") not in {"Const", "Input", "Output", None}:
            nodes.append((node, info))
    anchors = [_anchors(node, info) if _runs(node, info, executed) else [] for node, info in nodes]
    members = assign_members(model.layers, files.merged, anchors)
    return [
        BuiltLayer(
            name=node.get_friendly_name(),
            op=info["layerType"],
            members=belongs,
            kernel=info.get("primitiveType") or Missing(code="not_told", why="OpenVINO names no primitive"),
            precision=_precision_of(node, info, compiled),
        )
        for (node, info), belongs in zip(nodes, members, strict=True)
    ]


def dominant(units: Sequence[BuiltLayer], model: Model) -> str | None:
    """Return the precision with the most multiply-adds, or None where no unit has any."""
    macs = {layer.name: 0 if isinstance(layer.macs, Missing) else layer.macs for layer in model.layers}
    weighed: Counter[str] = Counter()
    for unit in units:
        if isinstance(unit.precision, str):
            weighed[unit.precision] += sum(macs[name] for name in unit.members)
    weighed = +weighed
    return weighed.most_common(1)[0][0] if weighed else None


def info_of(node: Any) -> dict[str, str]:
    """Return what the executable graph tells of a node."""
    return {key: text_of(value) for key, value in node.get_rt_info().items()}


def text_of(value: Any) -> str:
    """Return a property of OpenVINO as text."""
    value = getattr(value, "value", value)
    name = getattr(value, "get_type_name", None)
    return str(name() if callable(name) else value)


def constant_bytes(node: Any) -> int:
    """Return the size of a constant of the executable graph; 0 for any other node."""
    if info_of(node).get("layerType") != "Const":
        return 0
    count = 1
    for length in node.get_output_shape(0):
        count *= length
    return (count * node.get_output_element_type(0).bitwidth + 7) // 8 if count else 0


def _runs(node: Any, info: dict[str, str], executed: Container[str] | None) -> bool:
    if executed is not None:
        return node.get_friendly_name() in executed
    return not info.get("primitiveType", "").startswith("unknown")


def _precision_of(node: Any, info: dict[str, str], compiled: ov.CompiledModel) -> str | Missing:
    """Return the precision a unit computes in.

    A product with compressed weights is told as that of its weights. It computes in floating point, unless the plugin
    quantises the other factor on the fly: which it does where DYNAMIC_QUANTIZATION_GROUP_SIZE is not 0 and the common
    axis is no shorter.
    """
    told = info.get("runtimePrecision")
    if not told:
        return Missing(code="not_told", why="OpenVINO names no precision")
    if info["layerType"] == "FullyConnected" and told not in _FLOATING:
        factor = node.input_value(0)
        if factor.get_element_type().get_type_name() in _FLOATING:
            group = int(compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE"))
            return "int8" if 0 < group <= factor.get_shape()[-1] else hint_of(compiled)
    return NAMES.get(told, told)


def _anchors(node: Any, info: dict[str, str]) -> list[str]:
    original = [part.strip() for part in info.get("originalLayersNames", "").split(",")]
    return [_source_name(part) for part in (*original, node.get_friendly_name()) if part]


def _source_name(name: str) -> str:
    """Return a node's name without what OpenVINO's reader and its low precision transformations put behind it."""
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name
