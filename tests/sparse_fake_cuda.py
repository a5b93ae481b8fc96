"""Sparse kernels on the GPU that is not there (:mod:`fake_cuda`): a kernel is a Python function of a block.

An image holds the variant that was compiled, as JSON; :func:`image` makes one.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
from fake_cuda import FakeCuda, FakeFunction, FakeModule, Kernel

from hwbench.cuda.api import LaunchShape

MAGIC = b"fake cubin"


def image(variant, compute_capability) -> bytes:
    """What a compiler would have made of a variant."""
    told = {"kernel": variant.kernel, "tile": variant.tile_n, "bias": variant.bias, "act": variant.act}
    return MAGIC + json.dumps({**told, "gpu": compute_capability}).encode()


class SparseGpu(FakeCuda):
    """Runs block functions ``block(cuda, told, (x, y), arguments)`` by the entry's name; keeps what was launched."""

    def __init__(self, blocks: dict[str, Callable], *, whole=None, seconds=lambda told: 1e-5, **facts):
        super().__init__(**facts)
        self.whole = whole or {}  # a whole launch: (cuda, told, shape, arguments)
        self.blocks, self.seconds, self.launches, self.modules = blocks, seconds, [], 0

    def load(self, data):
        super().load(data)
        self.modules += 1
        return SparseModule(self, json.loads(data[len(MAGIC) :]))

    def left(self):
        """What has not been given back."""
        return self.alive() + self.modules


class SparseModule(FakeModule):
    def __init__(self, cuda, told):
        super().__init__(cuda)
        self.gpu, self.told = cuda, told

    def function(self, name):
        def run(cuda, shape: LaunchShape, *arguments):
            cuda.launches.append((name, self.told, shape))
            if name in cuda.whole:
                cuda.whole[name](cuda, self.told, shape, arguments)
                return
            for x in range(shape.grid[0]):
                for y in range(shape.grid[1]):
                    cuda.blocks[name](cuda, self.told, (x, y), arguments)

        return SparseFunction(self.gpu, name, Kernel(run, seconds=self.gpu.seconds(self.told)))

    def unload(self):
        self.gpu.modules -= 1


class SparseFunction(FakeFunction):
    def launch(self, shape, arguments, stream):
        super().launch(shape, arguments, self._cuda.by_handle(stream.handle))  # it may be somebody else's


def strips_block(cuda, told, block, arguments):
    """The kernel of :class:`sparse_examples.Strips`: one strip of four rows, one tile of N."""
    x_at, values_at, columns_at, *rest = arguments
    bias_at = rest.pop(0) if told["bias"] else None
    n, m, k, width, y_at = rest
    first, last = block[1] * told["tile"], min(n, (block[1] + 1) * told["tile"])
    assert first < n
    assert block[0] * 4 < m
    x, y = cuda.view(x_at, np.float16, (n, k)), cuda.view(y_at, np.float16, (n, m))
    values = cuda.view(values_at, np.float16, (m // 4, 4, width))[block[0]].astype(np.float32)
    columns = cuda.view(columns_at, np.uint16, (m // 4, width))[block[0]]
    found = x[first:last][:, columns].astype(np.float32) @ values.T
    rows = slice(4 * block[0], 4 * block[0] + 4)
    if bias_at is not None:
        found += cuda.view(bias_at, np.float16, (m,))[rows].astype(np.float32)
    y[first:last, rows] = np.maximum(found, 0) if told["act"] == "relu" else found
