"""s24, vw16 and bsr, run on the CPU against float64 of the matrix they are to multiply by."""

import numpy as np
import pytest
from emulated_kernels import assert_close, emulated, needs_gpp, run_emulated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench.sparse.formats import FORMATS

pytestmark = needs_gpp

KERNELS = ["s24", "s24_int8", "vw16", "vw16_int8", "bsr16", "bsr16_int8", "bsr32", "bsr32_int8"]
WIDE = ["s24", "s24_int8", "vw16", "vw16_int8"]
STEP = {
    "s24": 64,
    "s24_int8": 64,
    "vw16": 8,
    "vw16_int8": 8,
    "bsr16": 16,
    "bsr16_int8": 16,
    "bsr32": 32,
    "bsr32_int8": 32,
}


def weight_of(name, rng, m, k, sparsity):
    """A pruned weight in fp16's values, of magnitudes that differ from row to row."""
    weight = rng.normal(size=(m, k)) * np.exp2(rng.integers(-4, 3, size=(m, 1)))
    weight = weight.astype(np.float16).astype(np.float32)
    return weight * FORMATS[name].mask(np.abs(weight), 0.5 if name.startswith("s24") else sparsity)


def check(name, weight, rng, n, tile_n, *, bias=False, act="none", arch=800, wide=False):
    m, k = weight.shape
    packed = FORMATS[name].pack(weight)
    kernel = emulated(f"{name}_wide" if wide else name, arch=arch)
    x = rng.normal(size=(n, k)).astype(np.float16)
    values = rng.normal(size=m).astype(np.float16) if bias else None
    assert_close(kernel, packed, FORMATS[name].unpack(packed), x, tile_n=tile_n, bias=values, act=act)


@st.composite
def cases(draw, name):
    step = STEP[name]
    return {
        "wide": name in WIDE and draw(st.booleans()),
        "m": draw(st.integers(1, 50)),
        "k": step * draw(st.integers(1, max(640 // step, 1))),
        "n": draw(st.integers(1, 34)),
        "sparsity": draw(st.sampled_from([0.0, 0.5, 0.7, 0.9, 0.99])),
        "empty": draw(st.booleans()),
        "tile_n": draw(st.sampled_from([8, 16, 32])),
        "bias": draw(st.booleans()),
        "act": draw(st.sampled_from(["none", "relu", "gelu", "silu"])),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


@pytest.mark.parametrize("name", KERNELS)
def test_any_shape(name):
    @settings(max_examples=5, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(cases(name))
    def holds(case):
        rng = np.random.default_rng(case["seed"])
        weight = weight_of(name, rng, case["m"], case["k"], case["sparsity"])
        if case["empty"]:
            weight[rng.random(case["m"]) < 0.5] = 0
        how = {one: case[one] for one in ("bias", "act", "wide")}
        check(name, weight, rng, case["n"], case["tile_n"], **how)

    holds()


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("m", [16, 70, 128])
def test_wide_blocks_leave_out_rows_that_are_not_there(name, m):
    rng = np.random.default_rng(4)
    check(name, weight_of(name, rng, m, 576, 0.7), rng, 19, 16, bias=True, wide=True)


@pytest.mark.parametrize("name", KERNELS)
def test_nothing_is_kept(name):
    rng = np.random.default_rng(1)
    check(name, np.zeros((17, 64), np.float32), rng, 3, 8, bias=True, act="relu")


@pytest.mark.parametrize("name", ["vw16", "vw16_int8"])
@pytest.mark.parametrize(("tile_n", "k"), [(8, 3208), (32, 1096)])
@pytest.mark.parametrize("wide", [False, True])
def test_columns_far_apart_go_round_the_ring_of_tiles(name, tile_n, k, wide):
    """Fragments that end in a tile and begin in the one before, some nearly empty; K is no multiple of a tile."""
    rng = np.random.default_rng(2)
    weight = weight_of(name, rng, 40, k, 0.9)
    weight[16:32] = 0
    weight[20, [0, 255, 256, 511, 512, k - 1]] = 1  # first and last columns of quarters
    check(name, weight, rng, 3, tile_n, wide=wide)


@pytest.mark.parametrize("name", ["vw16", "vw16_int8", "bsr16", "bsr32_int8"])
def test_turing_has_a_smaller_instruction(name):
    rng = np.random.default_rng(3)
    check(name, weight_of(name, rng, 33, 256, 0.5), rng, 9, 8, arch=750)
    if name in WIDE:
        check(name, weight_of(name, rng, 70, 256, 0.5), rng, 9, 16, arch=750, wide=True)


@pytest.mark.parametrize("name", ["vw16", "vw16_int8"])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(("tile_n", "k"), [(8, 3208), (16, 1096), (32, 1096)])
def test_hopper_stores_matrices(name, wide, tile_n, k):
    rng = np.random.default_rng(6)
    check(name, weight_of(name, rng, 70, k, 0.8), rng, tile_n + 1, tile_n, arch=900, wide=wide)


@pytest.mark.parametrize(
    ("name", "array"),
    [("s24", "metadata"), ("s24", "values"), ("vw16", "columns"), ("vw16", "starts"), ("bsr16", "columns")],
)
def test_a_wrong_word_shows(name, array):
    rng = np.random.default_rng(5)
    weight = weight_of(name, rng, 32, 256, 0.5)
    packed = FORMATS[name].pack(weight)
    words = packed.arrays[array]
    words[:] = np.roll(words, 1)
    with pytest.raises(AssertionError, match=r"times the error allowed|the kernel ended with"):
        assert_close(emulated(name), packed, weight, rng.normal(size=(8, 256)).astype(np.float16), tile_n=8)


def test_infinities_go_through():
    """What overflows fp16 becomes infinite, as in a dense product."""
    packed = FORMATS["bsr16"].pack(np.full((16, 64), 60000, np.float32))
    y = run_emulated(emulated("bsr16"), packed, np.ones((1, 64), np.float16), tile_n=8)
    assert np.isposinf(y).all()
