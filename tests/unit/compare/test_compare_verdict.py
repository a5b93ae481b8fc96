"""The verdict on simulated samples, whose truth is known: how often it is wrong, and how often it finds.

What is simulated is what saved comparisons show (docs/compare.md): a floor that is the same to a few tenths of a
percent, and disturbances from outside that only ever slow down, by a few percent to a fifth, for one block or for
several rounds; to that the offsets that processes of larger programs have.
"""

import functools
import math
import re
from collections import Counter

import numpy as np
import pytest

from hwbench.compare import resample, verdict
from hwbench.compare.resample import Estimate, Restart
from hwbench.records.base import Missing
from hwbench.student import t_quantile

ROUNDS, RESTARTS = 5, 10  # what the default budget gives where a process starts in half a second
MINIMUM = 1.02
MORE = 33 / 32 - 1  # one layer more


def disturbed(chance, count, share, length):
    """A chain of two states over ``count`` blocks: a ``share`` of them is disturbed, ``length`` in a row on average."""
    leave, enter = 1 / length, share / (1 - share) / length
    states, now = np.empty(count, bool), chance.random() < share
    for index, throw in enumerate(chance.random(count)):
        states[index] = now
        now = throw >= leave if now else throw < enter
    return states


def offsets(chance, kind, process):
    """What each of three processes is off by for as long as it lives."""
    if kind == "heavy":
        return chance.standard_t(3, 3) / math.sqrt(3) * process
    if kind == "lucky":  # one in seven is far off
        return (chance.random(3) < 0.15) * 4 * process * chance.random(3)
    if kind == "uneven":  # some restarts scatter much more than others
        return chance.normal(0, process, 3) * math.exp(chance.normal())
    return chance.normal(0, process, 3)


def simulate(
    chance, *, change=0.0, process=0.003, kind="normal", share=0.12, length=3.0, drift=0.0, restarts=RESTARTS, b=1.0
):
    """Restarts of three processes; ``b``: how much more B's processes scatter than A's."""
    found = []
    for _ in range(restarts):
        count = 3 * ROUNDS
        noise = 0.002 * np.abs(chance.standard_t(4, count))
        hit = disturbed(chance, count, share, length) * chance.gamma(2, 0.04, count) if share else 0.0
        times = noise + hit + np.cumsum(chance.normal(0, drift, count))
        values = chance.permuted(times.reshape(ROUNDS, 3), axis=1).T
        values = values + (offsets(chance, kind, process) * (1, 1, b) + (0, 0, math.log1p(change)))[:, None]
        found.append(Restart(a=values[0], again=values[1], b=values[2]))
    return found


@functools.cache
def intervals(count, restarts=RESTARTS, **truth):
    """The intervals at the looks of each of ``count`` comparisons."""
    chance = np.random.default_rng(7)
    when, levels = verdict.looks(restarts)
    found = []
    for seed in range(count):
        measured = simulate(chance, restarts=restarts, **truth)
        estimates = [resample.effect(measured[:look], seed=seed) for look in when]
        found.append([verdict.ratio(item, 1 - level) for item, level in zip(estimates, levels, strict=True)])
    return found


def sides(count, minimum=MINIMUM, **truth):
    """What is decided in each, stopped early where that is allowed; a Counter."""
    decided = [[verdict.decide(item, minimum) for item in found] for found in intervals(count, **truth)]
    return Counter(next((side for side in said if side != "unclear"), "unclear") for said in decided)


MACHINES = {
    "as measured": {},
    "quiet": {"process": 0.0, "share": 0.0},
    "busy": {"share": 0.4, "length": 6.0},
    "heavy tails": {"process": 0.01, "kind": "heavy"},
    "some far off": {"process": 0.02, "kind": "lucky"},
    "uneven restarts": {"process": 0.005, "kind": "uneven"},
    "drifting": {"drift": 0.004},
    "wide scatter": {"process": 0.02},
    "three restarts": {"process": 0.01, "restarts": 3},
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_same_thing_is_called_faster_or_slower_in_at_most_one_of_twenty(machine):
    said = sides(200, **MACHINES[machine])
    assert said["higher"] + said["lower"] <= 10


@pytest.mark.parametrize("machine", MACHINES)
def test_without_a_minimum_effect_the_interval_misses_the_truth_in_at_most_one_of_twenty(machine):
    """The minimum effect hides how good the interval is; with next to none, only the interval keeps the rate down.

    Sixteen of two hundred: the rate is 5 % at most, and the 99 % limit of so many throws is sixteen.
    """
    said = sides(200, minimum=1 + 1e-12, **MACHINES[machine])
    assert said["higher"] + said["lower"] <= 16


def test_the_truth_is_missed_little_more_often_where_b_scatters_twice_as_much():
    said = sides(200, minimum=1 + 1e-12, process=0.005, b=2.0)
    assert said["higher"] + said["lower"] <= 20


@pytest.mark.parametrize("machine", ["as measured", "quiet", "drifting"])
def test_a_slow_down_of_three_percent_is_found(machine):
    said = sides(200, change=MORE, **MACHINES[machine])
    assert said["higher"] >= 180
    assert not said["lower"]


@pytest.mark.parametrize("machine", ["as measured", "quiet", "drifting", "uneven restarts"])
def test_the_same_thing_is_mostly_called_the_same(machine):
    assert sides(200, **MACHINES[machine])["same"] >= 180


def test_lopsided_noise_does_not_favour_a_side():
    """The median of ``b - (a + again) / 2`` lies off zero where noise only slows down; levels told apart hardly do."""
    chance = np.random.default_rng(11)
    simulated = [simulate(chance, process=0.0) for _ in range(200)]
    plain = [np.median(item.b - (item.a + item.again) / 2) for restarts in simulated for item in restarts]
    found = [resample.effect(restarts, seed=0).log_ratio for restarts in simulated]
    assert np.mean(plain) < -0.0003
    assert abs(np.mean(found)) < 0.00015


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


def test_one_disturbed_restart_of_ten_changes_little():
    measured = simulate(np.random.default_rng(5), process=0.001, share=0.0)
    clean = resample.effect(measured, seed=0)
    hit = [Restart(a=item.a, again=item.again, b=item.b + (0.1 if number == 4 else 0.0)) for number, item in
           enumerate(measured)]  # fmt: skip
    spoilt = resample.effect(hit, seed=0)
    assert abs(spoilt.log_ratio - clean.log_ratio) < 0.001
    assert spoilt.half_width(0.95) < 0.002


def test_adding_a_constant_to_b_adds_it_to_the_ratio_and_does_nothing_else():
    measured = simulate(np.random.default_rng(6))
    shifted = [Restart(a=item.a, again=item.again, b=item.b + 0.7) for item in measured]
    before, after = (resample.effect(item, seed=0) for item in (measured, shifted))
    assert after.log_ratio - before.log_ratio == pytest.approx(0.7)
    assert after.error == pytest.approx(before.error)
    assert resample.control(measured, seed=0).log_ratio == pytest.approx(resample.control(shifted, seed=0).log_ratio)


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
    more = int(re.match(r"--budget (\d+)s", reason.cure)[1]) // 10
    assert 3 < more < 12
    shrunk = t_quantile(0.97, 2 * more - 1) * 0.008 * math.sqrt(3 / more)
    assert 0.035 - shrunk > math.log(MINIMUM)


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
