"""Whether a machine has settled: by temperature, by power, and by the latency where neither can be read."""

from synthetic_traces import Schedule, channel, trace_of

from hwbench.energy.plateau import settled
from hwbench.energy.protocol import energy_run
from hwbench.records.energy import Mark


def test_no_plateau():
    run = energy_run(Schedule(drift_w_per_s=0.2).trace(channel()))
    assert "no_plateau" in run.flags
    assert run.plateau.reached is False
    assert "power +1." in run.plateau.by


def test_plateau_by_temperature_too():
    schedule = Schedule()
    heat = channel("die", "temperature", role="context")
    rising = [(t, 40 + 0.1 * t) for t in range(90)]
    trace = schedule.trace(channel(), heat, samples={"die": rising})
    assert settled(trace, schedule.warm_start, schedule.first_window).reached is False
    trace = schedule.trace(channel(), heat, samples={"die": [(t, 60 + 0.04 * t) for t in range(90)]})
    seen = settled(trace, schedule.warm_start, schedule.first_window)
    assert seen.reached
    assert "die +0.40 °C" in seen.by


def test_plateau_by_latency_where_nothing_else_can_be_read():
    def looks(step):
        return [Mark(t_s=2.0 * i, mark="warmup.look", facts={"median_s": 0.01 * (1 + step * i)}) for i in range(1, 20)]

    flat = trace_of([], {}, looks(0.0))
    assert settled(flat, 0.0, 38.0).reached
    assert settled(trace_of([], {}, looks(0.002)), 0.0, 38.0).reached is False
    assert "latency" in settled(flat, 0.0, 38.0).by
    assert "least to judge by" in settled(flat, 0.0, 8.0).by


def test_what_was_judged_live_is_judged_again_from_the_file():
    """A look decides with the readings there were; the finished trace has more, and must say the same."""
    schedule = Schedule(drift_w_per_s=0.03)
    counter = channel("counter", "energy", lsb=0.001)
    whole = schedule.trace(counter)
    for now_s in (20.03, 27.777, 31.41, 37.0):
        then = schedule.trace(counter)
        then.samples["counter"] = [s for s in whole.samples["counter"] if s.t_s <= now_s]
        assert settled(then, schedule.warm_start, now_s) == settled(whole, schedule.warm_start, now_s)
