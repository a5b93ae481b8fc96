"""Traps of energy measurement that no single meter's test covers. docs/energy.md lists all of them with their tests."""

import itertools
import math
import random
import statistics

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_traces import Schedule, channel, counter_samples, power_samples, trace_of

from hwbench.energy.account import energy_between
from hwbench.energy.integrate import Sample, integrate_power
from hwbench.energy.protocol import energy_run
from hwbench.energy.trace import read_trace, write_trace
from hwbench.errors import StorageError
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyReading, Provenance

START_S, END_S, TRUE_W = 5.0, 25.0, 60.0


def watts(t_s):
    return TRUE_W + 3 * math.sin(11.0 * t_s)


POWER = channel("board", "power", lsb=0.01, max_w=1000.0)
COUNTER = channel("board", "energy", lsb=1e-3, max_w=1000.0)
GOOD = {"power": power_samples(watts, 30.0, sensed_s=0.1), "energy": counter_samples(watts, 30.0, 0.1)}


def believed(reading):
    """The reading, where nothing at all warns of it."""
    return reading if isinstance(reading, EnergyReading) and not reading.flags else None


def wrong(reading):
    """Whether a reading is off by more than it says, at three times its k=2."""
    error = abs(reading.energy_j / (TRUE_W * (END_S - START_S)) - 1)
    return error > 3 * reading.relative_uncertainty


def frozen(samples, at, rng):
    return [*samples[:at], *(Sample(s.t_s, samples[at].value) for s in samples[at:])]


def negative(samples, at, rng):
    return [Sample(s.t_s, -s.value) for s in samples]


def backwards(samples, at, rng):
    return [*samples[:at], Sample(samples[at].t_s, samples[at].value - 500.0), *samples[at + 1 :]]


def not_a_number(samples, at, rng):
    return [*samples[:at], Sample(samples[at].t_s, rng.choice([math.nan, math.inf, -math.inf])), *samples[at + 1 :]]


def stepped_back(samples, at, rng):
    return [*samples[:at], *(Sample(s.t_s - 3.0, s.value) for s in samples[at:])]


def stepped_ahead(samples, at, rng):
    return [*samples[:at], *(Sample(s.t_s + 7.0, s.value) for s in samples[at:])]


def shuffled(samples, at, rng):
    found = list(samples)
    found[at], found[at + 5] = found[at + 5], found[at]
    return found


def cut_off(samples, at, rng):
    return list(samples[:at])


def spike(samples, at, rng):
    return [*samples[:at], Sample(samples[at].t_s, samples[at].value + 1e5), *samples[at + 1 :]]


def dropped(samples, at, rng):
    return [s for i, s in enumerate(samples) if i < at or rng.random() > 0.5]


CORRUPTIONS = [
    frozen, negative, backwards, not_a_number, stepped_back, stepped_ahead, shuffled, cut_off, spike, dropped,
]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(CORRUPTIONS),
    st.sampled_from(["power", "energy"]),
    st.integers(60, 220),  # inside the window, some way from its edges
    st.integers(0, 99),
)
def test_a_spoiled_trace_is_flagged_or_refused_and_never_plausibly_wrong(corrupt, quantity, at, seed):
    samples = corrupt(GOOD[quantity], at, random.Random(seed))
    board = POWER if quantity == "power" else COUNTER
    reading = believed(energy_between(trace_of([board], {"board": samples}), START_S, END_S))
    assert reading is None or not wrong(reading), (corrupt.__name__, quantity, reading)


@pytest.mark.parametrize("quantity", ["power", "energy"])
def test_the_unspoiled_trace_is_believed(quantity):
    board = POWER if quantity == "power" else COUNTER
    reading = believed(energy_between(trace_of([board], {"board": GOOD[quantity]}), START_S, END_S))
    assert reading is not None
    assert not wrong(reading)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_truncated_trace_file_is_refused_wherever_it_ends(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "trace.jsonl"
    write_trace(path, Schedule(windows=1, idle_s=1, warmup_s=1).trace(channel()))
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 3))])
    with pytest.raises(StorageError):
        read_trace(path)


def test_a_trace_file_with_lines_out_of_order_is_refused(tmp_path):
    path = tmp_path / "trace.jsonl"
    write_trace(path, trace_of([channel()], {"board": GOOD["power"]}))
    lines = path.read_bytes().splitlines()
    lines[20], lines[30] = lines[30], lines[20]
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(StorageError, match="does not rise"):
        read_trace(path)


def test_a_trace_file_with_a_number_that_is_none_is_refused(tmp_path):
    path = tmp_path / "trace.jsonl"
    write_trace(path, trace_of([channel()], {"board": GOOD["power"]}))
    for nonsense in (b"NaN", b"null", b'"60"', b"1e999"):
        lines = path.read_bytes().splitlines()
        lines[20] = b'{"c":"board","t":1.9,"v":' + nonsense + b"}"
        (tmp_path / "bad.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        with pytest.raises(StorageError, match="line 21"):
            read_trace(tmp_path / "bad.jsonl")


def test_partial_intervals_at_the_edges_are_not_dropped():
    """A window that begins and ends between readings has its whole energy, not that of the readings inside."""
    samples = power_samples(lambda _: 100.0, 10, 1.0)
    board = channel(period_s=1.0)
    reading = energy_between(trace_of([board], {"board": samples}), 0.9, 9.1)
    assert reading.energy_j == pytest.approx(820.0)
    inside = [s for s in samples if 0.9 <= s.t_s <= 9.1]
    assert integrate_power(inside, inside[0].t_s, inside[-1].t_s, period_s=1.0).energy_j == pytest.approx(800.0)


def test_readings_within_a_window_do_not_narrow_the_interval():
    """Readings of one window are alike: twenty times as many leave the interval as it is."""
    schedule = Schedule()
    rng = random.Random(4)
    level = {i: rng.gauss(0, 2) for i in range(200)}

    def wandering(t_s):  # noise that lasts as long as a window
        return schedule.watts(t_s) + level[int(t_s // 10)]

    widths = []
    for period_s in (0.1, 0.005):
        board = channel(period_s=period_s, sensed_s=period_s)
        run = energy_run(schedule.trace(board, samples={"board": power_samples(wandering, schedule.end_s, period_s)}))
        widths.append(run.total_j.high - run.total_j.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.05)
    values = [window.reading.energy_j / 1000 for window in run.windows]
    assert widths[1] == pytest.approx(2 * 2.776 * statistics.stdev(values) / math.sqrt(5), rel=1e-3)


def test_the_gain_cancels_in_a_ratio_and_is_told_apart():
    board = channel(gain=0.05)
    readings = [energy_between(trace_of([board], {"board": GOOD["power"]}), a, a + 10) for a in (5, 15)]
    for reading in readings:
        assert reading.gain_uncertainty == pytest.approx(0.10)
        own = math.sqrt(reading.relative_uncertainty**2 - reading.gain_uncertainty**2)
        assert own < 0.03


def test_a_single_short_run_is_not_metered():
    """A kernel of milliseconds on a sensor of 100 ms has no energy: naive single runs were 32 to 51 % off."""
    counter = trace_of([COUNTER], {"board": GOOD["energy"]})
    assert "window_too_short" in energy_between(counter, 10.0, 10.5).flags
    edges = [GOOD["energy"][100], GOOD["energy"][100]._replace(t_s=GOOD["energy"][100].t_s + 0.004)]
    two = trace_of([COUNTER], {"board": edges})
    assert energy_between(two, edges[0].t_s, edges[1].t_s).code == "window_too_short"
    run = energy_run(Schedule(window_s=0.5, inferences=50).trace(channel()))
    assert run.total_j.code == "window_too_short"


def test_a_zero_difference_is_never_energy():
    """A counter that did not move within a window is no zero, and is not made up from the power of the moment."""
    still = trace_of([COUNTER], {"board": [(float(i), 5.0) for i in range(40)]})
    assert energy_between(still, 5, 25).code == "counter_constant"


def _numbered():
    return enumerate(GOOD["power"])


def test_a_negative_sensor_is_refused_and_a_mixed_one_flagged():
    flipped = trace_of([channel()], {"board": [Sample(s.t_s, -s.value) for s in GOOD["power"]]})
    assert energy_between(flipped, 5, 25).code == "energy_not_positive"
    mixed = trace_of([channel()], {"board": [Sample(s.t_s, -5.0 if i % 9 == 0 else s.value) for i, s in _numbered()]})
    assert "negative_power" in energy_between(mixed, 5, 25).flags


def test_a_counter_fed_by_a_part_time_sensor_may_alias_too():
    """NVML's counter integrates the same 25 of 100 ms."""
    fed = channel("board", "energy", sensed_s=0.025)
    trace = trace_of([fed], {"board": GOOD["energy"]})
    assert "aliasing_risk" in energy_between(trace, 5, 25, load_period_s=0.1).flags
    assert "aliasing_risk" not in energy_between(trace, 5, 25, load_period_s=0.0137).flags
    whole = trace_of([COUNTER], {"board": GOOD["energy"]})
    assert "aliasing_risk" not in energy_between(whole, 5, 25, load_period_s=0.1).flags


def test_a_partial_freeze_is_flagged():
    half = frozen(GOOD["power"], 150, None)
    assert "sensor_stale" in energy_between(trace_of([POWER], {"board": half}), 5, 25).flags
    stuck = frozen(GOOD["energy"], 150, None)
    assert "sensor_stale" in energy_between(trace_of([COUNTER], {"board": stuck}), 5, 25).flags


def test_of_two_counters_one_that_stands_still_leaves_no_energy():
    """Half of the packages is no total; a part that may well stand still (DRAM) is flagged alone."""
    other = channel("other", "energy", lsb=1e-3)
    still = [(0.1 * i, 5.0) for i in range(301)]
    trace = trace_of([COUNTER, other], {"board": GOOD["energy"], "other": still})
    assert energy_between(trace, START_S, END_S).code == "counter_constant"
    part = trace_of([COUNTER, msgspec.structs.replace(other, essential=False)], trace.samples)
    assert "counter_constant:other" in energy_between(part, START_S, END_S).flags


def test_the_poll_interval_is_not_taken_for_the_update_period():
    """A gauge that changes every 5 s, read at 4 Hz: nothing below 50 s can be told."""
    gauge = channel(period_s=Missing(code="not_known", why="no document"), lsb=1e-3, sensed_s=0.0)
    samples = power_samples(lambda t: 30.0 if t >= 28 else 5.0, 60, 5.0)
    held = [Sample(0.25 * i, samples[i // 20].value + i // 20 * 1e-3) for i in range(240)]
    reading = energy_between(trace_of([gauge], {"board": held}), 28.0, 31.0)
    assert reading.update_period_s == pytest.approx(5.0)
    assert "window_too_short" in reading.flags
    assert reading.relative_uncertainty > 1


def test_a_stepping_counter_counts_from_change_to_change_at_both_edges():
    """100 W in steps of a second, read at 10 Hz: neither edge is cut, so neighbouring windows add up."""
    board = channel("board", "energy", period_s=1.0, lsb=1e-3)
    trace = trace_of([board], {"board": counter_samples(lambda _: 100.0, 40, 1.0, read_s=0.1)})
    assert energy_between(trace, 10.0, 20.5).energy_j == pytest.approx(1050)
    parts = [energy_between(trace, a, b).energy_j for a, b in ((5.3, 14.75), (14.75, 30.2))]
    assert sum(parts) == pytest.approx(energy_between(trace, 5.3, 30.2).energy_j)
    assert sum(parts) == pytest.approx(2490)


def test_a_coarse_sensor_may_stand_still():
    """Steps of 0.39 W hide the noise of a steady load: that is no frozen sensor."""
    coarse = channel(lsb=0.39)
    trace = trace_of([coarse], {"board": [(0.1 * i, 15.6) for i in range(300)]})
    assert "sensor_stale" not in energy_between(trace, 5, 25).flags


def test_a_small_fall_within_a_range_is_no_wrap():
    """Taken for a wrap it would be the whole range in one step."""
    board = channel("board", "energy", range=65_536.0, period_s=0.1)
    fallen = trace_of([board], {"board": backwards(GOOD["energy"], 120, None)})
    assert energy_between(fallen, 5, 25).code == "counter_backwards"


def test_what_is_estimated_cannot_be_written_as_a_reading():
    allowed = set(msgspec.inspect.type_info(Provenance).values)
    assert allowed == {"measured_external", "measured_onboard", "vendor_modelled", "replayed"}


def test_unknown_rails_are_never_added():
    """Channels in the roles of parts and context add nothing to the total."""
    parts = [channel(name, role=role) for name, role in (("gpu", "part"), ("soc", "part"), ("usb", "context"))]
    samples = dict.fromkeys(("board", "gpu", "soc", "usb"), GOOD["power"])
    alone = energy_between(trace_of([channel()], samples), 5, 25)
    among = energy_between(trace_of([channel(), *parts], samples), 5, 25)
    assert among.energy_j == alone.energy_j
    assert set(among.domains_j) == {"board", "gpu", "soc"}


def test_the_views_of_one_energy_are_never_added():
    checked = energy_between(
        trace_of([COUNTER, channel("power", role="check")], {"board": GOOD["energy"], "power": GOOD["power"]}), 5, 25
    )
    assert checked.energy_j == pytest.approx(1200, rel=0.01)
    assert checked.crosscheck.ratio == pytest.approx(1, abs=0.01)


def test_back_to_back_windows_that_drift_upward_are_seen():
    """Leakage rises with temperature: repeats that follow one another drift, and the plateau test says so."""
    run = energy_run(Schedule(drift_w_per_s=0.15).trace(channel()))
    assert "no_plateau" in run.flags
    means = [window.reading.energy_j for window in run.windows]
    assert all(b > a for a, b in itertools.pairwise(means))


def test_idle_is_named_and_measured_with_the_model_loaded():
    run = energy_run(Schedule().trace(channel()))
    assert run.idle.state == "idle_active"
    assert run.idle.window_s >= 10
