"""Objectives and constraints in the user's words, and by how much they are broken."""

import pytest

from hwbench.errors import UsageError
from hwbench.records.search import Quantity
from hwbench.search.goals import constraint, objectives, surely_broken, violations


@pytest.mark.parametrize(
    ("text", "quantity", "sense", "limit"),
    [
        ("accuracy drop <= 1pp", "accuracy drop", "<=", 0.01),
        ("accuracy >= 95%", "accuracy", ">=", 0.95),
        ("latency<=5ms", "latency", "<=", 0.005),
        ("latency-per-sample < 250us", "latency-per-sample", "<=", 250e-6),
        ("size <= 4 MiB", "size", "<=", 4 * 2**20),
        ("memory <= 200MB", "memory", "<=", 2e8),
        ("energy <= 3 mJ", "energy", "<=", 3e-3),
        ("accuracy drop <= .5pp", "accuracy drop", "<=", 0.005),
        ("size <= 4mib", "size", "<=", 4 * 2**20),
        ("memory <= 100KB", "memory", "<=", 1e5),
        ("size <= 1.5gb", "size", "<=", 1.5e9),
    ],
)
def test_constraints(text, quantity, sense, limit):
    found = constraint(text)
    assert (found.quantity, found.sense) == (quantity, sense)
    assert found.limit == pytest.approx(limit)


@pytest.mark.parametrize("text", ["latency", "latency <= soon", "speed <= 5ms", "size <= 4 cows", "accuracy > 1 dog"])
def test_no_constraints(text):
    with pytest.raises(UsageError, match="--constraint"):
        constraint(text)


@pytest.mark.parametrize("text", ["accuracy drop <= 1%", "accuracy drop <= .5 %"])
def test_a_percentage_of_a_drop_is_asked_for_in_points(text):
    with pytest.raises(UsageError) as raised:
        constraint(text)
    assert "pp" in raised.value.hint.split("change")[0]


@pytest.mark.parametrize("text", ["size <= .mib", "size <= .", "latency <= 1MS", "energy <= 1MJ"])
def test_no_number_and_other_units_stay_refused(text):
    with pytest.raises(UsageError):
        constraint(text)


@pytest.mark.parametrize("names", [[], ["latency", "latency"], ["speed"]])
def test_no_objectives(names):
    with pytest.raises(UsageError):
        objectives(names)
    assert objectives(["accuracy"])[0].direction == "maximize"


def test_violations_are_fractions_of_the_limit():
    bounds = [constraint("latency <= 4ms"), constraint("accuracy >= 0.8"), constraint("size <= 1KiB")]
    found = [Quantity(metric="latency", value=0.005, low=0.0039, high=0.006), Quantity(metric="accuracy", value=0.9)]
    broken = violations(bounds, found)
    assert broken == {"latency <= 4ms": pytest.approx(0.25), "accuracy >= 0.8": pytest.approx(-0.125)}
    assert surely_broken(bounds, found[0]) is None, "its interval reaches below the limit"
    assert surely_broken(bounds, Quantity(metric="latency", value=0.005, low=0.0041, high=0.006)) is bounds[0]
