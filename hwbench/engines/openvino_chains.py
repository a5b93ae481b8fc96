"""Chains of int8 products that OpenVINO's CPU plugin fuses into one and computes wrongly.

Products with matrices of weights, one right behind the other on few rows, become one unit of just-in-time code (a
"snippets" subgraph). Where the scales of the first product end up in the quantisation behind it, that unit returns
zeros or numbers without meaning: seen with OpenVINO 2026.4 on x86 with 1 to 8 rows, and not with 9 or more. They end up
there where nothing but ReLU and the like, or arithmetic with constants, lies between; behind a bias alone they do not.

``SNIPPETS_MODE=DISABLE`` keeps the products apart. It takes the fused attention from the whole network too, so only a
graph with such a chain gets it.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from hwbench.engines.openvino_choice import Choice
from hwbench.engines.openvino_place import passes

SETTING = {"SNIPPETS_MODE": "DISABLE"}
_FEW_ROWS = 16  # fewer than these: a margin over what was seen
_ARITHMETIC = frozenset({"Add", "Subtract", "Multiply", "Divide"})


def misfused(choices: Sequence[Choice]) -> list[str]:
    """Return the layers in int8 that end a chain which the plugin would compute wrongly, in the order given."""
    products = {
        choice.work.node.get_name(): choice.work
        for choice in choices
        if choice.got == "int8" and choice.work.is_matrix and _has_few_rows(choice.work.node)
    }
    return [work.layer.name for work in products.values() if _ends_chain(work.node, products)]


def _has_few_rows(product: Any) -> bool:
    shape = product.get_output_partial_shape(0)
    return len(shape) == 2 and (shape[0].is_dynamic or shape[0].get_length() < _FEW_ROWS)


def _ends_chain(product: Any, products: Container[str]) -> bool:
    """Say whether the factor of ``product`` comes from another one, by what lets the scales through."""
    seen: set[tuple[str, bool]] = set()
    ahead = [(product.input_value(0).get_node(), False)]
    while ahead:
        node, counted = ahead.pop()
        if node.get_name() in products:
            return True
        if (node.get_name(), counted) in seen or not _lets_through(node) or (_is_bias(node, products) and not counted):
            continue
        seen.add((node.get_name(), counted))
        counted = counted or node.get_type_name() in _ARITHMETIC
        ahead += [(value.get_node(), counted) for value in node.input_values()]
    return False


def _lets_through(node: Any) -> bool:
    return passes(node) or node.get_type_name() in _ARITHMETIC or bool(node.get_type_name() == "FakeQuantize")


def _is_bias(node: Any, products: Container[str]) -> bool:
    """Say whether a node adds constants that differ from each other to a product right before it.

    One number for all, zero above all, is folded away like other arithmetic.
    """
    if node.get_type_name() != "Add":
        return False
    sources = [_without_one(value.get_node()) for value in node.input_values()]
    constants = [one for one in sources if one.get_type_name() == "Constant" and np.ptp(one.data) > 0]
    return len(constants) == 1 and any(one.get_name() in products for one in sources)


def _without_one(node: Any) -> Any:
    """Return what a node multiplies by one, as the reader writes a Gemm's alpha; or the node itself."""
    if node.get_type_name() != "Multiply":
        return node
    factor = node.input_value(1).get_node()
    ones = factor.get_type_name() == "Constant" and (factor.data == 1).all()
    return node.input_value(0).get_node() if ones else node
