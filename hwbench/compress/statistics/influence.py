"""What residual blocks do to the values that go through them, and to the network's output, seen on data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
import torch.fx

from hwbench.compress.base import Subject
from hwbench.errors import ModelError
from hwbench.structure.blocks import Block
from hwbench.torch_view.tables import input_names, layer_names

Units = Mapping[str, Sequence[Block]]
Tensor = torch.Tensor


def block_influence(subject: Subject, units: Units) -> dict[str, float]:
    """Return 1 - E[cos(x_in, x_out)] of each unit, in one pass over the data; arXiv:2403.03853, equation 1.

    The mean goes over samples and positions, the cosine over channels. Where both vectors are zero the cosine is one,
    where one of them is, zero.

    Raises:
        ModelError: a value is NaN or infinite.
    """
    samples, view = subject.need_samples("block influence"), subject.view()
    places = Places(view)
    ends = {name: (places.of(unit[0].passed), places.of(unit[-1].end)) for name, unit in units.items()}
    axes = {name: _channels(unit) for name, unit in units.items()}
    totals, counts = dict.fromkeys(units, 0.0), dict.fromkeys(units, 0)
    for index, (inputs, _) in enumerate(samples.in_order()):
        values = _run(view, subject.tensors(inputs))
        for name, (start, end) in ends.items():
            cosine = _cosine(values[start], values[end], axes[name])
            totals[name] += float(cosine.sum())
            counts[name] += cosine.numel()
        subject.report("influence of blocks", (index + 1) / samples.batches)
    found = {name: 1 - totals[name] / counts[name] for name in units}
    _require_finite(found)
    return found


def output_change(subject: Subject, units: Units, first: torch.fx.GraphModule, distance: str) -> dict[str, float]:
    """Return how far the output of the network is from that of ``first`` with each unit left out.

    What lies before a block is computed once for all. ``distance``: "mse", the squared difference over the squared
    output of ``first``, over all data; "kl", the mean of KL(softmax(first) || softmax(now)) over the last axis.

    Raises:
        ModelError: the output is NaN or infinite.
    """
    samples, view = subject.need_samples("the output's change"), subject.view()
    places = Places(view)
    bypasses = {
        name: [(places.of(b.add.outputs[0]), places.of(b.passed)) for b in unit] for name, unit in units.items()
    }
    sums = {name: Distance(distance) for name in units}
    for index, (inputs, _) in enumerate(samples.in_order()):
        given = subject.tensors(inputs)
        values = _run(view, given)
        with torch.no_grad():
            wanted = first(*given)
        for name, ways in bypasses.items():
            sums[name].add(_without(view, given, values, ways), wanted)
        subject.report("output without each block", (index + 1) / samples.batches)
    found = {name: each.value() for name, each in sums.items()}
    _require_finite(found)
    return found


def model_change(subject: Subject, first: torch.fx.GraphModule, distance: str, what: str) -> float:
    """Return how far the output of a whole network is from that of ``first``, in one pass; see :func:`output_change`.

    Raises:
        ModelError: the output is NaN or infinite.
    """
    samples, view, total = subject.need_samples(what), subject.view(), Distance(distance)
    for index, (inputs, _) in enumerate(samples.in_order()):
        given = subject.tensors(inputs)
        with torch.no_grad():
            total.add(view(*given), first(*given))
        subject.report(what, (index + 1) / samples.batches)
    _require_finite({what: total.value()})
    return total.value()


class Places:
    """Where a value of the hub is in a view."""

    def __init__(self, view: torch.fx.GraphModule) -> None:
        layers = layer_names(view)
        self._calls: dict[str, torch.fx.Node] = {
            layers[str(node.target)]: node for node in view.graph.nodes if node.op == "call_module"
        }
        inputs = [node for node in view.graph.nodes if node.op == "placeholder"]
        self._inputs: dict[str, torch.fx.Node] = dict(zip(input_names(view), inputs, strict=True))

    def of(self, value: ir.Value) -> torch.fx.Node:
        """Return the fx node of a value that the view computes."""
        producer = value.producer()
        if producer is None:
            return self._inputs[value.name or ""]
        call = self._calls[producer.name or ""]
        for user in call.users:
            if len(producer.outputs) > 1 and user.op == "call_function" and user.args[1:] == (value.index(),):
                call = user
                break
        return call


class Distance:
    """How far outputs are from wanted ones, summed over batches."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._total = self._scale = 0.0

    def add(self, got: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
        """Take in a batch."""
        for is_, ought in zip(got, wanted, strict=True):
            if not ought.is_floating_point():
                continue
            now, then = is_.double(), ought.double()
            if self._kind == "mse":
                self._total += float((now - then).square().sum())
                self._scale += float(then.square().sum())
            else:
                logs = torch.log_softmax(then, -1)
                self._total += float((logs.exp() * (logs - torch.log_softmax(now, -1))).sum())
                self._scale += then.numel() / then.shape[-1]

    def value(self) -> float:
        """Return the distance over all batches; infinite where the wanted output is zero and the other is not."""
        if self._scale == 0:
            return 0.0 if self._total == 0 else float("inf")
        return self._total / self._scale


def _run(view: torch.fx.GraphModule, given: Sequence[Tensor]) -> dict[torch.fx.Node, Any]:
    """Return all values of a view on a batch."""
    interpreter = torch.fx.Interpreter(view, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(*given)
    return interpreter.env


def _without(
    view: torch.fx.GraphModule,
    given: Sequence[Tensor],
    values: Mapping[torch.fx.Node, Any],
    ways: Sequence[tuple[torch.fx.Node, torch.fx.Node]],
) -> Sequence[Tensor]:
    """Return the output where sums are what went into them around the branch; ``values`` before the first hold."""
    order = {node: index for index, node in enumerate(view.graph.nodes)}
    known = {node: value for node, value in values.items() if order[node] < order[ways[0][0]]}
    interpreter = _Bypass(view, dict(ways))
    with torch.no_grad():
        result: Sequence[Tensor] = interpreter.run(*given, initial_env=known)
    return result


class _Bypass(torch.fx.Interpreter):
    def __init__(self, view: torch.fx.GraphModule, ways: Mapping[torch.fx.Node, torch.fx.Node]) -> None:
        super().__init__(view, garbage_collect_values=False)
        self._ways = ways

    def run_node(self, n: torch.fx.Node) -> Any:
        return self.env[self._ways[n]] if n in self._ways else super().run_node(n)


def _cosine(one: Tensor, other: Tensor, axis: int) -> Tensor:
    one, other = one.double(), other.double()
    lengths = one.norm(dim=axis), other.norm(dim=axis)
    product = (one * other).sum(axis)
    both_zero = (lengths[0] == 0) & (lengths[1] == 0)
    scale = lengths[0] * lengths[1]
    return torch.where(both_zero, torch.ones_like(product), torch.where(scale == 0, scale, product / scale))


def _channels(unit: Sequence[Block]) -> int:
    """Return the axis of channels: 1 where the branches convolve, else the last."""
    return 1 if any(node.op_type in {"Conv", "ConvTranspose"} for block in unit for node in block.nodes) else -1


def _require_finite(found: Mapping[str, float]) -> None:
    bad = [name for name, value in found.items() if not math.isfinite(value)]
    if bad:
        raise ModelError(f"on the data the network puts out NaN or infinity at or without {', '.join(bad[:3])}")
