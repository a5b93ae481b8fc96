from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_reference import im2col, to_image

from hwbench.sparse.lowering import Convolution, lower_convolution, torch_im2col

torch = pytest.importorskip("torch", reason="the oracle")

convolutions = st.builds(
    Convolution,
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)


@settings(max_examples=40, deadline=None)
@given(what=convolutions, batch=st.integers(1, 2), channels=st.integers(1, 3), seed=st.integers(0, 9))
def test_a_convolution_is_the_product_of_its_patches(what, batch, channels, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, channels, 7, 6))
    weight = rng.normal(size=(4, channels, *what.kernel))
    top, left, bottom, right = what.pads
    padded = torch.nn.functional.pad(torch.from_numpy(x), (left, right, top, bottom))
    wanted = torch.nn.functional.conv2d(
        padded, torch.from_numpy(weight), stride=what.strides, dilation=what.dilations
    ).numpy()
    patches = im2col(x, what)
    np.testing.assert_allclose(to_image(patches @ weight.reshape(4, -1).T, batch, *wanted.shape[2:]), wanted)
    np.testing.assert_array_equal(torch_im2col(torch.from_numpy(x), what).numpy(), patches)
    found = lower_convolution(what, x.shape, 4)
    assert (found.n, found.k) == patches.shape


def test_what_the_form_costs_is_told():
    pointwise = Convolution(kernel=(1, 1))
    free = lower_convolution(pointwise, (2, 64, 14, 14), 128, channels_last=True)
    assert (free.kind, free.n, free.k, free.moved_bytes) == ("pointwise", 392, 64, 0)
    assert lower_convolution(pointwise, (2, 64, 14, 14), 128).moved_bytes == 2 * 2 * 392 * (64 + 128)
    three = lower_convolution(Convolution(kernel=(3, 3), pads=(1, 1, 1, 1)), (2, 64, 14, 14), 128, channels_last=True)
    assert three.kind == "im2col"
    assert three.moved_bytes == 2 * 392 * 64 + 2 * 392 * 576
    assert lower_convolution(Convolution(kernel=(1, 1), strides=(2, 2)), (2, 64, 14, 14), 128).kind == "im2col"


def test_a_kernel_larger_than_its_input_is_refused():
    with pytest.raises(ValueError, match="reaches 5 x 5"):
        Convolution(kernel=(3, 3), dilations=(2, 2)).output(4, 4)
