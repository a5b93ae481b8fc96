"""A branch's output times a number, in the weights: ONNX Runtime beside a Mul."""

from __future__ import annotations

import numpy as np
import onnx_graphs as graphs
import pytest
from compress_subjects import run_ort
from onnx import numpy_helper
from residual_graphs import PADDED, drawn, net

from hwbench.structure.blocks import residual_blocks
from hwbench.structure.fold import fold_factor

pytest.importorskip("onnxruntime", reason="onnxruntime computes the networks")

NORM = {each.name: numpy_helper.to_array(each) for each in graphs.statistics("n", 4)}
CASES = {
    "conv": ([("Conv", "x w b", "e", PADDED)], "e"),
    "conv and relu": ([("Conv", "x w b", "c", PADDED), ("Relu", "c", "e")], "c"),
    "norm": ([("Conv", "x w", "c", PADDED), ("BatchNormalization", "c n.scale n.bias n.mean n.var", "e")], "e"),
    "layer scale": ([("Conv", "x w", "c", PADDED), ("Sigmoid", "c", "i"), ("Mul", "g i", "e")], "e"),
    "transposed": ([("Transpose", "x", "t", {"perm": [0, 2, 3, 1]}), ("MatMul", "t m", "p"), ("Add", "p b", "q"),
                    ("Transpose", "q", "e", {"perm": [0, 3, 1, 2]})], "p"),
    "padded": ([("Conv", "x w b", "c"), ("Pad", "c pads", "e")], "c"),
    "sigmoid": ([("Conv", "x w b", "c", PADDED), ("Sigmoid", "c", "e")], None),
    "padded with ones": ([("Conv", "x w b", "c"), ("Pad", "c pads one", "e")], None),
    "clipped": ([("Conv", "x w b", "c", PADDED), ("Clip", "c zero one", "e")], None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_branch_is_scaled_and_nothing_else(name):
    lines, place = CASES[name]
    weights = {"w": drawn(4, 4, 3, 3), "b": drawn(4, seed=1), "g": drawn(4, 1, 1, seed=2), "m": drawn(4, 4, seed=3)}
    weights |= {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "zero": np.float32(0), "one": np.float32(1)} | NORM
    # the weights of the branch are read elsewhere too, where they must stay as they are
    lines = [*lines, ("Add", "x e", "s"), ("Conv", "s w b", "y", PADDED)]
    model = net(lines, weights)
    reference = net(
        [*lines[:-2], ("Mul", "e half", "h"), ("Add", "x h", "s"), lines[-1]], weights | {"half": np.float32(0.5)}
    )
    (block,) = residual_blocks(model)
    assert fold_factor(model, block, 0.5) == place
    assert sum(node.op_type == "Mul" for node in model.graph) == (name == "layer scale") + (place is None)
    x = {"x": drawn(2, 4, 8, 8, seed=5)}
    np.testing.assert_allclose(run_ort(model, x)[0], run_ort(reference, x)[0], atol=1e-5)
