"""Against published values and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.stats import Z95
from hwbench.verify.intervals import (
    bootstrap,
    clopper_pearson,
    paired_means,
    paired_shares,
    wilson,
)


def test_wilson_published():
    """Newcombe, Statistics in Medicine 17 (1998) 857-872, table I: 81 of 263 and 15 of 148, method 3."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20)[0] == 0.0
    assert wilson(0, 20)[1] == pytest.approx(0.1611, abs=1e-4)


def test_clopper_pearson_published():
    """The same table, method 5: 81 of 263; and the rule of three for nothing seen."""
    assert clopper_pearson(81, 263) == pytest.approx((0.2527, 0.3676), abs=1e-4)
    low, high = clopper_pearson(0, 100)
    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / 100), abs=1e-9)
    assert clopper_pearson(100, 100)[1] == 1.0


def test_tango_without_a_disagreement():
    """The score equation with b = c = 0 has the closed form z^2 / (n + z^2)."""
    z = 1.6448536269514722
    assert paired_shares(0, 0, 40) == pytest.approx((-(z**2) / (40 + z**2), z**2 / (40 + z**2)), abs=1e-9)


def test_tango_solves_its_equation():
    """At either end the test that the true difference is just that gives just z (Tango 1998, equation 10)."""
    b, c, n = 12, 5, 120
    for end, z in zip(paired_shares(b, c, n, Z95), (Z95, -Z95), strict=True):
        a2, b2, c2 = 2 * n, -b - c + (2 * n - b + c) * end, -c * end * (1 - end)
        q = (math.sqrt(b2 * b2 - 4 * a2 * c2) - b2) / (2 * a2)
        assert (b - c - n * end) / math.sqrt(n * (2 * q + end * (1 - end))) == pytest.approx(z, abs=1e-6)


def test_paired_shares_mirror():
    low, high = paired_shares(9, 4, 500)
    assert paired_shares(4, 9, 500) == pytest.approx((-high, -low), abs=1e-9)
    assert low < 0.01 < high


@given(b=st.integers(0, 60), c=st.integers(0, 60), more=st.integers(0, 1000))
def test_paired_shares_contain_the_estimate(b, c, more):
    n = b + c + more + 1
    low, high = paired_shares(b, c, n)
    assert -1 <= low <= (b - c) / n <= high <= 1


@pytest.mark.parametrize(("worse", "better"), [(0.02, 0.01), (0.005, 0.005), (0.05, 0.0)])
def test_each_end_of_paired_shares_holds_with_95_percent(worse, better):
    rng = np.random.default_rng(1)
    truth = worse - better
    missed = 0
    runs = 1500
    for b, c, _ in rng.multinomial(400, (worse, better, 1 - worse - better), size=runs):
        missed += paired_shares(int(b), int(c), 400)[1] < truth
    assert missed / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_paired_means_hold():
    rng = np.random.default_rng(2)
    missed = sum(paired_means(rng.normal(1.0, 2.0, 20))[1] < 1.0 for _ in range(2000))
    assert 0.03 < missed / 2000 < 0.07
    assert paired_means(np.array([1.0])) == (-math.inf, math.inf)


def test_bootstrap_is_seeded_and_holds_the_value():
    values = np.random.default_rng(3).normal(5, 1, 200)
    one = bootstrap(lambda at: float(np.mean(values[at])), 200, seed=1, alpha=0.05)
    assert one == bootstrap(lambda at: float(np.mean(values[at])), 200, seed=1, alpha=0.05)
    assert one[0] < np.mean(values) < one[1]
    assert one[1] - one[0] == pytest.approx(2 * 1.96 * np.std(values) / math.sqrt(200), rel=0.15)
