import random
import statistics

import numpy as np
import pytest

from hwbench.records.base import Missing
from hwbench.stats import (
    effective_size,
    mean_interval,
    median_interval,
    quantile,
    summarize,
    supported_percentile,
)


class TestQuantile:
    @pytest.mark.parametrize("n", [1, 2, 3, 10, 101])
    @pytest.mark.parametrize("p", [0, 0.1, 0.25, 0.5, 0.9, 0.999, 1])
    def test_is_numpys(self, n, p):
        ordered = sorted(random.Random(n).random() for _ in range(n))
        assert quantile(ordered, p) == pytest.approx(np.quantile(ordered, p), rel=1e-12)

    def test_known_by_hand(self):
        assert quantile([10, 20, 30, 40], 0.5) == 25
        assert quantile([10, 20, 30, 40], 0.25) == 17.5


class TestMedianInterval:
    @pytest.mark.parametrize(
        ("n", "low", "high"),  # ranks from 1; n = 9 and 100 stand in tables of the sign test
        [(1, 1, 1), (2, 1, 2), (5, 1, 5), (6, 1, 6), (9, 2, 8), (10, 2, 9), (100, 40, 61)],
    )
    def test_ranks(self, n, low, high):
        assert median_interval(range(1, n + 1), n) == (low, high)

    def test_widens_by_the_effective_size(self):
        assert median_interval(range(1, 401), 100) == (161, 240)  # 200.5 -+ 1.96 sqrt(400)/2 sqrt(4), outwards

    def test_never_leaves_the_sample(self):
        assert median_interval(range(1, 11), 0.5) == (1, 10)

    @pytest.mark.parametrize("n", [20, 200])
    def test_covers_the_median_of_independent_samples(self, n):
        chance, covered, median = random.Random(5), 0, np.log(2)
        for _ in range(2000):
            low, high = median_interval(sorted(chance.expovariate(1) for _ in range(n)), n)
            covered += low <= median <= high
        assert 0.93 <= covered / 2000 <= 0.98 if n == 20 else 0.93 <= covered / 2000 <= 0.97

    def test_covers_with_the_effective_size_of_independent_samples(self):
        chance, covered = random.Random(6), 0
        for _ in range(2000):
            samples = [chance.expovariate(1) for _ in range(100)]
            low, high = median_interval(sorted(samples), effective_size(samples))
            covered += low <= np.log(2) <= high
        assert 0.93 <= covered / 2000 <= 0.985  # a little wide: only positive correlations are taken off

    def test_covers_the_median_of_correlated_samples_only_with_the_effective_size(self):
        chance, with_size, without = random.Random(7), 0, 0
        runs, n, rho = 400, 400, 0.8
        for _ in range(runs):
            samples, value = [], chance.gauss(0, 1)
            for _ in range(n):
                value = rho * value + (1 - rho**2) ** 0.5 * chance.gauss(0, 1)
                samples.append(value)
            ordered = sorted(samples)
            low, high = median_interval(ordered, effective_size(samples))
            with_size += low <= 0 <= high
            low, high = median_interval(ordered, n)
            without += low <= 0 <= high
        assert with_size / runs >= 0.90
        assert without / runs < 0.80


class TestEffectiveSize:
    def test_independent_samples_count_nearly_in_full(self):
        chance = random.Random(1)
        sizes = [effective_size([chance.random() for _ in range(500)]) for _ in range(50)]
        assert 0.8 * 500 < statistics.median(sizes) <= 500

    def test_ar1_is_worth_what_theory_says(self):
        chance, sizes, rho = random.Random(2), [], 0.5
        for _ in range(30):
            samples = [chance.gauss(0, 1)]
            for _ in range(3999):
                samples.append(rho * samples[-1] + chance.gauss(0, 1))
            sizes.append(effective_size(samples) / 4000)
        # Signs of a Gaussian process correlate as 2/pi arcsin(rho^k): what the variance of a median hangs on.
        excess = 1 + 2 * sum(2 / np.pi * np.arcsin(rho**lag) for lag in range(1, 40))
        assert statistics.median(sizes) == pytest.approx(1 / excess, rel=0.25)

    def test_slow_correlation_is_seen(self):
        chance, covered, rho, n = random.Random(8), 0, 0.99, 10_000
        for _ in range(60):
            samples, value = [], chance.gauss(0, 1)
            for _ in range(n):
                value = rho * value + (1 - rho**2) ** 0.5 * chance.gauss(0, 1)
                samples.append(value)
            low, high = median_interval(sorted(samples), effective_size(samples))
            covered += low <= 0 <= high
        assert covered / 60 >= 0.88

    def test_a_trend_is_worth_little(self):
        assert effective_size(range(1000)) < 15

    def test_alternation_is_not_worth_more_than_it_is(self):
        assert effective_size([1, 2] * 100) == 200

    def test_constant_samples_and_few_samples(self):
        assert effective_size([7] * 100) == 100
        assert effective_size([1, 2, 3]) == 3

    def test_one_outlier_does_not_decide(self):
        chance = random.Random(3)
        samples = [chance.random() for _ in range(300)]
        assert effective_size([*samples[:150], 1e12, *samples[150:]]) == pytest.approx(effective_size(samples), rel=0.1)

    def test_ties_share_their_rank(self):
        steps = [1] * 50 + [2] * 50
        assert effective_size(steps) < 12
        assert effective_size([value + 5 for value in steps]) == effective_size(steps)


class TestMeanInterval:
    def test_known_by_hand(self):
        low, high = mean_interval([1.0, 2.0, 3.0])  # sd 1, t = 4.302653 with 2 degrees of freedom
        assert low == pytest.approx(2 - 4.302653 / 3**0.5)
        assert high == pytest.approx(2 + 4.302653 / 3**0.5)

    def test_it_is_students(self):
        for n, t in ((2, 12.706), (6, 2.571), (17, 2.120), (31, 2.042), (121, 1.980)):
            values = [float(i % 2) for i in range(n)]
            half = (mean_interval(values)[1] - mean_interval(values)[0]) / 2
            used = half / (statistics.stdev(values) / n**0.5)
            assert used == pytest.approx(t, rel=3e-4)


class TestSupportedPercentile:
    @pytest.mark.parametrize(
        ("p", "needed"), [(0.9, 100), (0.95, 200), (0.99, 1000), (0.999, 10_000), (0.9999, 100_000)]
    )
    def test_exactly_at_the_border(self, p, needed):
        assert isinstance(supported_percentile(range(needed), p), float)
        missing = supported_percentile(range(needed - 1), p)
        assert isinstance(missing, Missing)
        assert missing.code == "too_few_samples"
        assert str(needed) in missing.why
        assert str(needed - 1) in missing.why
        assert f"--iterations {needed}" in missing.cure


class TestSummarize:
    def test_one_sample(self):
        summary = summarize([5_000_000])
        assert (summary.median_s, summary.median_low_s, summary.median_high_s) == (0.005, 0.005, 0.005)
        assert (summary.n, summary.stdev_s, summary.iqr_s, summary.outliers) == (1, 0, 0, 0)
        assert isinstance(summary.p90_s, Missing)

    def test_two_samples_are_the_whole_range(self):
        summary = summarize([3_000_000, 1_000_000])
        assert (summary.median_low_s, summary.median_s, summary.median_high_s) == (0.001, 0.002, 0.003)
        assert summary.stdev_s == pytest.approx(2**0.5 * 1e-3)

    def test_constant_samples(self):
        summary = summarize([1000] * 200)
        assert summary.median_low_s == summary.median_s == summary.median_high_s == summary.p95_s == 1e-6
        assert (summary.stdev_s, summary.iqr_s, summary.outliers, summary.n_effective) == (0, 0, 0, 200)

    def test_against_numpy(self):
        chance = random.Random(11)
        samples = [round(chance.lognormvariate(0, 0.3) * 1e6) for _ in range(1000)]
        seconds = np.array(samples) / 1e9
        summary = summarize(samples)
        assert summary.median_s == pytest.approx(np.median(seconds))
        assert summary.mean_s == pytest.approx(seconds.mean())
        assert summary.stdev_s == pytest.approx(seconds.std(ddof=1))
        assert summary.iqr_s == pytest.approx(np.subtract(*np.quantile(seconds, [0.75, 0.25])))
        assert summary.p90_s == pytest.approx(np.quantile(seconds, 0.90))
        assert summary.p99_s == pytest.approx(np.quantile(seconds, 0.99))
        assert isinstance(summary.p999_s, Missing)
        assert (summary.min_s, summary.max_s) == (seconds.min(), seconds.max())

    def test_outliers_are_counted_and_kept(self):
        samples = [100, 101, 102, 103] * 25 + [10_000, 1]
        summary = summarize(samples)
        assert summary.outliers == 2
        assert summary.n == 102
        assert summary.max_s == pytest.approx(1e-5)

    def test_order_matters_to_the_effective_size_alone(self):
        chance = random.Random(12)
        samples = [round(1e6 * (1 + 0.1 * chance.random())) for _ in range(300)]
        one, other = summarize(sorted(samples)), summarize(samples)
        assert one.n_effective < other.n_effective
        assert one.median_s == other.median_s

    def test_no_samples_are_no_summary(self):
        with pytest.raises(ValueError, match="needs samples"):
            summarize([])
