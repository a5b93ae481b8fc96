"""gap4_mv, bitmap_mm, int4_mm and int2_mm on the CPU, held against float64 of the weights they multiply by."""

import numpy as np
import pytest
from emulated_kernels import Kernel, assert_close, needs_gpp, run_emulated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench.sparse.formats import FORMATS
from hwbench.sparse.manifest import load_manifest

pytestmark = needs_gpp
DRAWN = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def emulated(name, tiles=None):
    """Return a kernel of the manifest as the emulation takes it."""
    kernel = load_manifest()[name]
    folder, _ = kernel.source.split("/")
    return Kernel(
        folder=folder,
        entries=(kernel.entry,),
        rows=kernel.rows_per_block,
        threads=kernel.threads,
        tiles=tiles or kernel.tile_n,
    )


GAP4 = emulated("gap4_mv")
BITMAP = emulated("bitmap_mm", (8, 32))
FEW = {"int4": emulated("int4_mm", (8, 32)), "int2": emulated("int2_mm", (8, 16))}


def inputs(seed, n, k):
    return np.random.default_rng(seed).standard_normal((n, k)).astype(np.float16)


def pruned(form, seed, m, k, sparsity):
    """Return a packed weight of which some rows are empty."""
    rng = np.random.default_rng(seed)
    kept = (rng.random((m, k)) >= sparsity) & (rng.random((m, 1)) < 0.8)
    return FORMATS[form].pack(rng.standard_normal((m, k)).astype(np.float32), kept)


def check(kernel, packed, x, tile, *, bias=False, act="none"):
    m = packed.shape[0]
    how = {"bias": inputs(7, 1, m)[0]} if bias else {}
    assert_close(kernel, packed, FORMATS[packed.format].unpack(packed), x, tile_n=tile, act=act, **how)


class TestGap4:
    @DRAWN
    @given(
        st.integers(0, 99),
        st.sampled_from([1, 2, 4]),
        st.integers(1, 5),
        st.integers(1, 35),
        st.integers(1, 150),
        st.sampled_from([0, 0.5, 0.9, 0.98, 1]),
    )
    def test_drawn_shapes(self, seed, tile, n, m, eights, sparsity):
        check(GAP4, pruned("gap4", seed, m, 8 * eights, sparsity), inputs(seed, n, 8 * eights), tile)

    @pytest.mark.parametrize(("k", "sparsity"), [(4104, 0.5), (8200, 0.97), (4096, 0.999)])
    def test_panels_and_wide_gaps(self, k, sparsity):
        check(GAP4, pruned("gap4", 1, 3, k, sparsity), inputs(1, 2, k), 2)

    @pytest.mark.parametrize("act", ["relu", "gelu", "silu"])
    def test_epilogues(self, act):
        check(GAP4, pruned("gap4", 2, 20, 256, 0.5), inputs(2, 4, 256), 4, bias=True, act=act)


class TestBitmap:
    @DRAWN
    @given(
        st.integers(0, 99),
        st.sampled_from([8, 32]),
        st.integers(1, 40),
        st.integers(1, 70),
        st.integers(1, 150),
        st.sampled_from([0, 0.5, 0.9, 1]),
    )
    def test_drawn_shapes(self, seed, tile, n, m, eights, sparsity):
        check(BITMAP, pruned("bitmap", seed, m, 8 * eights, sparsity), inputs(seed, n, 8 * eights), tile)

    def test_every_warp_has_a_stretch(self):
        check(BITMAP, pruned("bitmap", 1, 32, 4096, 0.6), inputs(1, 8, 4096), 8)

    def test_epilogue(self):
        check(BITMAP, pruned("bitmap", 2, 33, 264, 0.5), inputs(2, 9, 264), 8, bias=True, act="silu")


@pytest.mark.parametrize("form", ["int4", "int2"])
class TestFewBits:
    @DRAWN
    @given(st.integers(0, 99), st.booleans(), st.integers(1, 40), st.integers(1, 70), st.integers(1, 20))
    def test_drawn_shapes(self, form, seed, wide, n, m, blocks):
        k, kernel = 64 * blocks, FEW[form]
        rng = np.random.default_rng(seed)
        codes = rng.integers(0, 16 if form == "int4" else 4, (m, k)).astype(np.uint8)
        scales = rng.uniform(0.01, 2, (m, k // FORMATS[form].group(k))).astype(np.float16)
        check(kernel, FORMATS[form].pack_codes(codes, scales), inputs(seed, n, k), kernel.tiles[wide])

    def test_every_code_is_exact(self, form):
        """One input of 1 at a time picks one weight: what comes out is that weight, to the last bit."""
        most = 16 if form == "int4" else 4
        codes = np.add.outer(np.arange(16), np.arange(64)).astype(np.uint8) % most
        scales = np.linspace(0.5, 2, 16, dtype=np.float16)[:, None]
        packed = FORMATS[form].pack_codes(codes, scales)
        y = run_emulated(FEW[form], packed, np.eye(64, dtype=np.float16), tile_n=8)
        np.testing.assert_array_equal(y.T, FORMATS[form].unpack(packed).astype(np.float16))

    def test_epilogue(self, form):
        packed = FORMATS[form].pack(inputs(3, 33, 128).astype(np.float32))
        check(FEW[form], packed, inputs(2, 9, 128), 8, bias=True, act="gelu")
