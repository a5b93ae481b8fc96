"""The modes under a clock that obeys: what each calls, when, and what it makes of it."""

import itertools
import math
import random
import statistics
import tracemalloc
from array import array

import fixtures_results
import pytest

from hwbench.energy.choose import Chosen
from hwbench.energy.recorder import Recorder
from hwbench.errors import UsageError
from hwbench.measure.binned import _quantiles
from hwbench.measure.cold import together
from hwbench.measure.loaded import Opening
from hwbench.measure.loop import Concurrent
from hwbench.measure.modes import MODES
from hwbench.measure.session import Session
from hwbench.records.base import Missing
from hwbench.records.measurement import Mode, Phases, StopRule, TimedRun
from hwbench.stats import quantile
from hwbench.testing import FakeClock

NONE = Missing(code="none", why="no meter here")
WARM = {"max_warmup_s": 300.0, "window_s": 2.5, "median_change": 0.01, "temperature_slope_c_per_10s": 0.5}
TEN_MINUTES = {"name": "duration", "settings": {"seconds": 600.0}}
DURATION = {"name": "duration", "settings": {"seconds": 2.0, "min_count": 20}}


class World:
    """A model that takes ``latency(t_s)``, on a machine whose temperature is ``heat(t_s)``; t_s since the start."""

    def __init__(self, latency=lambda t: 0.01, heat=lambda t: 50.0, throttles=lambda t: 0, look_s=0.0):
        self.clock, self.latency, self.heat, self.throttles, self.look_s = FakeClock(), latency, heat, throttles, look_s
        self.calls_s, self.start_ns, self.events = [], self.clock.now_ns(), []

    @property
    def t_s(self):
        return (self.clock.now_ns() - self.start_ns) / 1e9

    def call(self):
        self.calls_s.append(self.t_s)
        self.clock.advance(self.latency(self.t_s))

    def host(self):
        self.clock.advance(self.look_s)
        return fixtures_results.make_host(
            self.t_s, temperature_c=self.heat(self.t_s), throttle_events=self.throttles(self.t_s), cpu_hz=(2e9, 3e9)
        )

    def run(self, mode, tmp_path, *, stop=DURATION, warmup_s=0.5, opening=None, **mode_settings):
        settings = fixtures_results.make_settings(
            mode=mode,
            streams=1,
            stop=StopRule(**stop),
            warmup=StopRule(name="duration", settings={"seconds": warmup_s, "min_count": 10}),
            mode_settings=mode_settings,
        )
        with Recorder(None, clock=self.clock) as recorder:
            session = Session(
                calls=(self.call,),
                settings=settings,
                batch_size=1,
                clock=self.clock,
                recorder=recorder,
                chosen=Chosen(instrument=NONE),
                emit=self.events.append,
                folder=tmp_path,
                host=self.host,
                opening=opening,
            )
            return MODES[mode](session)


def test_every_mode_has_its_module():
    from typing import get_args

    assert set(MODES) == set(get_args(Mode))


class TestBurst:
    def test_it_rests_first_and_does_not_warm_up(self, tmp_path):
        world = World()
        seen = world.run("burst", tmp_path, rest_s=5.0, bin_s=0.2)
        assert world.calls_s[0] == pytest.approx(5.0)
        assert list(seen.warmup_ns) == []
        assert seen.edges.window_s == pytest.approx(2.0, abs=0.05)
        series = seen.parts["series"]
        assert (series.rest_s, len(series.bins), series.kept_every) == (5.0, 10, 1)
        assert sum(part.inferences for part in series.bins) == len(seen.samples_ns) == 200

    def test_its_course_is_kept(self, tmp_path):
        """Fast for half a second after the rest, then slow: what a boost clock does."""
        seen = World(latency=lambda t: 0.005 if t < 5.5 else 0.008).run("burst", tmp_path, rest_s=5.0, bin_s=0.1)
        medians = [part.median_s for part in seen.parts["series"].bins]
        assert medians[:4] == pytest.approx([0.005] * 4)
        assert medians[-10:] == pytest.approx([0.008] * 10)
        assert seen.parts["series"].last_over_first == pytest.approx(1.6)


class TestSteady:
    def test_it_waits_until_the_machine_is_warm(self, tmp_path):
        world = World(heat=lambda t: 80 - 40 * math.exp(-t / 60))
        seen = world.run("steady", tmp_path, **WARM)
        state = seen.parts["steady_state"]
        exact = 60 * math.log(40 / 60 / 0.05)
        assert state.reached
        assert exact < state.after_s < exact + 15
        assert state.temperature_slope_c_per_10s < 0.5
        assert state.windows[0].temperature_c < 43
        assert seen.edges.opened_ns - world.start_ns == pytest.approx(state.after_s * 1e9)

    def test_it_goes_on_without_a_plateau_and_says_so(self, tmp_path):
        world = World(heat=lambda t: 40 + 0.1 * t)
        seen = world.run("steady", tmp_path, **{**WARM, "max_warmup_s": 30.0})
        state = seen.parts["steady_state"]
        assert (state.reached, len(state.windows)) == (False, 12)
        assert state.temperature_slope_c_per_10s == pytest.approx(1.0)
        assert len(seen.samples_ns) >= 200

    def test_without_a_thermometer_the_median_decides(self, tmp_path):
        blind = World(latency=lambda t: 0.01 * (1 - 0.3 * math.exp(-t / 20)), heat=lambda t: NONE)
        state = blind.run("steady", tmp_path, **WARM).parts["steady_state"]
        assert state.reached
        assert state.temperature_slope_c_per_10s == NONE
        assert 20 < state.after_s < 60  # the change over 2.5 s is 1 % after some 25 s
        assert state.median_change < 0.01
        assert NONE.why in state.basis

    def test_the_shortest_warm_up_holds(self, tmp_path):
        state = World(heat=lambda t: NONE).run("steady", tmp_path, warmup_s=50.0, **WARM).parts["steady_state"]
        assert state.after_s >= 50


class TestSustained:
    def test_minutes_apart(self, tmp_path):
        """A machine that throttles from the fifth minute on: 10 ms before, 15 ms after."""
        world = World(
            latency=lambda t: 0.010 if t < 300 else 0.015,
            heat=lambda t: min(95.0, 40 + t / 5),
            throttles=lambda t: max(0, int(t) - 300),
            look_s=0.001,
        )
        seen = world.run("sustained", tmp_path, stop=TEN_MINUTES, bin_s=60.0)
        series = seen.parts["series"]
        assert len(series.bins) == 10
        assert [part.median_s for part in series.bins][::9] == pytest.approx([0.010, 0.015])
        assert series.last_over_first == pytest.approx(1.5)
        assert series.bins[0].inferences_per_s == pytest.approx(100, rel=0.01)
        assert series.bins[-1].inferences_per_s == pytest.approx(66.7, rel=0.01)
        assert [part.throttle_events for part in series.bins][:4] == [0] * 4
        assert sum(part.throttle_events for part in series.bins) == pytest.approx(300, abs=2)
        assert series.bins[-1].temperature_c == 95
        assert series.bins[0].clock_hz == 2.5e9
        assert series.bins[0].power_w == NONE
        assert all(b.start_s >= a.end_s for a, b in itertools.pairwise(series.bins))
        assert seen.edges.window_s == pytest.approx(600, abs=0.1)
        assert all(0 <= event["fraction"] <= 1 for event in world.events)

    def test_a_fast_model_keeps_some_of_its_samples_and_says_which(self, tmp_path, monkeypatch):
        monkeypatch.setattr("hwbench.measure.binned.MOST_SAMPLES", 1000)
        seen = World().run("sustained", tmp_path, stop=TEN_MINUTES, bin_s=60.0)
        series = seen.parts["series"]
        assert series.kept_every == 60
        assert len(seen.samples_ns) == pytest.approx(1000, abs=10)
        assert sum(part.inferences for part in series.bins) == pytest.approx(60_000, rel=0.01)

    def test_a_part_that_one_inference_outlasts_is_left_out(self, tmp_path):
        slow = {"name": "duration", "settings": {"seconds": 10.0}}
        series = World(latency=lambda t: 2.5).run("sustained", tmp_path, stop=slow, bin_s=1.0).parts["series"]
        assert sum(part.inferences for part in series.bins) == len(series.bins) == 4

    def test_what_is_made_of_a_part_does_not_pause_the_load(self, tmp_path, monkeypatch):
        world = World()

        def slow(chosen, recorded):
            world.clock.advance(10.0)
            return NONE

        monkeypatch.setattr("hwbench.measure.binned.energy_of", slow)
        seen = world.run("sustained", tmp_path, stop=TEN_MINUTES, bin_s=60.0)
        bins = seen.parts["series"].bins
        assert all(b.start_s - a.end_s < 1 for a, b in itertools.pairwise(bins))

    def test_quantiles_need_no_memory_beside_the_samples(self):
        chance = random.Random(1)
        samples = array("q", (chance.randrange(10**6, 10**7) for _ in range(100_001)))
        ordered = sorted(samples)
        tracemalloc.start()
        found = _quantiles(samples)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found == pytest.approx((ordered[50_000] / 1e9, ordered[90_000] / 1e9))
        assert sorted(samples) == ordered
        assert peak < samples.itemsize * len(samples) / 10

    @pytest.mark.parametrize("count", [1, 2, 7, 99, 100, 101])
    def test_quantiles_of_few(self, count):
        samples = [random.Random(count).randrange(10**9) for _ in range(count)]
        median_s, p90_s = _quantiles(array("q", samples))
        assert median_s == pytest.approx(statistics.median(samples) / 1e9)
        if count < 100:
            assert p90_s.code == "too_few_samples"
        else:
            assert p90_s == pytest.approx(quantile(sorted(samples), 0.9) / 1e9)


class TestMoreThanCanBeKept:
    @pytest.mark.parametrize("mode", ["latency", "steady"])
    def test_a_long_run_of_a_fast_model_is_refused_before_its_time_is_spent(self, mode, tmp_path):
        world = World(latency=lambda t: 20e-6, heat=lambda t: NONE)
        with pytest.raises(UsageError, match="600 s at 50000 inferences a second") as raised:
            world.run(mode, tmp_path, stop=TEN_MINUTES, **WARM)
        assert "--batch-size" in raised.value.hint
        assert world.t_s < 10

    def test_in_throughput_mode_too(self, tmp_path, monkeypatch):
        warm = Concurrent(samples=array("q", [1]), completions_s=(0.1,) * 10_000, window_s=1.0)
        monkeypatch.setattr("hwbench.measure.modes.throughput.sample_streams", lambda *_: warm)
        with pytest.raises(UsageError, match="600 s at 10000 inferences a second"):
            World().run("throughput", tmp_path, stop=TEN_MINUTES)


class TestServer:
    def test_latency_is_from_the_scheduled_arrival(self, tmp_path):
        stop = {"name": "duration", "settings": {"seconds": 500.0, "min_count": 20}}
        world = World(latency=lambda t: 0.005)
        seen = world.run("server", tmp_path, stop=stop, rate_per_s=100.0, spin_s=0.0)
        run = seen.parts["server"]
        waits = [latency - service for latency, service in zip(seen.samples_ns, run.service_ns, strict=True)]
        assert sum(waits) / len(waits) / 1e9 == pytest.approx(0.5 * 0.005 / (2 * 0.5), rel=0.1)  # M/D/1
        assert run.queueing.mean_s == pytest.approx(sum(waits) / len(waits) / 1e9)
        assert run.arrived_per_s == pytest.approx(100, rel=0.02)
        assert run.seed == 0
        assert len(seen.warmup_ns) >= 10
        assert not run.backlog_grew


class TestCold:
    PHASES = Phases(load_s=Missing(code="x", why="in compile"), compile_s=0.2, first_inference_s=0.03)

    def start(self, tmp_path, total_s=0.9):
        ns = 1_000_000_000
        opening = Opening(
            spawned_ns=ns,
            began_ns=ns + 300_000_000,
            runtime_s=0.25,
            phases=self.PHASES,
            ready_ns=ns + round(total_s * 1e9),
        )
        return World().run("cold", tmp_path, opening=opening)

    def test_the_parts_add_up_to_the_whole(self, tmp_path):
        seen = self.start(tmp_path)
        (start,) = seen.parts["cold"].starts
        assert list(seen.samples_ns) == [900_000_000]
        assert (start.interpreter_s, start.runtime_s, start.compile_s) == (0.3, 0.25, 0.2)
        assert start.other_s == pytest.approx(0.9 - 0.3 - 0.25 - 0.2 - 0.03)
        assert isinstance(start.load_s, Missing)

    def test_together_the_first_process_is_left_out(self, tmp_path):
        runs = []
        for total_s in (9.0, 1.0, 1.2, 1.1):
            seen = self.start(tmp_path, total_s)
            base = fixtures_results.make_measurement()
            fields = {name: getattr(base, name) for name in TimedRun.__struct_fields__}
            fields |= {"samples_ns": tuple(seen.samples_ns), "window_s": seen.edges.window_s, **seen.parts}
            runs.append(TimedRun(**fields))
        run = together(runs[0], runs[1:])
        assert run.samples_ns == (1_000_000_000, 1_200_000_000, 1_100_000_000)
        assert [start.total_s for start in run.cold.starts] == [1.0, 1.2, 1.1]
        assert "warm" in run.cold.page_cache
        assert run.window_s == pytest.approx(3.3)
        assert isinstance(run.energy, Missing)
