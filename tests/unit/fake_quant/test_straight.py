"""Gradients of rounding: straight through, and of learned steps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.fake_quant.straight import RoundedActivations, RoundedWeights, fake_quantise, round_through


def _spread(count=200, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=count) * 3).requires_grad_()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.floats(0.05, 2), st.sampled_from([(-127, 127), (-7, 7), (-1, 1), (0, 255), (-60, 0)]))
def test_gradient_is_one_inside_and_zero_outside(seed, scale, ends):
    numbers = _spread(seed=seed)
    fake_quantise(numbers, torch.tensor(scale, dtype=torch.float64), *ends).sum().backward()
    inside = (numbers.detach() >= ends[0] * scale) & (numbers.detach() <= ends[1] * scale)
    np.testing.assert_allclose(numbers.grad.numpy(), inside.numpy().astype(float), atol=1e-12)


def test_rounding_is_half_to_even_and_its_gradient_is_one():
    numbers = torch.tensor([0.5, 1.5, -0.5, 2.4], requires_grad=True)
    rounded = round_through(numbers)
    rounded.sum().backward()
    assert rounded.tolist() == [0, 2, 0, 2]
    assert numbers.grad.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("largest", [1, 7, 127])
def test_gradient_of_a_learned_step_is_the_formula_of_lsq(largest):
    weights = _spread(64).detach().float().reshape(1, 64)
    module = RoundedWeights(torch.tensor([[0.8]]), largest, weights, group=None, axis=1, learned=True)
    module(weights).sum().backward()
    ratio = weights.double() / 0.8
    inside = torch.round(ratio) - ratio
    wanted = torch.where(ratio.abs() <= largest, inside, torch.sign(ratio) * largest).sum() / (64 * largest) ** 0.5
    assert float(module.step.grad) == pytest.approx(float(wanted), rel=1e-4, abs=1e-4)


def test_gradient_of_a_learned_step_is_that_of_its_surrogate():
    """With the rounding error frozen, v -> clamp(v / s) s + e s is smooth in s: finite differences tell its slope."""
    numbers, scale = _spread(100).detach(), 0.37

    def surrogate(s):
        ratio = numbers / scale
        frozen = torch.round(ratio.clamp(-7, 7)) - ratio.clamp(-7, 7)
        return float((((numbers / s).clamp(-7, 7) + frozen) * s).sum())

    step = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    fake_quantise(numbers, step, -7, 7).sum().backward()
    slope = (surrogate(scale + 1e-6) - surrogate(scale - 1e-6)) / 2e-6
    assert float(step.grad) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("largest", [1, 7, 127])
@pytest.mark.parametrize(("shape", "group"), [((4, 1), None), ((1, 1), None), ((4, 3), 4)])
@pytest.mark.parametrize("learned", [False, True])
def test_weights_lie_on_their_grid(largest, shape, group, learned):
    weights = _spread(40).detach().float().reshape(4, 10)
    scales = torch.rand(shape) * 0.5 + 0.1
    module = RoundedWeights(scales, largest, weights, group=group, axis=1, learned=learned)
    wide = scales.repeat_interleave(group, 1)[:, :10] if group else scales
    steps = module(weights) / wide
    torch.testing.assert_close(steps, torch.round(steps), atol=1e-4, rtol=0)
    assert steps.abs().max() <= largest + 1e-4
    torch.testing.assert_close(module.scales(weights).detach(), scales)


def test_scales_that_are_not_learned_follow_the_largest_weight():
    weights = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    module = RoundedWeights(torch.tensor([[0.5], [0.25]]), 7, weights, group=None, axis=1, learned=False)
    torch.testing.assert_close(module.scales(weights * 2), torch.tensor([[1.0], [0.5]]))


def test_a_channel_of_zeros_stays_zero():
    weights = torch.zeros(2, 3, requires_grad=True)
    for learned in (False, True):
        module = RoundedWeights(torch.ones(2, 1), 1, weights.detach(), group=None, axis=1, learned=learned)
        found = module(weights)
        found.sum().backward()
        assert found.abs().max() == 0
        assert torch.isfinite(weights.grad).all()


def test_activations_are_cut_off_at_their_ends():
    module = RoundedActivations(0.5, -10, 245, learned=True)
    found = module(torch.tensor([[-100.0, 0.0, 0.3, 1000.0]]))
    assert found.tolist() == [[-5.0, 0.0, 0.5, 122.5]]
    assert module.ends == (-5.0, 122.5)
    found.sum().backward()
    assert module.step.grad is not None
