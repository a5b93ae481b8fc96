import math
import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.measure.loop import sample
from hwbench.measure.stop import Count
from hwbench.records.base import Missing
from hwbench.stats import effective_size, mean_interval, median_interval, quantile, summarize
from hwbench.testing import FakeClock
from hwbench.units import format_seconds, format_si, parse_seconds

samples = st.lists(st.integers(0, 10**15), min_size=1, max_size=300)
floats = st.floats(-1e12, 1e12)
quick = settings(max_examples=150, deadline=None)


@quick
@given(st.lists(floats, min_size=1), st.floats(0, 1))
def test_a_quantile_lies_in_the_sample_and_is_numpys(values, p):
    ordered = sorted(values)
    result = quantile(ordered, p)
    slack = 1e-9 * max(1, *map(abs, ordered))
    assert ordered[0] - slack <= result <= ordered[-1] + slack
    assert math.isclose(result, np.quantile(ordered, p), rel_tol=1e-9, abs_tol=slack)


@quick
@given(samples)
def test_a_summary_is_consistent(values):
    summary = summarize(values)
    assert summary.n == len(values)
    assert summary.min_s <= summary.median_low_s <= summary.median_s <= summary.median_high_s <= summary.max_s
    assert 0 < summary.n_effective <= summary.n
    assert 0 <= summary.outliers < summary.n or summary.n == 1
    assert summary.iqr_s <= summary.max_s - summary.min_s + 1e-9
    told = [summary.p90_s, summary.p95_s, summary.p99_s, summary.p999_s]
    known = [value for value in told if not isinstance(value, Missing)]
    assert known == sorted(known)
    assert told[: len(known)] == known, "a rarer percentile needs more samples"


@quick
@given(samples, st.randoms(use_true_random=False))
def test_only_the_effective_size_depends_on_the_order(values, chance):
    shuffled = list(values)
    chance.shuffle(shuffled)
    one, other = summarize(values), summarize(shuffled)
    for name in one.__struct_fields__:
        if name not in {"n_effective", "median_low_s", "median_high_s"}:
            assert getattr(one, name) == getattr(other, name)


@quick
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=200), st.integers(1, 1000), st.integers(0, 10**9))
def test_the_effective_size_knows_no_unit(values, factor, offset):
    assert effective_size([value * factor + offset for value in values]) == effective_size(values)


@quick
@given(st.integers(1, 500), st.floats(0.01, 1))
def test_the_interval_only_grows_as_samples_are_worth_less(n, share):
    low, high = median_interval(range(n), n)
    wider_low, wider_high = median_interval(range(n), n * share)
    assert wider_low <= low <= (n - 1) / 2 <= high <= wider_high


@quick
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
def test_the_mean_lies_in_the_middle_of_its_interval(values):
    low, high = mean_interval(values)
    assert low <= high
    assert math.isclose((low + high) / 2, float(np.mean(values)), rel_tol=1e-9, abs_tol=1e-3)


@quick
@given(st.integers(0, 2000), st.integers(0, 2**32))
def test_the_loop_takes_exactly_what_is_asked_and_what_the_calls_took(count, seed):
    clock, chance, took = FakeClock(), random.Random(seed), []

    def call():
        took.append(chance.choice((10, 1_000, 1_000_000, 80_000_000)))
        clock.advance(took[-1] / 1e9)

    assert list(sample(call, clock, Count(count=count), lambda fraction: None)) == took
    assert len(took) == count


@quick
@given(st.floats(1e-9, 1e6))
def test_a_shown_duration_is_close_to_it(value):
    number, unit = format_seconds(value).split()
    shown = float(number) * {"s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit]
    assert math.isclose(shown, value, rel_tol=0.0051)
    assert len(number.replace(".", "")) <= 3 or unit == "s"


@quick
@given(st.floats(1e-14, 1e17))
def test_a_shown_quantity_is_close_to_it(value):
    number, unit = format_si(value, "J").split()
    prefixes = {"P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1, "m": 1e-3, "µ": 1e-6, "n": 1e-9, "p": 1e-12,
                "f": 1e-15}  # fmt: skip
    assert math.isclose(float(number) * prefixes[unit.removesuffix("J")], value, rel_tol=0.0051)


@quick
@given(st.integers(0, 10**6), st.sampled_from([("ms", 1e-3), ("s", 1), ("", 1), ("m", 60), ("min", 60), ("h", 3600)]))
def test_a_duration_means_what_it_says(number, unit):
    assert math.isclose(parse_seconds(f"{number}{unit[0]}"), number * unit[1])
