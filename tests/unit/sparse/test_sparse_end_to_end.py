"""From a dense weight to Y, without a GPU: pruned, packed, placed, bound and launched; the kernel itself is emulated.

What the fake GPU hands to the emulator are the bytes that lie at the addresses of the launch, so a wrong order, size or
scalar is seen.
"""

from __future__ import annotations

from pathlib import Path

import emulated_kernels
import numpy as np
import pytest
from sparse_fake_cuda import SparseGpu, image

from hwbench.sparse.formats import FORMATS, Packed
from hwbench.sparse.launch import Loaded, SparseLinear
from hwbench.sparse.manifest import load_manifest

MANIFEST = load_manifest()
EMULATED = [name for name in ("s24", "vw16") if name in MANIFEST]  # the others: tests of their own


def emulated(kernel, packed, tile):
    """Return what a launch of the kernel does, by its source compiled for the CPU."""
    program = emulated_kernels.Kernel(
        Path(kernel.source).parent.name, (kernel.entry,), kernel.rows_per_block, kernel.threads, tiles=(tile,)
    )

    def launch(cuda, told, shape, arguments):
        x_at, *given = arguments
        arrays = {
            name: cuda.view(at, like.dtype, like.shape)
            for at, (name, like) in zip(given, packed.arrays.items(), strict=False)
        }
        rest = given[len(arrays) :]
        bias_at = rest.pop(0) if told["bias"] else None
        n, m, k, *scalars, y_at = rest
        there = Packed(
            format=packed.format, shape=(m, k), arrays=arrays, scalars=dict(zip(packed.scalars, scalars, strict=True))
        )
        bias = None if bias_at is None else cuda.view(bias_at, np.float16, (m,))
        assert told["tile"] == tile
        assert shape.grid == (-(-m // kernel.rows_per_block), -(-n // tile), 1)
        assert shape.block == (kernel.threads, 1, 1)
        x = cuda.view(x_at, np.float16, (n, k))
        y = emulated_kernels.run_emulated(program, there, x, tile_n=tile, bias=bias, act=told["act"])
        cuda.view(y_at, np.float16, (n, m))[:] = y

    return launch


@emulated_kernels.needs_gpp
@pytest.mark.parametrize("name", EMULATED)
def test_a_layer_computes_what_its_pruned_weight_does(name):
    kernel, rng = MANIFEST[name], np.random.default_rng(0)
    format_ = FORMATS[kernel.format]
    m, k, n = 48, 192, kernel.tile_n[0]
    weight = rng.normal(size=(m, k)).astype(np.float32)
    packed = format_.pack(weight, format_.mask(np.abs(weight), 0.5))
    bias, x = rng.normal(size=m).astype(np.float16), rng.normal(size=(n, k)).astype(np.float16)
    cuda = SparseGpu({}, whole={kernel.entry: emulated(kernel, packed, kernel.tile_n[0])})
    x_at, y_at, stream = cuda.allocate(x.nbytes), cuda.allocate(2 * n * m), cuda.stream()
    cuda.copy_in(x_at.address, x, stream)
    with Loaded(cuda, image) as loaded, SparseLinear(loaded, packed, kernel=kernel, bias=bias, act="relu") as linear:
        linear.bind(x_at.address, y_at.address, n).launch(stream)
        found = np.empty((n, m), np.float16)
        cuda.copy_out(found, y_at.address, stream)
        stream.wait()
    held = format_.unpack(packed).astype(np.float64)
    wanted = np.maximum(x.astype(np.float64) @ held.T + bias.astype(np.float64), 0)
    allowed = np.abs(x.astype(np.float64)) @ np.abs(held).T + np.abs(bias.astype(np.float64))
    assert (np.abs(found - wanted) <= 2.0**-10 * allowed + 2.0**-24).all()
    assert (found > 0).any()
