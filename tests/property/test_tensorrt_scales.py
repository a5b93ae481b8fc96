"""Scales in half precision, E4M3 and the 2:4 pattern, for any numbers."""

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hwbench.engines.tensorrt_halves import HALVES, LARGEST, rounded
from hwbench.engines.tensorrt_sparse import is_2_4
from hwbench.engines.tensorrt_weights import scale_as, to_fp8

KINDS = st.sampled_from(["fp16", "bf16", "fp32"])
E4M3 = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
E4M3 = E4M3[np.isfinite(E4M3)]


@given(st.floats(2.0**-20, 500, width=32), KINDS)
def test_a_scale_is_held_exactly_and_never_too_small(value, kind):
    found = scale_as(np.asarray(value, np.float32), kind)
    assert found >= np.float32(value)
    if kind in HALVES:
        assert found == found.astype(HALVES[kind].numpy()).astype(np.float32)
        assert found <= max(value * (1 + 2.0**-7), value + 2.0**-24)


@given(arrays(np.float32, 16, elements=st.floats(-1000, 1000, width=32)))
def test_e4m3_is_the_nearest_there_is(values):
    found = to_fp8(values).astype(np.float64)
    best = np.abs(np.clip(values, -448, 448)[:, None] - E4M3[None]).min(axis=1)
    np.testing.assert_array_equal(np.abs(np.clip(values, -448, 448) - found), best)


@given(arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=False)), st.sampled_from(["fp16", "bf16"]))
def test_halves_hold_what_is_finite(values, kind):
    found = rounded(values, kind).astype(np.float64)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(values))
    assert np.all(np.abs(found[np.isfinite(found)]) <= LARGEST[kind])


@settings(max_examples=60)
@given(st.data())
def test_2_4_is_seen_and_one_weight_too_many_too(data):
    rows, groups = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    seed = data.draw(st.integers(0, 2**16))
    generator = np.random.default_rng(seed)
    weight = generator.uniform(0.5, 1, (rows, groups, 4)).astype(np.float32)
    for row in range(rows):
        for group in range(groups):
            weight[row, group, generator.permutation(4)[:2]] = 0
    flat = weight.reshape(rows, -1)
    assert is_2_4(flat, 1)
    assert is_2_4(flat.T, 0)
    assert is_2_4(np.moveaxis(flat.reshape(rows, -1, 1, 1), 0, 0), 1)
    spoilt = weight.copy()
    spoilt[0, -1, np.flatnonzero(spoilt[0, -1] == 0)[0]] = 1
    assert not is_2_4(spoilt.reshape(rows, -1), 1)
    assert not is_2_4(flat[:, :-1], 1)
