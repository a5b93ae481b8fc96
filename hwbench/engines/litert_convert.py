"""From the hub to a LiteRT file in floating point, in which every operator is known by the hub layers it does.

The hub becomes a torch module (:mod:`hwbench.torch_view`), litert-torch makes the file of it, and a run of both on the
model's inputs tells the tensors apart (:mod:`hwbench.engines.litert_match`). Operators are then named
``L012|conv1;;relu1``: a number of their own, so that a rule can address one operator, and the layers.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from hwbench.engines import edge
from hwbench.engines.litert_graph import Array, FileGraph, Op
from hwbench.engines.litert_match import Print, members, print_of, same_values
from hwbench.engines.litert_rewrite import fuse_gelu, narrow_places, zero_padded_pools
from hwbench.errors import EngineError

if TYPE_CHECKING:
    import torch

SAME = 1e-4  # of the largest output; ResNet-50 is 1.2e-5 away, by the order of its sums alone
_FENCE = -3.0e38  # nothing in float32 that is of use lies below
_CONVERTED_ALIKE = frozenset({"MatMul", "Gemm"})


@dataclass(frozen=True, kw_only=True)
class Converted:
    """The float file. ``layers`` are the hub layers of each operator, ``same`` the hub tensors of each tensor."""

    graph: FileGraph
    layers: Mapping[int, tuple[str, ...]]
    same: Mapping[int, tuple[str, ...]]


def convert(path: Path, feeds: Mapping[str, Array], *, keep_inputs: bool) -> Converted:
    """Return the hub at ``path`` as a LiteRT model.

    Inputs and outputs have the hub's names, types and layout. ``keep_inputs``: the inputs of matrix products stay the
    hub's tensors. Otherwise the converter folds a preceding scale and shift (of a LayerNorm) into the product's
    weights, which is quicker by two small operators, and then the product reads a tensor that no range is known of.

    Raises:
        Unsupported: a layer has no form in torch.
        EngineError: the converter fails, or its file does not compute what the hub does.
    """
    from hwbench.torch_view.build import to_torch

    hub = ir.load(path)
    rewritten = ir.load(path)
    fuse_gelu(rewritten)
    view = to_torch(rewritten)
    arguments = _arguments(view, feeds)
    values = _hub_values(view, rewritten.graph, arguments)
    graph = FileGraph(_converted(_fenced(view) if keep_inputs else view, arguments))
    graph.bypass([op for op in graph.ops if _is_fence(graph, op)])
    narrow_places(graph)
    zero_padded_pools(graph)
    outputs = [value.name or "" for value in hub.graph.outputs]
    graph.sign([value.name or "" for value in _inputs(hub.graph)], outputs)
    file_prints, file_outputs = _file_values(graph, feeds)
    _require_same(file_outputs, values, outputs)
    hub_prints = {name: kept for name, array in values.items() if (kept := print_of(array)) is not None}
    same = same_values(file_prints, hub_prints)
    layers = members(graph, hub.graph, same)
    _name(graph, layers)
    return Converted(graph=graph, layers=layers, same=same)


def _inputs(hub: ir.Graph) -> list[ir.Value]:
    return [value for value in hub.inputs if not value.is_initializer()]


def _arguments(view: torch.fx.GraphModule, feeds: Mapping[str, Array]) -> tuple[torch.Tensor, ...]:
    import torch

    from hwbench.torch_view.tables import input_names

    return tuple(torch.from_numpy(np.array(feeds[name])) for name in input_names(view))


def _fenced(view: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Put before each matrix product with weights an operator that changes nothing and that nothing is folded over."""
    import torch

    for node in list(view.graph.nodes):
        if node.op != "call_module" or len(node.args) != 1:
            continue
        if view.get_submodule(node.target).operator in _CONVERTED_ALIKE:
            with view.graph.inserting_before(node):
                node.args = (view.graph.call_function(torch.clamp_min, (node.args[0], _FENCE)),)
    view.recompile()
    return view


def _is_fence(graph: FileGraph, op: Op) -> bool:
    if op.kind != "MAXIMUM" or len(op.constants) != 1:
        return False
    limit = graph.constant(op.constants[0])
    return limit.size == 1 and limit.item() == np.float32(_FENCE)


def _converted(view: torch.fx.GraphModule, arguments: tuple[torch.Tensor, ...]) -> bytes:
    """Run the converter, quietly. ``enable_x64``: integer inputs stay of 64 bits, as the hub has them."""
    import litert_torch

    logger = logging.getLogger()
    level = logger.level
    with edge.translated("litert-torch converts the model"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                edge_model: Any = litert_torch.convert(view.eval(), arguments, enable_x64=True)
                return bytes(edge_model.model_content())
            finally:
                logger.setLevel(level)


def _hub_values(view: torch.fx.GraphModule, hub: ir.Graph, arguments: tuple[torch.Tensor, ...]) -> dict[str, Array]:
    """Return the tensors of the hub in floating point, in the order they are computed, and its outputs."""
    import torch

    from hwbench.torch_view.tables import input_names, layer_names, output_names

    nodes = {node.name: node for node in hub}
    of_layer = layer_names(view)
    found: dict[str, Array] = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            if n.op == "call_module":
                results = result if isinstance(result, tuple) else (result,)
                for value, tensor in zip(nodes[of_layer[str(n.target)]].outputs, results, strict=False):
                    if value.name and isinstance(tensor, torch.Tensor):
                        found[value.name] = tensor.detach().numpy()
            return result

    for name, argument in zip(input_names(view), arguments, strict=True):
        found[name] = argument.numpy()
    with torch.no_grad():
        outputs = Watch(view).run(*arguments)
    found.update({name: output.detach().numpy() for name, output in zip(output_names(view), outputs, strict=True)})
    return found


def _file_values(graph: FileGraph, feeds: Mapping[str, Array]) -> tuple[dict[int, Print], list[Array]]:
    """Run a file with plain kernels, which keep every tensor, and return the prints of float ones and the outputs."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with edge.translated("LiteRT runs the converted model"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of the memory that keeping every tensor takes
        interpreter = Interpreter(
            model_content=graph.to_bytes(),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
        for tensor in graph.inputs:
            interpreter.set_tensor(tensor, feeds[graph.name(tensor)])
        interpreter.invoke()
        wanted = [*graph.inputs, *(tensor for op in graph.ops for tensor in op.outputs)]
        arrays = ((tensor, interpreter.get_tensor(tensor)) for tensor in wanted if graph.is_float(tensor))
        prints = {tensor: kept for tensor, array in arrays if (kept := print_of(array)) is not None}
        return prints, [interpreter.get_tensor(tensor) for tensor in graph.outputs]


def _require_same(found: list[Array], values: Mapping[str, Array], names: list[str]) -> None:
    for name, output in zip(names, found, strict=True):
        wanted = values[name]
        if wanted.dtype.kind != "f":
            continue
        largest = float(np.abs(wanted).max(initial=0.0)) or 1.0
        apart = float(np.abs(output.astype(np.float64) - wanted.astype(np.float64)).max(initial=0.0)) / largest
        if not apart <= SAME:
            raise EngineError(
                f"the converted model's output '{name}' is {apart:.1e} of the largest value away from the network's",
                hint="litert-torch has converted a layer wrongly; other engines can be built",
            )


def _name(graph: FileGraph, layers: Mapping[int, tuple[str, ...]]) -> None:
    for op in graph.ops:
        for place, tensor in enumerate(op.outputs):
            suffix = f"#{place}" if place else ""
            graph.rename(tensor, f"L{op.index:03d}|{';;'.join(layers.get(op.index, ()))}{suffix}")
