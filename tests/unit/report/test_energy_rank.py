import csv
import io

import msgspec
import pytest
from fixtures_energy import (
    batch_result,
    energy_result,
    make_run,
    power_limits,
    power_modes,
    repeated,
    sweep,
    with_run,
)
from fixtures_results import STOLEN, make_device, make_estimate, make_measurement, make_model, make_result
from hypothesis import given
from hypothesis import strategies as st

from hwbench.meters.estimate import estimate
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyEstimate, EnergyReading, EnergyRun
from hwbench.records.measurement import validity
from hwbench.records.profile import Figure
from hwbench.report.energy_curves import curves, planes
from hwbench.report.energy_data import energy_csv
from hwbench.report.energy_gather import energies
from hwbench.report.energy_rank import Point, balanced, front, interval, knee, verdicts
from hwbench.report.energy_rows import Joules, grouped
from hwbench.report.html import render_page


def verdict(*results):
    """Return the one verdict over the one group of these results."""
    (group,) = grouped(energies(results).rows)
    (said,) = verdicts(group)
    return said


def of(name, watts, **changes):
    return with_run(name, "fp32", make_run(watts, 4e-3), **changes)


def point(x, y, row=None):
    return Point(row=row, x=x, y=y, low=y, high=y)


def test_the_least_energy_apart_from_the_next_is_best():
    said = verdict(make_result(of("a", 60.0), of("b", 50.0)))
    assert said.best.name == "b fp32"
    assert "b fp32 needs the least energy: 200.0 mJ per inference" in said.sentence
    assert "1.20 times as much" in said.sentence
    assert "gain cancels" in said.sentence


@pytest.mark.parametrize("flag", ["counter_power_mismatch", "sensor_stale", "counter_constant:dram"])
def test_a_row_whose_instrument_contradicts_itself_is_not_ranked(flag):
    doubtful = with_run("b", "fp32", make_run(30.0, 4e-3, flags=(flag,)))
    said = verdict(make_result(of("a", 60.0), of("c", 50.0), doubtful))
    assert said.best.name == "c fp32"
    assert f"Not ranked: b fp32 (its energy is in doubt: {flag})" in said.sentence


def test_overlapping_repeats_are_a_tie():
    said = verdict(make_result(of("a", 50.0), of("b", 50.5)))
    assert said.best is None
    assert [row.name for row in said.tied] == ["a fp32", "b fp32"]
    assert "does not tell" in said.sentence


def test_across_devices_the_instruments_uncertainty_counts():
    """6 % apart with 0.9 % scatter is a difference on one instrument, and none over two that may each be 10 % off."""
    one = make_result(of("a", 50.0))
    same = make_result(of("a", 53.0), run_id="same device")
    other = make_result(of("a", 53.0), device=make_device("another", fingerprint="cpu-2"))
    assert verdict(one, same).best is not None
    assert "one after the other" in verdict(one, same).sentence
    said = verdict(one, other)
    assert said.best is None
    assert "own uncertainty" in said.sentence


def test_both_intervals_are_added_in_squares():
    joules = Joules(value=1.0, low=0.97, high=1.03, stdev=0.01, n=5, instrument=0.04)
    assert interval(joules, whole=False) == pytest.approx((0.97, 1.03))
    assert interval(joules, whole=True) == pytest.approx((0.95, 1.05))


@pytest.mark.parametrize(
    ("changes", "measurement", "why"),
    [
        ({"provenance": "replayed"}, {}, "replayed from a recording"),
        ({}, {"validity": validity((STOLEN,))}, "the measurement is invalid"),
        ({"total_j": Missing(code="x", why="the counter jumped")}, {}, "the counter jumped"),
    ],
)
def test_what_cannot_be_believed_is_not_ranked_and_named(changes, measurement, why):
    out = with_run("cheap", "fp32", make_run(5.0, 4e-3, idle_w=1.0, **changes), **measurement)
    said = verdict(make_result(of("a", 50.0), out))
    assert "a fp32 needs 200.0 mJ" in said.sentence
    assert f"Not ranked: cheap fp32 ({why}" in said.sentence


def test_other_networks_are_not_ranked_against_each_other():
    (group,) = grouped(energies([make_result(of("a", 50.0)), batch_result(8, 60.0, 8e-3)]).rows)
    assert len(verdicts(group)) == 2
    assert all(said.best is None for said in verdicts(group))


def test_k16_an_estimate_is_no_measurement():
    """K16: the estimator's result is an estimate by type, with method and band, and has no provenance of a measured."""
    tdp = {"tdp_per_core": Figure(value=8.0, basis="datasheet", source="vendor")}
    guess = estimate(tdp, cpu_time_s=4.0, window_s=4.0, inferences=100, cores=2)
    assert isinstance(guess, EnergyEstimate)
    assert not isinstance(guess, EnergyReading | EnergyRun)
    assert msgspec.to_builtins(guess)["kind"] == "estimate"
    assert guess.low_j < guess.energy_per_inference_j < guess.high_j
    assert guess.method
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(msgspec.to_builtins(guess), EnergyReading | Missing)


def test_k16_an_estimate_is_absent_from_measured_tables_rankings_curves_and_fronts():
    """K16: the smallest number of all is an estimate, and takes part in nothing."""
    guess = make_estimate(1e-9)
    result = make_result(
        of("a", 50.0), of("b", 60.0), make_measurement("guessed", energy_estimate=guess), run_id="with a guess"
    )
    found = energies([result])
    assert [row.name for row in found.rows] == ["a fp32", "b fp32"]
    assert [row.name for row in found.estimates] == ["guessed fp32"]
    assert verdict(result).best.name == "a fp32"
    drawn = [p.row.name for plane in planes(found.rows) for p in plane.points]
    assert "guessed fp32" not in drawn
    for axis in ("batch", "limit", "mode"):
        assert curves(found.rows, axis) == ()


def test_k16_an_estimate_stands_in_columns_and_a_section_of_its_own():
    guess = make_estimate(1e-9)
    result = make_result(of("a", 50.0), make_measurement("guessed", energy_estimate=guess))
    lines = list(csv.DictReader(io.StringIO(energy_csv([result]))))
    (line,) = [line for line in lines if line["kind"] == "estimated"]
    assert (line["name"], line["estimated_j"]) == ("guessed fp32", "1e-09")
    assert all(not line[name] for name in line if name.startswith(("total_", "dynamic_", "inferences_per_j")))
    assert all(not other["estimated_j"] for other in lines if other is not line)
    page = render_page([result])
    measured, _, estimated = page.partition('<section class="estimated"')
    assert "guessed fp32" in estimated.partition("</section>")[0]
    assert "~1.00 nJ" in estimated
    assert "~1.00 nJ" not in measured


def test_an_estimate_beside_a_measurement_does_not_replace_it():
    result = make_result(of("a", 50.0, energy_estimate=make_estimate(1e-9)))
    found = energies([result])
    assert found.rows[0].total.value == pytest.approx(0.2)
    assert len(found.estimates) == 1


points = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12)


@given(points)
def test_no_point_beats_the_front_and_every_other_is_beaten(pairs):
    given_points = [point(x, y) for x, y in pairs]
    kept = front(given_points)
    assert kept

    def beats(a, b):
        return a.x <= b.x and a.y <= b.y and (a.x, a.y) != (b.x, b.y)

    assert not any(beats(other, p) for p in kept for other in given_points)
    assert all(any(beats(p, other) for p in kept) for other in given_points if other not in kept)


def test_the_knee_is_a_measured_point_within_5_percent_of_the_best():
    assert knee([point(1, 10), point(2, 19), point(4, 20), point(8, 19.5)]).x == 2
    assert knee([point(1, 10), point(2, 18), point(4, 20)]) is None  # still rising
    assert knee([point(1, 10), point(2, 10)]) is None  # two points have no knee
    assert balanced([point(1, 4), point(2, 1.5), point(4, 1)]).x == 2
    assert balanced([point(1, 4), point(2, 1.5)]) is None


def test_a_sweep_over_batches_is_one_curve():
    (curve,) = curves(energies(sweep()).rows, "batch")
    assert [p.x for p in curve.points] == [1, 2, 4, 8, 16]
    assert [p.y for p in curve.points] == pytest.approx([1 / 0.08, 1 / 0.125, 1 / 0.24, 1 / 0.4636, 1 / 0.9672])
    per_item = [point(p.x, p.y * p.x) for p in curve.points]
    assert knee(per_item).x == 4
    assert curves(energies(sweep()).rows, "limit") == ()


def test_other_engines_devices_and_settings_are_other_curves():
    one, other = sweep()[:2]
    elsewhere = msgspec.structs.replace(other, device=make_device("another", fingerprint="cpu-2"))
    assert curves(energies([one, elsewhere]).rows, "batch") == ()
    another = msgspec.structs.replace(other, model=make_model("resnet50", batch_size=2))
    assert curves(energies([one, another]).rows, "batch") == ()
    assert len(curves(energies([one, other]).rows, "batch")) == 1


def test_power_limits_and_modes_make_curves_of_what_was_measured():
    (limits,) = curves(energies(power_limits()).rows, "limit")
    assert [p.x for p in limits.points] == [300, 500, 700]
    assert max(limits.points, key=lambda p: p.y).x == 300
    (modes,) = curves(energies(power_modes()).rows, "mode")
    assert modes.ticks == ("15W", "30W", "MAXN")
    assert [p.y for p in modes.points] == pytest.approx([1 / 0.126, 1 / 0.135, 1 / 0.1824])


def test_the_plane_is_per_item_where_batches_differ():
    (plane,) = planes(energies(sweep()).rows)
    assert plane.per_item
    assert [p.y for p in plane.points] == pytest.approx([0.08, 0.0625, 0.06, 0.05795, 0.06045])
    assert [p.x for p in plane.front] == [2e-3, 2.5e-3, 4e-3, 7.6e-3]
    assert plane.balanced.row.subject.batch_size == 2
    (plain,) = planes(energies([energy_result()]).rows)
    assert not plain.per_item
    assert [p.row.name for p in plain.front] == ["openvino bf16"]


def test_several_in_flight_are_not_in_the_plane():
    rate = with_run("b", "fp32", make_run(60.0, 1e-3), settings=make_measurement(mode="throughput").settings)
    assert planes(energies([make_result(of("a", 50.0), rate)]).rows) == ()


def test_an_energy_of_zero_is_not_ranked():
    zero = msgspec.structs.replace(make_run(50.0, 4e-3), total_j=msgspec.structs.replace(repeated(0.0), stdev=0.0))
    said = verdict(make_result(of("a", 50.0), with_run("z", "fp32", zero)))
    assert "Not ranked: z fp32 (it is 0 J)" in said.sentence
