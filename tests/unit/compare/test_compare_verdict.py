"""The verdict on simulated samples, whose truth is known: how often it is wrong, and how often it finds."""

import math

import numpy as np
import pytest

from hwbench.compare import resample, verdict
from hwbench.compare.resample import Estimate, Restart
from hwbench.compare.student import t_quantile
from hwbench.records.base import Missing

ROUNDS, INFERENCES = 20, 15  # what the default budget gives for a model of 7 ms, in each of three restarts
MINIMUM = 1.02


def blocks(chance, rounds, noise):
    """Log medians of blocks: AR(1) noise within a block, one inference in twenty in a long tail."""
    shocks = chance.normal(size=(rounds, INFERENCES))
    samples = np.empty_like(shocks)
    samples[:, 0] = shocks[:, 0]
    for index in range(1, INFERENCES):
        samples[:, index] = 0.6 * samples[:, index - 1] + 0.8 * shocks[:, index]
    tail = (chance.random(shocks.shape) < 0.05) * chance.exponential(0.5, shocks.shape)
    return np.median(noise * samples + tail, axis=1)


def simulate(chance, *, change=0.0, process=0.005, noise=0.03, restarts=3):
    """Three processes a restart, each with an offset of its own, on a machine that drifts from round to round."""
    found = []
    for _ in range(restarts):
        offsets = chance.normal(0, process, 3) + np.array([0, 0, math.log1p(change)])
        drift = np.cumsum(chance.normal(0, 0.01, ROUNDS))
        values = [offset + drift + blocks(chance, ROUNDS, noise) for offset in offsets]
        found.append(Restart(a=values[0], again=values[1], b=values[2]))
    return found


def sides(count, minimum=MINIMUM, **truth):
    """The decision of each of ``count`` comparisons, stopped early where that is allowed."""
    chance = np.random.default_rng(7)
    when, levels = verdict.looks(3)
    said = []
    for seed in range(count):
        restarts = simulate(chance, **truth)
        for look, level in zip(when, levels, strict=True):
            estimate = resample.effect(restarts[:look], seed=seed)
            side = verdict.decide(verdict.ratio(estimate, 1 - level), minimum)
            if side != "unclear":
                break
        said.append(side)
    return said


@pytest.mark.parametrize("process", [0.0, 0.01, 0.04])
def test_the_same_thing_is_called_faster_or_slower_in_at_most_one_of_twenty(process):
    said = sides(200, process=process)
    assert said.count("higher") + said.count("lower") <= 10


def test_without_a_minimum_effect_the_interval_misses_the_truth_in_at_most_one_of_twenty():
    """The minimum effect hides how good the interval is; with next to none, only the interval keeps the rate down.

    Sixteen of two hundred: the rate is 5 % at most, and the 99 % limit of so many throws is sixteen.
    """
    said = sides(200, minimum=1 + 1e-12, process=0.01)
    assert said.count("higher") + said.count("lower") <= 16


def test_a_slow_down_of_five_percent_is_found():
    said = sides(200, change=0.05)
    assert said.count("higher") >= 180
    assert "lower" not in said


def test_the_same_thing_is_mostly_called_the_same_on_a_quiet_machine():
    assert sides(50, process=0.002, noise=0.02).count("same") >= 40


def test_a_process_lottery_larger_than_the_effect_is_not_called_an_effect():
    chance = np.random.default_rng(3)
    narrow = [resample.effect(simulate(chance, process=0.0), seed=0).error for _ in range(5)]
    wide = [resample.effect(simulate(chance, process=0.05), seed=0).error for _ in range(5)]
    assert min(wide) > 2 * max(narrow)


def test_a_noisier_b_is_not_judged_by_a_quiet_control():
    quiet = np.zeros(10)
    restarts = [Restart(a=quiet, again=quiet + 1e-4, b=quiet + offset) for offset in (0.0, 0.1, 0.2)]
    estimate = resample.effect(restarts, seed=0)
    assert estimate.df == 2
    assert estimate.error == pytest.approx(0.1 / math.sqrt(3), rel=0.05)


def test_resampling_is_seeded():
    restarts = simulate(np.random.default_rng(0))
    assert resample.effect(restarts, seed=1) == resample.effect(restarts, seed=1)
    assert resample.effect(restarts, seed=1) != resample.effect(restarts, seed=2)


@pytest.mark.parametrize(
    ("confidence", "df", "expected"),
    [
        (0.95, 1, 12.7062),
        (0.95, 2, 4.3027),
        (0.95, 5, 2.5706),
        (0.95, 30, 2.0423),
        (0.99, 1, 63.657),
        (0.99, 4, 4.6041),
    ],
)
def test_student(confidence, df, expected):
    assert t_quantile(confidence, df) == pytest.approx(expected, abs=5e-4 * expected / 10)


@pytest.mark.parametrize("restarts", [1, 2, 3, 4, 7, 20])
def test_looks_share_five_percent_and_end_with_the_last_restart(restarts):
    when, levels = verdict.looks(restarts)
    assert sum(levels) == pytest.approx(0.05)
    assert when[-1] == restarts
    assert list(when) == sorted(set(when))


@pytest.mark.parametrize(
    ("centre", "half", "side"),
    [
        (0.0, 0.01, "same"),
        (0.0, 0.03, "unclear"),
        (0.05, 0.01, "higher"),
        (-0.05, 0.01, "lower"),
        (0.03, 0.02, "unclear"),
        (0.015, 0.01, "unclear"),
    ],
)
def test_the_whole_interval_decides(centre, half, side):
    estimate = Estimate(log_ratio=centre, error=half / t_quantile(0.95, 5), df=5)
    assert verdict.decide(verdict.ratio(estimate, 0.95), MINIMUM) == side


def test_both_minimum_effects_must_be_exceeded():
    assert verdict.minimum(0.02, 1e-6, 1e-3) == pytest.approx(1.02)
    assert verdict.minimum(0.02, 1e-6, 1e-5) == pytest.approx(1.1)


def test_an_unsettled_comparison_says_what_would_settle_it():
    estimate = Estimate(log_ratio=0.035, error=0.008, df=5)
    reason = verdict.unsettled(estimate, MINIMUM, 0.97, budget_s=30, restarts=3)
    assert reason.code == "too_wide"
    more = int(reason.cure.split()[1])
    assert 3 < more < 12
    shrunk = t_quantile(0.97, 2 * more - 1) * 0.008 * math.sqrt(3 / more)
    assert 0.035 - shrunk > math.log(MINIMUM)
    assert f"--budget {10 * more}s" in reason.cure


def test_a_difference_at_the_minimum_effect_is_said_to_be_there():
    estimate = Estimate(log_ratio=math.log(1.0201), error=0.008, df=5)
    assert verdict.unsettled(estimate, MINIMUM, 0.97, budget_s=30, restarts=3).code == "at_the_limit"


def test_the_error_of_a_saved_median_grows_with_autocorrelation():
    chance = np.random.default_rng(1)
    independent = np.exp(0.05 * chance.normal(size=2000))
    correlated = np.empty(2000)
    correlated[0] = 0.0
    for index in range(1, 2000):
        correlated[index] = 0.95 * correlated[index - 1] + 0.31 * chance.normal()
    correlated = np.exp(0.05 * correlated)
    errors = [
        resample.quantile_in_blocks(values, 0.5, correlation=correlation, seed=0)[1].error
        for values, correlation in ((independent, 1.0), (correlated, 20.0))
    ]
    assert errors[0] == pytest.approx(1.2533 * 0.05 / math.sqrt(2000), rel=0.35)
    assert errors[1] > 3 * errors[0]


def test_few_blocks_give_no_estimate():
    assert resample.quantile_in_blocks(np.ones(100), 0.5, correlation=20.0, seed=0) is None


def test_equal_samples_have_no_error():
    value, estimate = resample.quantile_in_blocks(np.full(100, 2.0), 0.5, correlation=1.0, seed=0)
    assert (value, estimate.error) == (2.0, 0.0)


def test_a_single_restart_knows_the_lottery_from_the_control_alone():
    estimate = resample.effect(simulate(np.random.default_rng(0), restarts=1), seed=0)
    assert estimate.df == 1


def test_a_failed_control_is_told():
    control = verdict.ratio(Estimate(log_ratio=0.1, error=0.001, df=5), 0.95)
    assert verdict.control_fails(control, MINIMUM)
    assert isinstance(verdict.blind(control), Missing)
