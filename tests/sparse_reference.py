"""What a graph with kernels in it computes, without a GPU: for ``onnx.reference``, in float64 from the packed bytes.

    evaluator = onnx.reference.ReferenceEvaluator(proto, new_ops=reference_ops(made))

The weight is unpacked from the constants that stand in the graph, not from those that were packed, so that what is
checked is what TensorRT gets.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwbench.sparse.formats import FORMATS, Packed
from hwbench.sparse.lowering import Convolution
from hwbench.sparse.onnx_kernels import NAMESPACE, Replaced, from_words, plugin_name

Array = np.ndarray[Any, np.dtype[Any]]


def product(x: Array, packed: Packed, bias: Array | None = None) -> Array:
    """Return X [n, K] times the packed weight, in float64, with what the fp16 of X and the bias leave of them."""
    weight = FORMATS[packed.format].unpack(packed).astype(np.float64)
    found: Array = x.astype(np.float16).astype(np.float64) @ weight.T
    return found if bias is None else found + bias.astype(np.float16).astype(np.float64)


def reference_ops(made: Replaced) -> list[type[Any]]:
    """Return the operators of a graph that :func:`~hwbench.sparse.onnx_kernels.replace_with_kernels` has made."""
    names = {plugin_name(kernel, bias=bias) for kernel in made.kernels.values() for bias in (False, True)}
    return [_operator(name, made) for name in sorted(names)]


def _operator(name: str, made: Replaced) -> type[Any]:
    from onnx.reference.op_run import OpRun

    def run(self: Any, x: Array, *given: Array, **_: Any) -> tuple[Array]:
        like = made.packed[self.onnx_node.name]
        arrays = {
            key: from_words(array, wanted) for array, (key, wanted) in zip(given, like.arrays.items(), strict=False)
        }
        packed = Packed(format=like.format, shape=like.shape, arrays=arrays, scalars=like.scalars)
        bias = given[len(arrays)] if len(given) > len(arrays) else None
        return (product(x, packed, bias).astype(np.float16),)

    return type(name, (OpRun,), {"op_domain": NAMESPACE, "_run": run})


def im2col(x: Array, what: Convolution) -> Array:
    """Return the patches of x [N, C, H, W] as rows [N OH OW, C kh kw]: the reference."""
    batch, channels, height, width = x.shape
    rows, columns = what.output(height, width)
    top, left, bottom, right = what.pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    found = np.empty((batch, rows, columns, channels, *what.kernel), x.dtype)
    for down, across in np.ndindex(*what.kernel):
        first, second = down * what.dilations[0], across * what.dilations[1]
        part = padded[
            :, :, first : first + rows * what.strides[0] : what.strides[0],
            second : second + columns * what.strides[1] : what.strides[1],
        ]  # fmt: skip
        found[:, :, :, :, down, across] = part[:, :, :rows, :columns].transpose(0, 2, 3, 1)
    return found.reshape(batch * rows * columns, -1)


def to_image(y: Array, batch: int, rows: int, columns: int) -> Array:
    """Return rows [N OH OW, M] as an image [N, M, OH, OW]."""
    image: Array = y.reshape(batch, rows, columns, -1).transpose(0, 3, 1, 2)
    return image
