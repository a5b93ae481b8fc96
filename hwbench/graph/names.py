"""Where a node came from, as the torch exporter wrote it into the node's metadata."""

from __future__ import annotations

import ast

import onnx_ir as ir

NAME_SCOPES = "pkg.torch.onnx.name_scopes"


def module_of(node: ir.Node) -> str | None:
    """Return the path of the innermost torch module the node belongs to (``layer1.0.conv1``), or None.

    The exporter writes ``['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d_1']``: modules from the outside in,
    then the operator itself.
    """
    text = node.metadata_props.get(NAME_SCOPES)
    if not text:
        return None
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    if not isinstance(scopes, list) or len(scopes) < 2 or not isinstance(scopes[-2], str):
        return None
    return scopes[-2] or None
