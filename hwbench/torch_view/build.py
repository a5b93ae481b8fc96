"""From the hub to the view: one walk over the nodes."""

from __future__ import annotations

import keyword
import operator
import re
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hwbench.errors import EngineError, HwbenchError, Unsupported
from hwbench.torch_view import tables
from hwbench.torch_view.dtypes import to_torch_tensor, torch_dtype
from hwbench.torch_view.layer import Layer
from hwbench.torch_view.rules import RULES, STATISTICS
from hwbench.torch_view.site import Function, Given, Site


def to_torch(model: ir.Model) -> torch.fx.GraphModule:
    """Return a model of fixed shapes as a torch module, in evaluation mode.

    ``view(*inputs)`` takes the graph's inputs in order and returns a tuple of its outputs. Every node that does not
    follow from constants is a submodule named after it. Initialisers in floating point are parameters, the statistics
    of BatchNorm buffers; a shared initialiser is one tensor under several names. See :mod:`hwbench.torch_view.tables`.

    Raises:
        Unsupported: a node has no form in torch that is free of data-dependent shapes; names the operator and layer.
        EngineError: torch refuses what a node asks for.
    """
    return _Builder(model).build()


@dataclass(frozen=True)
class _Known:
    """A value that is known when the view is built; ``weight`` names the initialiser of one that may be trained."""

    tensor: torch.Tensor
    weight: str | None = None


@dataclass(frozen=True)
class _Computed:
    """A value that the view computes."""

    node: torch.fx.Node
    like: torch.Tensor


_Value = _Known | _Computed


class _Builder:
    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx")) or onnx.defs.onnx_opset_version()
        self.root = torch.nn.Module()
        self.graph = torch.fx.Graph()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.values: dict[ir.Value, _Value] = {}
        self.layers: dict[str, str] = {}
        self.weights: dict[str, str] = {}

    def build(self) -> torch.fx.GraphModule:
        inputs = [value for value in self.model.graph.inputs if not value.is_initializer()]
        for value in inputs:
            self._input(value)
        for value in self.model.graph.initializers.values():
            self._initializer(value)
        for node in self.model.graph:
            self._node(node)
        outputs = list(self.model.graph.outputs)
        self.graph.output(tuple(self._at_root(value) for value in outputs))
        view = torch.fx.GraphModule(self.root, self.graph, "HubView")
        view.meta.update(
            {
                tables.LAYERS: self.layers,
                tables.WEIGHTS: self.weights,
                tables.INPUTS: tuple(value.name or "" for value in inputs),
                tables.OUTPUTS: tuple(value.name or "" for value in outputs),
            }
        )
        return view.eval()

    def _input(self, value: ir.Value) -> None:
        dtype = torch_dtype(value.type.dtype) if isinstance(value.type, ir.TensorType) else None
        if dtype is None or value.shape is None or not value.shape.is_static():
            raise Unsupported(f"input '{value.name}' ({value.type}, {value.shape}) has no fixed shape that torch takes")
        placeholder = self.graph.placeholder(self._argument(value.name or "input"))
        with self.fake:
            like = torch.empty(tuple(value.shape.numpy()), dtype=dtype)
        self.values[value] = _Computed(placeholder, like)

    def _initializer(self, value: ir.Value) -> None:
        assert value.const_value is not None
        tensor = to_torch_tensor(value.const_value)
        if tensor is None:
            return  # whoever uses it is refused
        if tensor.is_floating_point():
            self.values[value] = _Known(torch.nn.Parameter(tensor), weight=value.name)
        else:
            self.values[value] = _Known(tensor)

    def _node(self, node: ir.Node) -> None:
        rule = RULES.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
        if rule is None:
            domain = f"{node.domain}::" if node.domain else ""
            raise Unsupported(
                f"layer '{node.name}': the torch view has no operator {domain}{node.op_type}",
                hint="other engines may run it",
            )
        given = [None if value is None else self._value(value, node) for value in node.inputs]
        site = Site(node, self.opset, [None if value is None else _given(value) for value in given])
        try:
            function = rule(site)
            inputs = [value for index, value in enumerate(given) if index not in site.taken]
            results = self._folded(function, inputs) or self._layer(site, function, given)
        except HwbenchError:
            raise
        except Exception as error:  # torch raises what it likes about shapes and types that do not fit
            text = " ".join(str(error).split())[:300]
            raise EngineError(f"{site.what}: torch says {type(error).__name__}: {text}") from error
        self.values.update(zip(node.outputs, results, strict=False))

    def _value(self, value: ir.Value, node: ir.Node) -> _Value:
        found = self.values.get(value)
        if found is None:
            kind = value.const_value.dtype.name if value.const_value is not None else value.type
            raise Unsupported(
                f"layer '{node.name}' ({node.op_type}): torch does not compute in {kind} ('{value.name}')"
            )
        return found

    def _folded(self, function: Function, inputs: list[_Value | None]) -> list[_Value] | None:
        """Compute a node of constants now, unless it passes a weight on that may be trained."""
        known = [value for value in inputs if isinstance(value, _Known)]
        if len(known) < sum(value is not None for value in inputs):
            return None
        with torch.no_grad():
            results = _as_tuple(function(*[value and value.tensor.detach() for value in inputs]))  # type: ignore[union-attr]
        trains = any(value.weight is not None for value in known)
        if trains and any(result is not None and result.is_floating_point() for result in results):
            return None
        return [_Known(result) for result in results]

    def _layer(self, site: Site, function: Function, given: list[_Value | None]) -> list[_Value]:
        name = self._name(site.node)
        arguments: list[str | bool | None] = []
        called: list[_Computed] = []
        own: dict[str, torch.Tensor] = {}
        kept: set[str] = set()
        for index, value in enumerate(given):
            if index in site.taken:
                continue
            if isinstance(value, _Known):
                slot = _slot(site, index, own)
                arguments.append(slot)
                own[slot] = self._owned(site, index, value)
                if value.weight is not None:
                    kept.add(slot)
                    self.weights[f"{name}.{slot}"] = value.weight
            else:
                arguments.append(None if value is None else True)
                called += [] if value is None else [value]
        layer = Layer(site.node.op_type, function, arguments)
        layer.own(own, kept)
        layer.eval()
        self.root.add_module(name, layer)
        self.layers[name] = site.node.name or ""
        return self._called(site, name, layer, called)

    def _owned(self, site: Site, index: int, value: _Known) -> torch.Tensor:
        statistic = index in STATISTICS.get(site.node.op_type, ())
        return value.tensor.detach() if statistic else value.tensor

    def _called(self, site: Site, name: str, layer: Layer, called: list[_Computed]) -> list[_Value]:
        with self.fake, torch.no_grad():
            likes = layer(*[value.like for value in called])
        call = self.graph.call_module(name, tuple(value.node for value in called))
        if not isinstance(likes, tuple):
            return [_Computed(call, likes)]
        wanted = [site.wants(index) for index in range(len(likes))]
        return [
            _Computed(self.graph.call_function(operator.getitem, (call, index)) if want else call, like)
            for index, (like, want) in enumerate(zip(likes, wanted, strict=True))
        ]

    def _name(self, node: ir.Node) -> str:
        base = name = _identifier(node.name or node.op_type)
        suffix = 1
        while (
            hasattr(self.root, name)
            or hasattr(torch.fx.GraphModule, name)
            or name == "meta"
            or keyword.iskeyword(name)  # torch.fx writes it into source code
        ):
            suffix += 1
            name = f"{base}_{suffix}"
        return name

    def _argument(self, name: str) -> str:
        base = name = _identifier(name)
        taken = {node.target for node in self.graph.nodes}
        suffix = 1
        while name in taken or keyword.iskeyword(name) or name == "self":
            suffix += 1
            name = f"{base}_{suffix}"
        return name

    def _at_root(self, value: ir.Value) -> torch.fx.Node:
        """Return the fx node of an output; one that is a constant becomes a tensor of the root."""
        found = self.values[value]
        if isinstance(found, _Computed):
            return found.node
        name = f"output_{_identifier(value.name or '')}"
        if isinstance(found.tensor, torch.nn.Parameter):
            self.root.register_parameter(name, found.tensor)
            self.weights[name] = found.weight or ""
        else:
            self.root.register_buffer(name, found.tensor, persistent=False)
        return self.graph.get_attr(name)


def _given(value: _Value) -> Given:
    return Given(value.tensor, value.tensor) if isinstance(value, _Known) else Given(value.like, None)


def _as_tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def _identifier(name: str) -> str:
    """Return a name that Python and torch take for a submodule, as close to ``name`` as they allow."""
    text = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "unnamed"
    return f"layer_{text}" if text[0].isdigit() else text


def _slot(site: Site, index: int, taken: dict[str, torch.Tensor]) -> str:
    """Name an own tensor of a layer as ONNX names the input: ``W``, ``bias``."""
    inputs = onnx.defs.get_schema(site.node.op_type, site.opset, "").inputs
    base = name = inputs[min(index, len(inputs) - 1)].name
    if index >= len(inputs) - 1 and index > 0 and name in taken:
        name = f"{base}_{index}"
    return (
        f"{name}_" if hasattr(torch.nn.Module, name) or name in {"operator", "function", "arguments", "told"} else name
    )
