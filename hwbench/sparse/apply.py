"""A precision plan's kernels put into the graph that an engine is lowering, and told of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from hwbench.records.base import Missing
from hwbench.records.quantization import PrecisionPlan
from hwbench.sparse.formats import Packed
from hwbench.sparse.manifest import Kernel, load_manifest
from hwbench.sparse.onnx_kernels import Lacks, Replaced, replace_with_kernels
from hwbench.units import format_bytes

NO_PLUGINS = Missing(
    code="no_plugins",
    why="TensorRT-RTX has no plugins",
    cure="use TensorRT, or run the layer outside the engine (hwbench.sparse.launch)",
)


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What came of a plan's kernels.

    ``notes`` tell of each layer of the plan, as an engine's :class:`~hwbench.records.quantization.Lowered` has them.
    ``packed`` holds the weights of those with a kernel; those in ``left_dense`` are for the engine to lower as the rest
    of the plan says.
    """

    packed: Mapping[str, Packed]
    kernels: Mapping[str, Kernel]
    left_dense: Mapping[str, Missing]
    notes: tuple[str, ...]


def apply_kernels(
    model: ir.Model,
    plan: PrecisionPlan,
    *,
    compute_capability: tuple[int, int],
    without: Missing | None = None,
    lacks: Lacks | None = None,
    kernels: Mapping[str, Kernel] | None = None,
) -> Applied:
    """Replace, in place, the layers of a plan that have kernels; say of the others why they stay dense.

    Args:
        model: the float graph, with inferred shapes, before anything in it is quantised.
        plan: whose ``kernels`` are wanted; one without them changes nothing.
        compute_capability: of the GPU that the engine is for.
        without: why the runtime has no plugins at all, such as :data:`NO_PLUGINS`; then every layer stays dense.
        lacks: why one kernel cannot be had for the GPU and its driver; by default each can.
        kernels: of a manifest; by default that of hwbench.

    Raises:
        UsageError: the graph has no such layer, or there is no such format or kernel.
    """
    if not plan.kernels:
        return Applied(packed={}, kernels={}, left_dense={}, notes=())
    if without is not None:
        dense: Mapping[str, Missing] = dict.fromkeys(plan.kernels, without)
        return Applied(packed={}, kernels={}, left_dense=dense, notes=_dense_notes(plan, dense))
    made = replace_with_kernels(
        model,
        plan.kernels,
        kernels=load_manifest() if kernels is None else kernels,
        compute_capability=compute_capability,
        lacks=lacks,
    )
    notes = [_note(name, made, packed) for name, packed in made.packed.items()]
    return Applied(
        packed=made.packed,
        kernels=made.kernels,
        left_dense=made.left_dense,
        notes=(*notes, *_dense_notes(plan, made.left_dense)),
    )


def _note(name: str, made: Replaced, packed: Packed) -> str:
    m, k = packed.shape
    sizes = f"{format_bytes(packed.bytes)} in place of {format_bytes(2 * m * k)} in fp16"
    lowering = made.lowered.get(name)
    if lowering is None:
        moved = ""
    elif lowering.kind == "im2col":
        moved = (
            f"; its patches ({lowering.n} x {lowering.k}) move {format_bytes(lowering.moved_bytes)} more at each run"
        )
    else:
        moved = f"; its axes are swapped, {format_bytes(lowering.moved_bytes)} at each run where nothing fuses it"
    return f"{name}: kernel {made.kernels[name].name}, weights {sizes}{moved}"


def _dense_notes(plan: PrecisionPlan, dense: Mapping[str, Missing]) -> tuple[str, ...]:
    return tuple(f"{name} stays dense, not {plan.kernels[name]}: {reason}" for name, reason in dense.items())
