"""A torch module to the ONNX hub, once: parameter names and module paths kept, BatchNorm left as it is.

``torch.onnx.export(dynamo=True)`` folds BatchNorm into convolutions by default; with ``optimize=False`` it does not,
so that its scale and statistics stay visible to the stages that need them. Constants are folded here instead.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import optimizer

from hwbench.graph.names import NAME_SCOPES, module_of
from hwbench.graph.torch_source import TorchModel, user_line
from hwbench.records.base import Missing

OPSET = 18
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ADDRESS = re.compile(r"0x[0-9a-f]+")
_OPTIONS: dict[str, Any] = {"dynamo": True, "optimize": False, "opset_version": OPSET, "verbose": False}


def export(model: TorchModel, inputs: dict[str, torch.Tensor]) -> ir.Model | Missing:
    """Export ``model`` for the fixed shapes of ``inputs``.

    Missing where torch.export cannot trace it, or an operator has no ONNX form: torch's words, shortened, and the line
    of the user's code that it stopped at.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            if model.program is not None:
                program = torch.onnx.export(model.program, (), **_OPTIONS)
            else:
                args, kwargs = model.arguments(inputs)
                program = torch.onnx.export(model.module, args, kwargs=kwargs, **_OPTIONS)
    except Exception as error:  # noqa: BLE001 - the exporter raises what it likes, and the user's code within it too
        _log.warning("torch cannot export this model", exc_info=error)
        why = f"torch cannot export this model: {_torch_words(error)}{user_line(error)}"
        return Missing(code="not_exported", why=why, cure=_HINT)
    assert program is not None
    graph_model = program.model
    optimizer.fold_constants(graph_model)
    own = set(model.module.state_dict())
    _drop_added_biases(graph_model, own)
    _inline_added_scales(graph_model, own)
    optimizer.remove_unused_nodes(graph_model)
    _name_nodes(graph_model)
    return graph_model


_HINT = "model/log.txt has torch's whole explanation; an ONNX file of the model works too"
_log = logging.getLogger(__name__)


def _drop_added_biases(model: ir.Model, own: set[str]) -> None:
    """Take away the zero biases that the exporter gives to convolutions without one; they would count as parameters."""
    for node in model.graph:
        if not node.op_type.startswith("Conv") or len(node.inputs) < 3 or node.inputs[2] is None:
            continue
        bias = node.inputs[2]
        if bias.name not in own and bias.const_value is not None and not bias.const_value.numpy().any():
            node.resize_inputs(2)
            if not bias.uses() and bias.name is not None:
                model.graph.initializers.pop(bias.name, None)


def _inline_added_scales(model: ir.Model, own: set[str]) -> None:
    """Make Constant nodes of the exporter's one-element factors (of attention); they would count as parameters."""
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if value.name in own or tensor is None or tensor.size != 1 or not tensor.dtype.is_floating_point():
            continue
        if value.is_graph_output():
            continue
        node = ir.node("Constant", [], attributes={"value": tensor})
        ir.convenience.replace_all_uses_with(value, node.outputs[0])
        node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
        model.graph.initializers.pop(value.name or "")
        node.outputs[0].name = value.name
        model.graph.insert_before(model.graph[0], node)


def _name_nodes(model: ir.Model) -> None:
    """Name every node after the module it came from: ``layer1.0.conv1``, or ``layer1.0/Add`` for what has no module.

    All metadata but the scopes is dropped: it holds stack traces with the paths of the exporting machine.
    """
    by_scope: dict[tuple[str, str], int] = {}
    per_module: dict[str, int] = {}
    modules = {node: module_of(node) or "" for node in model.graph}
    for module in modules.values():
        per_module[module] = per_module.get(module, 0) + 1
    containers = {path.rsplit(".", depth)[0] for path in per_module for depth in range(1, path.count(".") + 1)}
    for node, module in modules.items():
        leaf = per_module[module] == 1 and module and module not in containers
        base = module if leaf else f"{module}/{node.op_type}" if module else node.op_type
        seen = by_scope.get((module, node.op_type), 0)
        by_scope[module, node.op_type] = seen + 1
        node.name = base if seen == 0 else f"{base}_{seen + 1}"
        scopes = node.metadata_props.get(NAME_SCOPES)
        node.metadata_props.clear()
        if scopes:
            node.metadata_props[NAME_SCOPES] = scopes
        for output in node.outputs:
            output.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()


def _torch_words(error: BaseException, limit: int = 600) -> str:
    """Return the first paragraph of the error beneath the exporter's own, which is advice on how to debug torch."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = _COLOURS.sub("", str(error)).strip().split("\n\n", maxsplit=1)[0]
    text = _ADDRESS.sub("0x...", f"{type(error).__name__}: {text}")  # the same in the next process
    return text if len(text) <= limit else text[:limit] + " ..."
