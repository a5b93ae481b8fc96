"""A precision plan, written down as the typed ONNX graph that TensorRT is given.

TensorRT 11 builds strongly typed networks alone, TensorRT for RTX too, and 10 can: what a tensor's type is in the graph
is what is computed in. So precision is written into the graph:

1. ``tensorrt_graph`` reads the float graph, in the opset that its types want.
2. ``tensorrt_legal`` says what each layer can have; here it is settled what it gets.
3. ``tensorrt_quantize`` writes pairs of QuantizeLinear and DequantizeLinear.
4. ``tensorrt_halves`` makes the rest fp16 or bf16, but for what ``tensorrt_islands`` keeps in fp32.

TensorRT 8 has no strong types, and no Q/DQ in half precision. It gets a graph in fp32 with the pairs (``typed=False``)
and the builder flags in ``weak_flags``, and chooses by itself what else is computed in half.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args

import onnx_ir as ir

from hwbench.engines.tensorrt_graph import check_zero_points, range_of, read, save
from hwbench.engines.tensorrt_halves import HALVES, to_half
from hwbench.engines.tensorrt_islands import Islands, islands
from hwbench.engines.tensorrt_legal import Capability, Carrier, Flavour, carriers, refused, slow
from hwbench.engines.tensorrt_quantize import Pairs, averages, residual_inputs
from hwbench.engines.tensorrt_sparse import eligible_for_2_4
from hwbench.errors import Unsupported
from hwbench.protocols import LowerRequest
from hwbench.quantize.nvidia import legal, named, refused_operators
from hwbench.records.base import Missing
from hwbench.records.model import Model
from hwbench.records.quantization import LoweredLayer, PrecisionPlan, Scheme, TensorRange
from hwbench.sparse.apply import apply_kernels
from hwbench.sparse.onnx_kernels import Lacks

_QUANTISED: Final = frozenset({"int8", "fp8"})  # schemes whose products are computed in them
_OPSETS: Final[Mapping[str, int]] = {"int8": 13, "int8-weights": 13, "fp8": 19, "int4-weights": 21}
_OPSET_OF_HALF_SCALES: Final = 19
_AUTO: Final = "fp16"
_TYPED_ONLY: Final = frozenset({"fp8", "int4-weights", "int8-weights"})
_WEAK: Final = {"fp16": ("FP16",), "bf16": ("BF16",)}


@dataclass(frozen=True, kw_only=True)
class TypedGraph:
    """A graph for TensorRT's parser, and what its builder is to be told.

    ``files``: of the folder, the first the graph. ``arithmetic``: of most multiply-adds; ``floating``: of what is not
    quantised (fp32, tf32, fp16, bf16). ``flags``: names of ``BuilderFlag`` that are wanted in every version, ``TF32``
    and ``SPARSE_WEIGHTS``; TF32 is on by default, and must be cleared where it is not named. ``weak_flags``: what a
    network without strong types (8.x) needs besides. ``eligible``: layers whose weights are 2:4.
    ``kernels``: of :mod:`hwbench.sparse`, by the layer that they take the place of.
    """

    files: tuple[str, ...]
    layers: tuple[LoweredLayer, ...]
    arithmetic: str
    floating: str
    flags: tuple[str, ...]
    weak_flags: tuple[str, ...]
    opset: int
    eligible: tuple[str, ...] = ()
    kernels: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What is known when it is settled what a layer gets."""

    engine: Flavour
    plan: PrecisionPlan
    kind: str  # what floats become in the graph: fp32, fp16, bf16
    ranges: Mapping[str, TensorRange]
    islands: Islands


def lower_graph(
    request: LowerRequest,
    *,
    capability: Capability,
    flavour: Flavour,
    typed: bool = True,
    no_kernels: Missing | None = None,
    lacks: Lacks | None = None,
) -> TypedGraph:
    """Write the plan down as ``model.onnx`` (and ``model.onnx.data`` where it is large) in ``request.folder``.

    Args:
        request: the float graph, the plan, the ranges.
        capability: the compute capability that it is for, as (8, 9).
        flavour: the builder that will get it.
        typed: for strongly typed networks; otherwise for TensorRT 8.
        no_kernels: why that builder takes no sparse kernels; then layers that were to have one are lowered as others.
        lacks: why one kernel cannot be had for the GPU and its driver; the same of its layers.

    Raises:
        Unsupported: the architecture has no such arithmetic, the plan names a layer that cannot have what it asks, or
            no layer can have the default.
        ModelError: the graph cannot be read.
    """
    plan = request.plan
    floating = _floating(request, capability, flavour)
    _check_plan(plan, capability, flavour, typed=typed)
    kind = floating if floating in HALVES and typed else "fp32"
    model = read(Path(request.files.folder) / request.files.runtime_graph, opset=_opset(request, kind))
    check_zero_points(model.graph)
    applied = apply_kernels(model, plan, compute_capability=capability, without=no_kernels, lacks=lacks)
    ranges = {} if request.calibration is None else request.calibration.tensors
    wide = islands(model.graph, kind, ranges, refused=_no_half(kind)) if kind in HALVES else {}
    found = list(carriers(model.graph))
    case = _Case(engine=flavour, plan=plan, kind=kind, ranges=ranges, islands=wide)
    layers = _decided(found, case)
    _check_products(model.graph, wide, kind, capability, flavour)
    eligible = eligible_for_2_4(model.graph) if legal(capability, flavour)["2:4"] is None else ()
    got = {layer.layer: layer.got for layer in layers}
    extra = _quantised(model.graph, found, got, case, prequantised=typed)
    if kind in HALVES:
        to_half(model, kind, wide)
    return TypedGraph(
        files=save(model, request.folder),
        layers=layers,
        arithmetic=_arithmetic(request.model, got, floating),
        floating=floating,
        flags=(*(("TF32",) if floating == "tf32" else ()), *(("SPARSE_WEIGHTS",) if eligible else ())),
        weak_flags=(*_WEAK.get(floating, ()), *(("INT8",) if "int8" in got.values() else ())),
        opset=model.opset_imports[""],
        eligible=eligible,
        kernels={layer: kernel.name for layer, kernel in applied.kernels.items()},
        notes=(*applied.notes, *_notes_on_types(plan, floating, kind, wide, typed=typed), *extra),
    )


def _floating(request: LowerRequest, capability: Capability, flavour: Flavour) -> str:
    """Return what is computed in where nothing is quantised; ``auto``: fp16, or what the model is written in."""
    asked, own = request.plan.floating, request.model.arithmetic
    if asked == "auto":
        asked_or_own = own if own in HALVES else _AUTO
        missing = legal(capability, flavour)[asked_or_own]  # type: ignore[index]
        if missing is None or missing.code == "not_a_target":
            return _checked(asked_or_own, capability, flavour)
        return _checked("fp32", capability, flavour)
    if own in {*HALVES, "fp64"} and asked != own:
        raise Unsupported(
            f"{flavour} was asked for {asked}, and the model is written in {own}",
            hint="--precision auto keeps the model's own",
        )
    return _checked(asked, capability, flavour)


def _checked(word: str, capability: Capability, flavour: Flavour) -> str:
    missing = legal(capability, flavour)[word]  # type: ignore[index]
    if missing is not None:
        raise Unsupported(f"{flavour} cannot build in {word}: {missing.why}", hint=missing.cure)
    return word


def _check_plan(plan: PrecisionPlan, capability: Capability, flavour: Flavour, *, typed: bool) -> None:
    schemes = {plan.default, *plan.layers.values()} - {"float"}
    for scheme in sorted(schemes):
        _checked(scheme, capability, flavour)
        if scheme in _TYPED_ONLY and not typed:
            raise Unsupported(f"TensorRT 8 cannot build in {scheme}", hint="it came with TensorRT 10; int8 is there")
    if schemes >= _QUANTISED and flavour == "tensorrt":
        raise Unsupported("tensorrt cannot have int8 and fp8 in one network", hint="give all layers one of the two")


def _opset(request: LowerRequest, kind: str) -> int:
    """Return the opset that the types of the pairs want, those that the model brings among them."""
    schemes = {request.plan.default, *request.plan.layers.values()} - {"float"}
    wanted = max((_OPSETS[scheme] for scheme in schemes), default=1)
    pairs = schemes or {"QuantizeLinear", "DequantizeLinear"} & {layer.op for layer in request.model.layers}
    return max(wanted, _OPSET_OF_HALF_SCALES) if pairs and kind in HALVES else wanted


def _no_half(kind: str) -> tuple[str, ...]:
    """Return the operators that no builder is known to take in bf16; for fp16 there are none."""
    return tuple(refused_operators("bf16", (8, 9), "tensorrt-rtx")) if kind == "bf16" else ()


def _decided(found: Sequence[Carrier], case: _Case) -> tuple[LoweredLayer, ...]:
    """Return what each layer that the plan wants quantised gets."""
    plan, by_name = case.plan, {carrier.name: carrier for carrier in found}
    for name, scheme in plan.layers.items():
        if scheme != "float" and name not in by_name:
            raise Unsupported(f"{case.engine} cannot build layer '{name}' in {scheme}: it multiplies by no weights")
    layers: list[LoweredLayer] = []
    for carrier in found:
        asked = plan.of(carrier.name)
        if asked == "float":
            continue
        why = _why_not(carrier, asked, case)
        if why is not None and carrier.name in plan.layers:
            raise Unsupported(f"{case.engine} cannot build layer '{carrier.name}' in {asked}: {why}")
        layers.append(LoweredLayer(layer=carrier.name, asked=asked, got=asked if why is None else "float", why=why))
    by_default = [layer for layer in layers if layer.layer not in plan.layers]
    if plan.default != "float" and all(layer.got == "float" for layer in layers):
        reasons = Counter(layer.why for layer in by_default).most_common()
        why = reasons[0][0] if reasons else "it has no layer with weights"
        raise Unsupported(f"{case.engine} can build no layer of this model in {plan.default}: {why}")
    return tuple(layers)


def _why_not(carrier: Carrier, scheme: Scheme, case: _Case) -> str | None:
    is_named = carrier.name in case.plan.layers
    why = refused(carrier, scheme, named=is_named) or (None if is_named else slow(carrier, scheme))
    if why is None and carrier.node in case.islands:
        why = f"it stays in fp32: {case.islands[carrier.node]}"
    if why is None and scheme in _QUANTISED:
        values = [carrier.node.inputs[index] for index in carrier.data]
        lacking = [value.name for value in values if value is not None and range_of(value, case.ranges) is None]
        why = f"calibration found no range for tensor '{lacking[0]}'" if lacking else None
    return why


def _check_products(graph: ir.Graph, wide: Islands, kind: str, capability: Capability, flavour: Flavour) -> None:
    """Refuse what the builder would: matrix products in fp32 on Turing, by TensorRT for RTX."""
    refusals = refused_operators("fp32", capability, flavour)
    stuck = [node for node in graph if node.op_type in refusals and (kind == "fp32" or node in wide)]
    if stuck:
        raise Unsupported(
            f"{flavour} has no {stuck[0].op_type} in fp32 for compute capability {named(capability)}: "
            f"'{stuck[0].name}'" + (f" and {len(stuck) - 1} more" if len(stuck) > 1 else ""),
            hint=f"fp16 is there; {wide[stuck[0]]}" if stuck[0] in wide else "--precision fp16",
        )


def _quantised(
    graph: ir.Graph, found: Sequence[Carrier], got: Mapping[str, Scheme], case: _Case, *, prequantised: bool
) -> list[str]:
    """Write every layer as decided, and what lies between them; return what is to be noted."""
    by_scheme = {
        scheme: {carrier.node for carrier in found if got.get(carrier.name) == scheme} for scheme in get_args(Scheme)
    }
    kept = {name for name, scheme in case.plan.layers.items() if scheme == "float"}
    between: list[tuple[ir.Node, int, Scheme]] = []
    eight_bit: tuple[Scheme, ...] = ("int8", "fp8")
    for scheme in eight_bit:
        between += [(node, index, scheme) for node, index in residual_inputs(graph, by_scheme[scheme], kept)]
    between += [(node, 0, "int8") for node in averages(graph, by_scheme["int8"], kept)]
    pairs = Pairs(graph, case.ranges, case.kind, prequantised=prequantised)
    for carrier in found:
        scheme = got.get(carrier.name, "float")
        if scheme != "float":
            pairs.layer(carrier, scheme)
    written = 0
    for node, index, scheme in between:
        value = node.inputs[index]
        if value is not None and node not in case.islands and range_of(value, case.ranges) is not None:
            pairs.activation(node, index, scheme)
            written += 1
    return [f"{written} additions and averages between quantised layers read integers too"] if written else []


def _arithmetic(model: Model, got: Mapping[str, Scheme], floating: str) -> str:
    """Return in what most multiply-adds are written down; packed weights leave them in floating point."""
    found: Counter[str] = Counter()
    for layer in model.layers:
        if not isinstance(layer.macs, Missing):
            scheme = got.get(layer.name, "float")
            found[scheme if scheme in _QUANTISED else floating] += layer.macs
    return max(sorted(found), key=found.__getitem__) if found else floating


def _notes_on_types(plan: PrecisionPlan, floating: str, kind: str, wide: Islands, *, typed: bool) -> list[str]:
    notes = [f"floats in {floating}, as auto is on a GPU"] if plan.floating == "auto" else []
    if not typed and floating in HALVES:
        notes.append(f"TensorRT 8 chooses for each layer between fp32 and {floating}")
    reasons = Counter(wide.values())
    for why, count in sorted(reasons.items()):
        names = [node.name or "" for node, each in wide.items() if each == why]
        more = f" and {count - 3} more" if count > 3 else ""
        notes.append(f"in fp32, not {kind}, since {why}: {', '.join(names[:3])}{more}")
    return notes
