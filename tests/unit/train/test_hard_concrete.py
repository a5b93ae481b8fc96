"""Hard-concrete gates against the paper's closed forms, and drawn many times."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="gates are torch modules")

from scipy import integrate, special  # noqa: E402 - scipy comes with the tests' other libraries

from hwbench.train.hard_concrete import BETA, GAMMA, TO_SHUT, ZETA, GatePenalty, HardConcrete  # noqa: E402

ALPHAS = (-6.0, -2.5, -1.0, 0.0, 0.7, 2.5, 5.0)


def _gate(alpha: float, speed: float = 1.0) -> HardConcrete:
    gate = HardConcrete(speed)
    gate.raw.data.fill_(alpha / speed)
    return gate


def _z(u: np.ndarray, alpha: float) -> np.ndarray:
    """The distribution as the paper writes it, equations 10 and 11."""
    s = special.expit((np.log(u) - np.log(1 - u) + alpha) / BETA)
    return np.minimum(1, np.maximum(0, s * (ZETA - GAMMA) + GAMMA))


def test_constants_are_those_of_the_paper():
    assert (BETA, GAMMA, ZETA) == (2 / 3, -0.1, 1.1)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_chance_to_be_open_is_that_of_the_draws(alpha):
    u = (np.arange(400_000) + 0.5) / 400_000
    gate = _gate(alpha)
    closed_form = special.expit(alpha - BETA * math.log(-GAMMA / ZETA))
    assert float(gate.open_chance().detach()) == pytest.approx(closed_form, rel=1e-5)
    assert closed_form == pytest.approx((_z(u, alpha) > 0).mean(), abs=1e-5)
    drawn = gate.sample(torch.from_numpy(u)).detach().numpy()
    np.testing.assert_allclose(drawn, _z(u, alpha), atol=1e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_without_noise_it_is_the_stretched_sigmoid(alpha):
    gate = _gate(alpha).eval()
    value = min(1.0, max(0.0, 1.2 / (1 + math.exp(-alpha)) - 0.1))
    assert float(gate.value().detach()) == pytest.approx(value, abs=1e-6)
    x = torch.randn(3, 2)
    assert torch.allclose(gate(x), x * value, atol=1e-6)


def test_how_far_a_gate_has_to_fall():
    assert pytest.approx(4.898, abs=1e-3) == TO_SHUT
    assert float(_gate(2.5 - TO_SHUT - 1e-4).value().detach()) == 0.0
    assert float(_gate(2.5 - TO_SHUT + 1e-3).value().detach()) > 0.0


def test_a_new_gate_is_open_and_a_shut_one_is_exactly_zero():
    assert float(HardConcrete().value().detach()) == 1.0
    assert float(HardConcrete(50.0).value().detach()) == 1.0
    assert float(_gate(-2.5).value().detach()) == 0.0


def test_in_training_it_draws_one_number_for_each_item():
    gate, x = _gate(0.0).train(), torch.ones(4000, 2, 3)
    torch.manual_seed(0)
    draws = gate(x).detach().reshape(4000, -1).numpy()
    assert (draws == draws[:, :1]).all()
    wanted = integrate.quad(lambda u: float(_z(np.array(u), 0.0)), 0, 1, limit=200)[0]
    assert draws.mean() == pytest.approx(wanted, abs=0.03)
    assert {0.0, 1.0} <= set(draws[:, 0].tolist())
    assert len(set(draws[:, 0].tolist())) > 1000


def test_the_penalty_and_its_gradient_are_the_closed_form():
    gates = {"a": _gate(0.3), "b": _gate(-1.0, speed=10.0)}
    hook = GatePenalty(gates, {"a": 0.25, "b": 0.75}, 2.0)
    shift = BETA * math.log(-GAMMA / ZETA)
    chance = {name: special.expit(alpha - shift) for name, alpha in (("a", 0.3), ("b", -1.0))}
    penalty = hook.penalty()
    assert float(penalty.detach()) == pytest.approx(2 * (0.25 * chance["a"] + 0.75 * chance["b"]), rel=1e-5)
    penalty.backward()
    assert float(gates["a"].raw.grad[0]) == pytest.approx(2 * 0.25 * chance["a"] * (1 - chance["a"]), rel=1e-5)
    assert float(gates["b"].raw.grad[0]) == pytest.approx(10 * 2 * 0.75 * chance["b"] * (1 - chance["b"]), rel=1e-5)
    assert hook.log_alphas() == pytest.approx({"a": 0.3, "b": -1.0})
