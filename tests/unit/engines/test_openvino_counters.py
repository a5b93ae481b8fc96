"""Running means in whole microseconds, told apart into what they are means of."""

from __future__ import annotations

import numpy as np
import pytest

from hwbench.engines.openvino_counters import told_apart

UNITS_S = np.array([30e-6, 12.4e-6, 80e-6, 0.2e-6])
BEFORE = 10


def counted(times):
    """What OpenVINO's counters say of times [inferences, units], of which the first BEFORE come before."""
    means = np.cumsum(times, axis=0) / np.arange(1, len(times) + 1)[:, None]
    return np.floor(means * 1e6)[BEFORE - 1 :] / 1e6


def inferences(count, seed=0):
    rng = np.random.default_rng(seed)
    times = UNITS_S * rng.normal(1, 0.01, (count + BEFORE, 1))
    times[0] += [100e-6, 0, 300e-6, 5e-6]  # the first one of all
    return times


def test_the_first_inference_is_not_in_them():
    times = inferences(80)
    found = told_apart(counted(times), times[BEFORE:].sum(axis=1), BEFORE)
    assert found.shape == (80, 4)
    assert found.mean(axis=0)[:3] == pytest.approx(UNITS_S[:3], abs=1e-6)
    assert np.abs(counted(times)[-1] - UNITS_S).max() > 2.5e-6  # which the counters themselves are off by


def test_a_stall_is_booked_where_and_when_it_was():
    times = inferences(80)
    times[BEFORE + 30, 1] += 4e-3
    found = told_apart(counted(times), times[BEFORE:].sum(axis=1), BEFORE)
    assert found[30, 1] == pytest.approx(4e-3, rel=0.05)
    others = np.delete(found, 30, axis=0)
    assert others.mean(axis=0)[:3] == pytest.approx(UNITS_S[:3], abs=1.2e-6)


def test_a_stall_between_units_is_of_none():
    times = inferences(80)
    end_to_end = times[BEFORE:].sum(axis=1)
    end_to_end[7] += 5e-3
    found = told_apart(counted(times), end_to_end, BEFORE)
    assert found.mean(axis=0)[:3] == pytest.approx(UNITS_S[:3], abs=1e-6)


def test_inferences_differ_as_the_whole_does():
    times = inferences(80)
    times[BEFORE : BEFORE + 40] *= 1.1
    end_to_end = times[BEFORE:].sum(axis=1)
    found = told_apart(counted(times), end_to_end, BEFORE)
    assert found[:40, 2].mean() / found[40:, 2].mean() == pytest.approx(1.1, rel=0.01)
