import math
import statistics

import msgspec
import pytest
from synthetic_traces import Schedule, channel, counter_samples, power_samples, span, trace_of

from hwbench.energy.account import energy_between
from hwbench.energy.flags import FLAGS, explain
from hwbench.energy.per_inference import window_rule_s
from hwbench.energy.protocol import energy_run, energy_run_of, trace_name
from hwbench.energy.trace import write_trace
from hwbench.errors import StorageError
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyReading, EnergyRun, Repeated
from hwbench.stats import mean_interval


def run_of(schedule=None, *channels, **header):
    run = energy_run((schedule or Schedule()).trace(*(channels or (channel(),)), **header))
    assert isinstance(run, EnergyRun), run
    assert {flag for flag in run.flags if explain(flag) is None} == set()
    return run


def test_total_first_and_above_idle_second():
    run = run_of()
    assert run.total_j.value == pytest.approx(1.0)  # 100 W for 10 s, 1000 inferences
    assert run.dynamic_j.value == pytest.approx(0.8)  # less 20 W
    assert run.idle.state == "idle_active"
    assert run.idle.mean_w == pytest.approx(20.0)
    assert run.time_per_inference_s == pytest.approx(0.01)
    assert run.inferences_per_j == pytest.approx(1.0)
    assert run.energy_delay_js == pytest.approx(0.01)
    assert run.power.average_w == pytest.approx(100.0)
    assert run.flags == ()
    assert run.recorder_cpu_share == pytest.approx(0.2 / Schedule().end_s)


def test_windows_are_a_plateau_value_and_not_a_kernels():
    """Energy over inferences and mean power times the time of one are the same number."""
    run = run_of()
    assert run.total_j.value == pytest.approx(run.power.average_w * run.time_per_inference_s)


def test_type_a_is_students_t_over_windows_and_not_over_readings():
    schedule = Schedule(drift_w_per_s=0.02)
    run = run_of(schedule)
    windows = [w.reading.energy_j / w.inferences for w in run.windows]
    assert run.total_j.n == 5
    assert run.total_j.value == pytest.approx(statistics.fmean(windows))
    assert (run.total_j.low, run.total_j.high) == pytest.approx(mean_interval(windows))
    assert run.total_j.stdev == pytest.approx(statistics.stdev(windows))


def test_type_b_stands_apart_and_does_not_shrink_with_repeats():
    few = run_of(Schedule(windows=5), channel(gain=0.03))
    many = run_of(Schedule(windows=20), channel(gain=0.03))
    assert few.total_j.relative_uncertainty >= 0.06
    assert many.total_j.relative_uncertainty == pytest.approx(few.total_j.relative_uncertainty)
    assert few.windows[0].reading.gain_uncertainty == pytest.approx(0.06)


def test_uncertainty_of_the_energy_above_idle():
    """u(E_dyn)^2 = u(E)^2 + T^2 u(P_idle)^2 + g^2 E_dyn^2; u(E) without gain and offset."""
    run = run_of(Schedule(idle_after_w=20.8), channel(gain=0.01, offset=0.5))
    plain = run_of(Schedule(idle_after_w=20.8), channel(gain=0.0, offset=0.0))
    energy_u = plain.windows[0].reading.relative_uncertainty / 2 * 1000
    gain_u = 0.01 * run.dynamic_j.value * 1000
    assert run.idle.standard_uncertainty_w == pytest.approx(plain.idle.standard_uncertainty_w)
    expected_j = math.hypot(energy_u, gain_u, 10 * run.idle.standard_uncertainty_w)
    assert run.dynamic_j.relative_uncertainty * run.dynamic_j.value * 1000 / 2 == pytest.approx(expected_j)
    assert run.idle.standard_uncertainty_w >= 0.4 / math.sqrt(3)


@pytest.mark.parametrize(("after_w", "flagged"), [(20.9, False), (21.1, True), (18.9, True)])
def test_idle_drift_is_flagged(after_w, flagged):
    run = run_of(Schedule(idle_after_w=after_w))
    assert ("idle_drift" in run.flags) is flagged
    assert run.idle.after_w == pytest.approx(after_w)


def test_idle_drift_in_watts():
    assert "idle_drift" in run_of(Schedule(idle_w=200, load_w=400, idle_after_w=202.5)).flags


def test_idle_of_one_side_is_said():
    trace = Schedule().trace(channel())
    trace.marks = [mark for mark in trace.marks if not mark.mark.startswith("idle_after")]
    run = energy_run(trace)
    assert run.flags == ("idle_one_sided",)
    assert run.idle.after_w.code == "no_idle"
    assert run.dynamic_j.value == pytest.approx(0.8)


def test_without_idle_there_is_a_total_and_no_difference():
    trace = Schedule().trace(channel())
    trace.marks = [mark for mark in trace.marks if not mark.mark.startswith("idle")]
    run = energy_run(trace)
    assert run.total_j.value == pytest.approx(1.0)
    assert run.dynamic_j.code == "no_idle"


def test_window_rule():
    assert window_rule_s(0.001) == 10.0  # RAPL
    assert window_rule_s(0.1) == pytest.approx(10.0)  # NVML
    assert window_rule_s(1.5) == pytest.approx(150.0)  # a fuel gauge


def test_short_window_is_flagged_and_a_much_too_short_one_refused():
    assert "window_too_short" in run_of(Schedule(window_s=5.0)).flags
    slow = channel(period_s=1.1, sensed_s=1.1)
    run = run_of(Schedule(window_s=10.0), slow)
    assert run.total_j.code == "window_too_short"
    assert "110s" in run.total_j.cure
    for value in (run.dynamic_j, run.inferences_per_j, run.energy_delay_js):
        assert value.code == "window_too_short"


def test_few_repeats_are_flagged_and_one_has_no_interval():
    assert "few_repeats" in run_of(Schedule(windows=3)).flags
    run = run_of(Schedule(windows=1))
    assert run.total_j.code == "too_few_windows"


def test_a_window_without_energy_is_left_out_and_said():
    schedule = Schedule()
    trace = schedule.trace(channel())
    lost = (schedule.first_window - 5, schedule.first_window + 15)
    trace.samples["board"] = [s for s in trace.samples["board"] if not lost[0] < s.t_s < lost[1]]
    run = energy_run(trace)
    assert run.total_j.n == 4
    assert run.total_j.value == pytest.approx(1.0)
    assert {"windows_lost", "few_repeats", "low_coverage"} <= set(run.flags)
    assert run.windows[0].reading.code == "no_samples"


def test_throttle_time_is_of_the_windows_and_flagged():
    throttle = channel("sw_thermal", "throttled", role="context")
    schedule = Schedule()
    edges = [schedule.first_window + 10 * i for i in range(6)]
    counts = [(0.0, 3.0), *((t, 3.0 + 0.5 * i) for i, t in enumerate(edges)), (schedule.end_s, 99.0)]
    trace = schedule.trace(channel(), throttle, samples={"sw_thermal": counts})
    run = energy_run(trace)
    assert run.throttled_s["sw_thermal"] == pytest.approx(2.5)
    assert "throttled:sw_thermal" in run.flags


def test_host_facts():
    run = run_of(Schedule(host={"throttle_events": 1.0, "clocks_locked": 0.0}, host_after={"throttle_events": 2.0}))
    assert set(run.flags) == {"throttled:cpu", "clocks_not_locked"}
    assert run_of(Schedule(host={})).flags == ("clocks_unknown",)
    busy = {"busy_s": 0.0, "process_cpu_s": 0.0, "cpus": 4.0, "clocks_locked": 1.0, "temperature_c": 50.0}
    quiet = run_of(Schedule(host=busy, host_after={"busy_s": 20.0, "process_cpu_s": 20.0, "temperature_c": 61.0}))
    assert quiet.flags == ()
    assert (quiet.start_c, quiet.end_c) == (50.0, 61.0)
    noisy = run_of(Schedule(host=busy, host_after={"busy_s": 60.0, "process_cpu_s": 20.0}))
    assert noisy.flags == ("foreign_load",)


def test_a_clock_channel_that_moves():
    clock = channel("sm_hz", "frequency", role="context")
    schedule = Schedule()
    times = [i * 0.5 for i in range(200)]
    still = schedule.trace(channel(), clock, samples={"sm_hz": [(t, 1.0e9) for t in times]})
    moving = schedule.trace(channel(), clock, samples={"sm_hz": [(t, 1.0e9 + 1e6 * t) for t in times]})
    assert "clocks_not_locked" not in energy_run(still).flags
    assert "clocks_not_locked" in energy_run(moving).flags


def test_counter_and_power_that_differ():
    """The headline is the power integral, in every window, and the ratio is told."""
    schedule = Schedule()
    counter = channel("counter", "energy", lsb=0.001)
    power = channel("power", role="check")
    low = counter_samples(schedule.watts, schedule.end_s, gain=0.85)
    run = energy_run(schedule.trace(counter, power, samples={"counter": low}))
    assert run.total_j.value == pytest.approx(1.0)
    assert run.crosscheck.channel == "counter"
    assert run.crosscheck.ratio == pytest.approx(1 / 0.85)
    assert "counter_power_mismatch" in run.flags
    assert {w.reading.boundary for w in run.windows} == {run.boundary}
    near = counter_samples(schedule.watts, schedule.end_s, gain=0.98)
    run = energy_run(schedule.trace(counter, power, samples={"counter": near}))
    assert run.total_j.value == pytest.approx(0.98)
    assert run.crosscheck.ratio == pytest.approx(0.98)
    assert "counter_power_mismatch" not in run.flags


def test_peak_names_what_it_is_a_mean_over():
    spiky = Schedule()

    def watts(t_s):
        return spiky.watts(t_s) * (1.5 if t_s % 1.0 < 0.1 else 1.0)

    fast = channel(sensed_s=0.025)
    run = energy_run(spiky.trace(fast, samples={"board": power_samples(watts, spiky.end_s, sensed_s=0.025)}))
    assert run.power.peak_w > 140
    assert run.power.averaging_s == 0.025
    slow = channel(averaging_s=1.0)
    run = energy_run(spiky.trace(slow, samples={"board": power_samples(watts, spiky.end_s, averaging_s=1.0)}))
    assert run.power.peak_w < 110
    assert run.power.averaging_s == 1.0
    assert run.power.p95_w <= run.power.peak_w


def test_power_of_a_counter_is_a_mean_between_readings():
    schedule = Schedule()
    counter = channel("counter", "energy", period_s=0.001, lsb=1e-4)
    samples = {"counter": counter_samples(schedule.watts, schedule.end_s, 0.01, read_s=0.5)}
    run = energy_run(schedule.trace(counter, samples=samples))
    assert run.power.averaging_s == pytest.approx(0.5)
    assert run.power.peak_w == pytest.approx(100.0)
    assert run.power.p95_w.code == "too_few_samples"


def test_edges_of_an_averaging_sensor():
    slow = channel(averaging_s=3.0)
    assert "edges_not_settled" in run_of(Schedule(tail_s=2.0), slow).flags
    run = run_of(Schedule(tail_s=4.0, window_s=40), slow)
    assert "edges_not_settled" not in run.flags


def test_pauses_are_taken_off_at_idle_power():
    schedule = Schedule(paused_s=0.5)

    def watts(t_s):  # the last half second of each window is a pause
        inside = (t_s - schedule.first_window) % 10
        return 20.0 if schedule.first_window <= t_s < schedule.last_end and inside >= 9.5 else schedule.watts(t_s)

    run = energy_run(schedule.trace(channel(), samples={"board": power_samples(watts, schedule.end_s, 0.01)}))
    assert run.total_j.value == pytest.approx(0.95, rel=0.01)  # 9.5 s of 100 W
    assert run.dynamic_j.value == pytest.approx(0.76, rel=0.01)
    assert run.time_per_inference_s == pytest.approx(0.0095)
    assert run.windows[0].paused_s == 0.5
    assert "dephased" in run.flags
    pauses = 2 * 80 * 0.5 / math.sqrt(3)  # idle power is taken off: an end of the range, not its middle
    assert run.total_j.relative_uncertainty > pauses / 960
    assert run.dynamic_j.relative_uncertainty * run.dynamic_j.value * 1000 > pauses


def test_pauses_without_an_idle_power_leave_no_energy():
    trace = Schedule(paused_s=0.5).trace(channel())
    trace.marks = [mark for mark in trace.marks if not mark.mark.startswith("idle")]
    run = energy_run(trace)
    assert run.total_j.code == "no_idle"
    assert "pauses" in run.total_j.why
    assert run.dynamic_j.code == "no_idle"


def test_gain_and_offset_cancel_in_the_energy_above_idle():
    """100 W over 92 W with a gain of 5 % (k=1): of the 8 W 10 % are in doubt by that, not 125 %."""
    run = run_of(Schedule(idle_w=92, load_w=100), channel(gain=0.05, offset=2.0, lsb=1e-3))
    assert run.total_j.relative_uncertainty > 0.1
    assert 0.1 <= run.dynamic_j.relative_uncertainty < 0.2
    assert "dynamic_not_resolved" not in run.flags


def noisy(schedule, watts=None):
    """Power readings with a little noise: a sensor that is alive."""
    watts = watts or schedule.watts
    return power_samples(lambda t_s: watts(t_s) + math.sin(11 * t_s), schedule.end_s)


def test_windows_of_one_run_never_mix_two_views():
    """Where the power is the headline, a window without it has no energy: the counter does not stand in."""
    schedule = Schedule()
    counter = channel("counter", "energy", lsb=0.001)
    power = channel("power", role="check", lsb=0.001)
    low = counter_samples(schedule.watts, schedule.end_s, gain=0.85)
    trace = schedule.trace(counter, power, samples={"counter": low, "power": noisy(schedule)})
    trace.samples["power"] = [s for s in trace.samples["power"] if s.t_s < schedule.last_end - 9.9]
    trace.samples["power"] += [s for s in noisy(schedule) if s.t_s > schedule.last_end]
    gapped = energy_run(trace)
    assert {w.reading.boundary for w in gapped.windows if isinstance(w.reading, EnergyReading)} == {gapped.boundary}
    assert gapped.boundary.endswith("counter)"), "a power with gaps is not put before a counter"
    shown = [energy_between(trace, w.start_s, w.end_s, headline="check") for w in gapped.windows]
    assert [isinstance(one, Missing) for one in shown] == [False, False, False, False, True]


def test_a_frozen_power_is_not_put_before_a_counter():
    """The counter says 100 W idle and 600 W under load; the power sensor stands at 70 W."""
    schedule = Schedule(idle_w=100, load_w=600)
    counter, power = channel("counter", "energy", lsb=0.001), channel("power", role="check", lsb=0.001)
    stuck = [(0.1 * i, 70.0) for i in range(round(schedule.end_s * 10) + 1)]
    run = energy_run(schedule.trace(counter, power, samples={"power": stuck}))
    assert run.total_j.value == pytest.approx(6.0, rel=1e-3)
    assert run.boundary.endswith("counter)")
    assert "counter_power_mismatch" in run.flags


def test_the_view_that_is_shown_is_told_of_in_short_windows_too():
    schedule = Schedule(window_s=5.0)
    counter, power = channel("counter", "energy", lsb=0.001), channel("power", role="check", lsb=0.001)
    low = counter_samples(schedule.watts, schedule.end_s, gain=0.85)
    run = energy_run(schedule.trace(counter, power, samples={"counter": low, "power": noisy(schedule)}))
    assert run.boundary.endswith("power)")
    assert "counter_power_mismatch" in run.flags


def test_pauses_do_not_clear_aliasing_unless_the_period_was_detected():
    """Of a table's period, 1 % off, the phase is lost within 100 periods; one read too rarely was never seen."""
    schedule = Schedule(inferences=100, paused_s=0.1)  # 99 ms each
    board = channel(sensed_s=0.025)
    table = {"update_period": "0.1 s (table, compute capability 9.0)"}
    detected = {"update_period": "0.1 s (detected: 29 changes, read every 1 ms)"}
    assert "aliasing_risk" in run_of(schedule, board).flags
    assert "aliasing_risk" in run_of(schedule, board, settings=table).flags
    assert "aliasing_risk" not in run_of(schedule, board, settings=detected).flags
    rarely = schedule.trace(board, samples={"board": power_samples(schedule.watts, schedule.end_s, 0.2)})
    rarely.header = msgspec.structs.replace(rarely.header, settings=detected)
    assert "aliasing_risk" in energy_run(rarely).flags


def test_idle_cores_do_not_unlock_the_clocks():
    """What the system has set counts before the clocks of CPUs, of which some idle; a GPU's own clock counts first."""
    clock = channel("clock:cores up to 3.4 GHz", "frequency", role="context")
    schedule = Schedule()
    moving = {clock.name: [(i * 0.5, 1.0e9 + 1e7 * i) for i in range(200)]}
    assert "clocks_not_locked" not in energy_run(schedule.trace(channel(), clock, samples=moving)).flags
    untold = Schedule(host={})
    assert "clocks_not_locked" in energy_run(untold.trace(channel(), clock, samples=moving)).flags


def test_difference_below_the_sensors_steps_is_not_reported():
    coarse = channel(lsb=0.4)
    assert run_of(Schedule(idle_w=20, load_w=20.9), coarse).dynamic_j.code == "below_resolution"
    assert isinstance(run_of(Schedule(idle_w=20, load_w=21.2), coarse).dynamic_j, Repeated)


def test_difference_below_its_uncertainty_is_flagged():
    run = run_of(Schedule(idle_w=97, idle_after_w=99.8, load_w=100), channel(lsb=0.5))
    assert "dynamic_not_resolved" in run.flags


def test_nothing_to_make_a_run_of():
    schedule = Schedule()
    assert energy_run(trace_of([channel()], {})).code == "no_windows"
    assert energy_run(trace_of([], {}, schedule.marks(), meter="none")).code == "no_readings"
    frozen = {"board": [(0.1 * i, 55.0) for i in range(800)]}
    assert energy_run(schedule.trace(channel(), samples=frozen)).code == "sensor_frozen"
    with pytest.raises(StorageError, match="ends within"):
        energy_run(trace_of([channel()], {}, span("window", 0, 1)[:1]))


def test_a_meter_that_fails_leaves_its_reason():
    trace = Schedule().trace(channel())
    trace.samples["board"] = trace.samples["board"][:20]
    trace.faults["board"] = (2.0, Missing(code="gone", why="the probe fell off"))
    run = energy_run(trace)
    assert run.total_j.code == "gone"
    assert run.power.code == "no_windows"
    assert "windows_lost" in run.flags


def test_what_the_trace_knows_of_itself_is_in_the_run(tmp_path):
    trace = Schedule().trace(channel(), settings={"samples": "16"}, not_used={"rapl": "not asked"})
    path = tmp_path / "runs" / "onnxruntime-fp32" / "trace.jsonl"
    path.parent.mkdir(parents=True)
    write_trace(path, trace)
    run = energy_run_of(path)
    assert run.settings == {"samples": "16"}
    assert run.not_used == {"rapl": "not asked"}
    assert run.trace == "runs/onnxruntime-fp32/trace.jsonl"
    assert len(run.trace_sha256) == 64
    assert trace_name(tmp_path / "loose.jsonl") == "loose.jsonl"
    assert msgspec.json.decode(msgspec.json.encode(run), type=EnergyRun) == run
    assert energy_run_of(path) == run
    assert all(isinstance(w.reading, EnergyReading) for w in run.windows)


def test_every_flag_says_what_to_do():
    for flag in FLAGS.values():
        assert flag.when
        assert flag.cure
