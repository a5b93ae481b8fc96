"""Which grid each rounded tensor of a model has."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from hwbench.errors import UsageError
from hwbench.fake_quant.arithmetic import Arithmetic
from hwbench.fake_quant.grids import Grid
from hwbench.fake_quant.place import Placement, moves
from hwbench.records.quantization import TensorRange


class Grids:
    """The grids of a model's tensors for one runtime: chosen once, and passed on by what only moves numbers."""

    def __init__(
        self,
        model: ir.Model,
        ranges: Mapping[str, TensorRange],
        rules: Arithmetic,
        placement: Placement,
        bits: Mapping[str, int],
    ) -> None:
        self._ranges, self._rules, self._placement = ranges, rules, placement
        self._widths = sorted(set(bits.values()))
        self._bits = bits
        self._nodes = {node.name or "": node for node in model.graph}
        self._made: dict[str, Grid] = {}
        for node in model.graph:
            source = node.inputs[0].name if node.inputs and node.inputs[0] is not None else None
            for value in node.outputs:
                name = value.name or ""
                if moves(node, rules.name) and source in self._made:
                    self._made[name] = self._made[source]
                elif name in placement.made:
                    self._made[name] = self._of(value)
        for value in model.graph.inputs:
            if (value.name or "") in placement.made:
                self._made[value.name or ""] = self._of(value)

    def made(self, tensor: str) -> Grid | None:
        """Return the grid that everybody reads a tensor on, or None where it is in floating point."""
        return self._made.get(tensor)

    def read(self, value: ir.Value, reader: str) -> Grid | None:
        """Return the grid that one node reads a tensor on, or None where it reads floats."""
        name = value.name or ""
        if name in self._made:
            return self._made[name]
        if reader in self._placement.read.get(name, ()):
            return self._of(value)
        node = value.producer()
        if node is not None and moves(node, self._rules.name) and node.inputs[0] is not None:
            return self.read(node.inputs[0], node.name or "")
        return None

    def all(self) -> dict[str, Grid]:
        """Return the grid of every tensor that is rounded where it is made or read, by name."""
        found = dict(self._made)
        for node in self._nodes.values():
            for value in node.inputs:
                name = "" if value is None else value.name or ""
                if value is not None and name in self._placement.read and name not in found:
                    found[name] = self._of(value)
        return found

    def _of(self, value: ir.Value) -> Grid:
        name = value.name or ""
        found = self._ranges.get(name)
        if found is None:
            raise UsageError(f"calibration found no range for tensor '{name}'", hint="leave out what reads it")
        return self._rules.grid(found, bits=self._width(value), product=self._multiplied(value))

    def _width(self, value: ir.Value) -> int:
        """Return the bits of a tensor: those of the layers that read it, the widest, else those of the layers."""
        near = [self._bits[name] for name in _around(value) if name in self._bits]
        return max(near, default=self._widths[-1])

    def _multiplied(self, value: ir.Value) -> bool:
        """Say whether anything but a convolution or what accompanies it multiplies a tensor."""
        for reader, _ in value.uses():
            if reader.op_type in {"Gemm", "MatMul"} and (reader.name or "") in self._bits:
                return True
            if moves(reader, self._rules.name) and any(self._multiplied(output) for output in reader.outputs):
                return True
        return False


def _around(value: ir.Value) -> list[str]:
    names = [reader.name or "" for reader, _ in value.uses()]
    node = value.producer()
    return names if node is None else [node.name or "", *names]
