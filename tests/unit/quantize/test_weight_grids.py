"""Scales and integers of weights, and biases that must fit 32 bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.quantize.weights import (
    bias_fits_int32,
    dequantise,
    quantise,
    quantise_blocks,
    rounded,
    scales_for_bias,
    weight_scales,
)


class TestEightBits:
    def test_known_answer_per_channel(self):
        weight = np.array([[1.27, -0.635], [0.0, 0.0], [-2.54, 1.0]])
        scales = weight_scales(weight, 0)
        np.testing.assert_allclose(scales, [0.01, 1.0, 0.02], rtol=1e-6)
        assert quantise(weight, scales, 0).tolist() == [[127, -64], [0, 0], [-127, 50]]

    def test_known_answer_of_a_tensor(self):
        scale = weight_scales(np.array([[1.0, -12.7]]), None)
        assert scale.shape == ()
        assert quantise(np.array([[1.0, -12.7]]), scale, None).tolist() == [[10, -127]]

    def test_the_axis_is_where_the_channels_are(self):
        weight = np.random.default_rng(0).standard_normal((3, 4, 2))
        np.testing.assert_array_equal(weight_scales(weight, 1), weight_scales(weight.transpose(1, 0, 2), 0))
        np.testing.assert_array_equal(rounded(weight, 1), rounded(weight.transpose(1, 0, 2), 0).transpose(1, 0, 2))
        np.testing.assert_array_equal(weight_scales(weight, -1), weight_scales(weight, 2))

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.sampled_from([1e-30, 1.0, 1e20]))
    def test_no_weight_is_off_by_more_than_half_a_step(self, seed, size):
        weight = np.random.default_rng(seed).standard_normal((5, 7)) * size
        scales = weight_scales(weight, 0)
        values = quantise(weight, scales, 0)
        assert np.abs(values.astype(int)).max() == 127
        assert (np.abs(dequantise(values, scales, 0) - weight) <= 0.5001 * scales.astype(np.float64)[:, None]).all()

    def test_what_is_on_the_grid_stays(self):
        weight = rounded(np.random.default_rng(0).standard_normal((4, 9)), 0)
        np.testing.assert_allclose(rounded(weight, 0), weight, rtol=1e-7)

    def test_subnormal_weights_get_a_scale_that_runtimes_keep(self):
        assert weight_scales(np.array([[1e-44]]), 0)[0] >= np.finfo(np.float32).tiny


class TestFourBits:
    def test_blocks_with_a_short_last_one(self):
        weight = np.array([[7.0, -3.5, 0.7, 0.1, 14.0]])
        blocks = quantise_blocks(weight, 1, 2)
        np.testing.assert_allclose(blocks.scales, [[1.0, 0.1, 2.0]], rtol=1e-6)
        assert blocks.values.tolist() == [[7, -4, 7, 1, 7]]
        np.testing.assert_allclose(blocks.dequantised(), [[7, -4, 0.7, 0.1, 14]], rtol=1e-6)

    def test_along_the_first_axis(self):
        weight = np.random.default_rng(0).standard_normal((10, 3))
        one, other = quantise_blocks(weight, 0, 4), quantise_blocks(weight.T, 1, 4)
        np.testing.assert_array_equal(one.values, other.values.T)
        np.testing.assert_array_equal(one.dequantised(), other.dequantised().T)
        assert one.scales.shape == (3, 3)

    def test_smaller_blocks_are_closer(self):
        weight = np.random.default_rng(0).standard_normal((64, 256))
        errors = [np.square(quantise_blocks(weight, 1, size).dequantised() - weight).mean() for size in (256, 64, 16)]
        assert errors == sorted(errors, reverse=True)


class TestBias:
    def test_a_small_channel_beside_a_large_bias(self):
        """onnxruntime issue 22020."""
        bias, scales = np.array([1.0, 1.0]), np.array([1e-12, 1e-3], dtype=np.float32)
        assert bias_fits_int32(bias, 0.02, scales).tolist() == [False, True]
        enlarged = scales_for_bias(bias, 0.02, scales)
        assert bias_fits_int32(bias, 0.02, enlarged).all()
        assert enlarged[1] == scales[1]
        assert np.rint(1.0 / (0.02 * float(enlarged[0]))) == pytest.approx(2**30, rel=1e-6)

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def test_enlarged_scales_always_fit_and_never_shrink(self, seed):
        generator = np.random.default_rng(seed)
        bias = generator.standard_normal(8) * 10.0 ** generator.integers(-6, 6, 8)
        scales = (10.0 ** generator.uniform(-14, 0, 8)).astype(np.float32)
        enlarged = scales_for_bias(bias, 1e-3, scales)
        assert bias_fits_int32(bias, 1e-3, enlarged).all()
        assert (enlarged >= scales).all()

    def test_one_scale_for_the_tensor(self):
        scale = scales_for_bias(np.array([0.5, -3.0]), 0.1, np.float32(1e-12) * np.ones((), np.float32))
        assert scale.shape == ()
        assert bias_fits_int32(np.array([0.5, -3.0]), 0.1, scale).all()


@pytest.mark.parametrize(("axis", "size"), [(0, 4), (1, 4), (1, 5)])
def test_scales_of_blocks_that_round_with_least_error(axis, size):
    weight = np.random.default_rng(3).standard_t(3, size=(8, 12))
    best = quantise_blocks(weight, axis, size, largest=1, least_squares=True)
    plain = quantise_blocks(weight, axis, size, largest=1)
    assert best.scales.shape == plain.scales.shape
    ends = np.arange(0, weight.shape[axis], size)
    errors = [np.add.reduceat((blocks.dequantised() - weight) ** 2, ends, axis=axis) for blocks in (best, plain)]
    assert (errors[0] <= errors[1] + 1e-9).all()
    assert errors[0].sum() < 0.9 * errors[1].sum()
    one = np.take(weight, range(size), axis=axis).take(0, axis=1 - axis)  # the first block by itself
    steps = [np.abs(one).max() * percent / 100 for percent in range(10, 101)]
    least = min(((np.clip(np.rint(one / step), -1, 1) * step - one) ** 2).sum() for step in steps)
    assert errors[0].flat[0] == pytest.approx(least, rel=1e-5)
