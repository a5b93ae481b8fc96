"""From the precision plan to a scheme for each operator of a LiteRT file.

Layers with weights get what the plan says. What lies between two int8 layers runs in int8 as well where the delegate
can (additions, pooling, concatenation), so that nothing is dequantised on the way; Softmax, GELU and the parts of a
LayerNorm stay in floating point, where each of them would otherwise cut the graph in two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwbench.engines.litert_convert import Converted
from hwbench.engines.litert_graph import FileGraph, Op
from hwbench.engines.litert_kinds import CARRIES, MOVES, WEIGHTED, verdict
from hwbench.errors import Unsupported
from hwbench.records.base import Missing
from hwbench.records.model import Layer
from hwbench.records.quantization import LoweredLayer, PrecisionPlan, Scheme, TensorRange

_SKIPPED = "it follows from constants, and is computed when the file is written"
_MERGED = "it went into '{other}', and has that layer's scheme"
_NO_PRODUCT = "LiteRT makes {kinds} of it, and none of these can be given a scheme"
_NO_RANGE = "the calibration has no range of what it reads or writes"
_SHARED = "it is one operator with '{other}', which has another scheme"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The scheme of each operator that has one, by its index, and what became of the plan's layers."""

    schemes: Mapping[int, Scheme]
    layers: tuple[LoweredLayer, ...]


class Ranges:
    """The ranges of a file's tensors, from those of the hub's tensors that hold the same values."""

    def __init__(self, converted: Converted, known: Mapping[str, TensorRange]) -> None:
        self._same = converted.same
        self._known = known
        self._moved = {op.output: op.inputs[0] for op in converted.graph.ops if op.kind in MOVES and op.inputs}

    def of(self, tensor: int) -> TensorRange | None:
        """Return a tensor's range, or None.

        Of several hub tensors with the same values the last counts: the output of an activation, not its input.
        """
        for name in reversed(self._same.get(tensor, ())):
            if name in self._known:
                return self._known[name]
        return self.of(self._moved[tensor]) if tensor in self._moved else None


def choose(
    converted: Converted, layers: Sequence[Layer], plan: PrecisionPlan, ranges: Ranges, merged: Mapping[str, str]
) -> Choice:
    """Return a scheme for each operator.

    ``merged`` names each layer that went into another before the file was written.

    Raises:
        Unsupported: a layer named in the plan cannot have its scheme, or no layer can have the plan's default.
    """
    claims = _claims(converted)
    schemes: dict[int, Scheme] = {}
    done: list[LoweredLayer] = []
    owner: dict[int, str] = {}
    for layer in layers:
        asked = plan.of(layer.name)
        is_product = not isinstance(layer.macs, Missing) and layer.macs > 0
        if asked == "float" or not (is_product or layer.name in plan.layers):
            continue
        named = layer.name in plan.layers
        ops = [op for op in claims.get(layer.name, ()) if op.kind in WEIGHTED]
        if ops:
            got, why = _settled(converted.graph, ops, asked, ranges, named=named)
        else:
            got, why = "float", _without_product(layer.name, claims, merged)
        clash = next((owner[op.index] for op in ops if op.index in owner and schemes.get(op.index) != got), None)
        if clash is not None:
            got, why = schemes.get(ops[0].index, "float"), _SHARED.format(other=clash)
        if named and got != asked:
            raise Unsupported(
                f"LiteRT cannot run layer '{layer.name}' ({layer.op}) in {asked}: {why}",
                hint="leave the layer out of the plan, and it gets what LiteRT can do",
            )
        for op in ops:
            owner[op.index] = layer.name
            if got != "float":
                schemes[op.index] = got
        done.append(LoweredLayer(layer=layer.name, asked=asked, got=got, why=why if got != asked else None))
    _require_some(plan, done)
    schemes |= _between(converted, schemes, ranges, plan)
    return Choice(schemes=schemes, layers=tuple(done))


def _claims(converted: Converted) -> dict[str, list[Op]]:
    """Return the operators that do each layer's work."""
    found: dict[str, list[Op]] = defaultdict(list)
    for op in converted.graph.ops:
        for layer in converted.layers.get(op.index, ()):
            found[layer].append(op)
    return found


def _without_product(layer: str, claims: Mapping[str, Sequence[Op]], merged: Mapping[str, str]) -> str:
    """Return why a layer that no product does the work of has no scheme."""
    if layer in merged:
        return _MERGED.format(other=merged[layer])
    kinds = dict.fromkeys(op.kind for op in claims.get(layer, ()))
    return _NO_PRODUCT.format(kinds=", ".join(kinds)) if kinds else _SKIPPED


def _require_some(plan: PrecisionPlan, done: Sequence[LoweredLayer]) -> None:
    """Refuse a file that would be called by a scheme that nothing in it has."""
    if plan.default == "float" or any(layer.got != "float" for layer in done):
        return
    why = next(
        (layer.why for layer in done if layer.why), "it has no product, or the plan keeps each in floating point"
    )
    raise Unsupported(
        f"LiteRT can run no layer of this model in {plan.default}: {why}",
        hint="--precision fp32 and fp16 leave every layer in floating point",
    )


def _settled(
    graph: FileGraph, ops: Sequence[Op], asked: Scheme, ranges: Ranges, *, named: bool
) -> tuple[Scheme, str | None]:
    """Return what a layer gets, and why it is not what was asked for."""
    for op in ops:
        found, why = verdict(op.kind, asked, has_weight=graph.weight_of(op) is not None)
        if found == "no" or (found == "slow" and not named):
            if asked == "int4-weights" and verdict(op.kind, "int8-weights", has_weight=True)[0] == "yes":
                return "int8-weights", why
            return "float", why
        if asked == "int8" and any(ranges.of(tensor) is None for tensor in (*op.inputs, *op.outputs)):
            return "float", _NO_RANGE
    return asked, None


def _between(
    converted: Converted, schemes: Mapping[int, Scheme], ranges: Ranges, plan: PrecisionPlan
) -> dict[int, Scheme]:
    """Return the operators that run in int8 because their neighbours do, and that the plan does not keep in float."""
    graph = converted.graph
    able = {
        op.index
        for op in graph.ops
        if op.index not in schemes and _can_carry(graph, op, ranges) and not _is_kept(converted, op, plan)
    }
    writers = {tensor: op.index for op in graph.ops for tensor in op.outputs}
    readers: dict[int, list[int]] = defaultdict(list)
    for op in graph.ops:
        for tensor in op.inputs:
            readers[tensor].append(op.index)
    fixed = {index for index, scheme in schemes.items() if scheme == "int8"}
    found: set[int] = set()
    for op in graph.ops:  # fed by int8 alone
        if op.index in able and all(writers.get(t) in fixed | found for t in op.inputs):
            found.add(op.index)
    for op in reversed(graph.ops):  # what only moves values, on the way to int8 alone
        if op.kind in MOVES and op.index in able and all(_reads(readers, op, fixed | found)):
            found.add(op.index)
    outputs = set(graph.outputs)
    for op in reversed(graph.ops):  # what nothing in int8 reads is better left alone
        if op.index in found and (outputs & set(op.outputs) or not any(_reads(readers, op, fixed | found))):
            found.discard(op.index)
    return dict.fromkeys(found, "int8")


def _can_carry(graph: FileGraph, op: Op, ranges: Ranges) -> bool:
    floats = [tensor for tensor in (*op.inputs, *op.outputs) if graph.is_float(tensor)]
    computed = len(floats) == len(op.inputs) + len(op.outputs) and bool(op.inputs)
    return op.kind in CARRIES and computed and None not in map(ranges.of, floats)


def _is_kept(converted: Converted, op: Op, plan: PrecisionPlan) -> bool:
    """Say whether the plan names a layer that an operator does the work of, and keeps it in floating point."""
    return any(plan.layers.get(layer) == "float" for layer in converted.layers.get(op.index, ()))


def _reads(readers: Mapping[int, list[int]], op: Op, which: set[int]) -> list[bool]:
    """Say of each operator that reads what ``op`` writes whether it is one of ``which``; [False] where none does."""
    return [index in which for tensor in op.outputs for index in readers.get(tensor, ())] or [False]
