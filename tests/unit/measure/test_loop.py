import contextlib
import gc
import itertools
import threading
import time
from array import array

import pytest

from hwbench.measure.loop import SUB_WINDOWS, Concurrent, sample, sample_streams, sub_window_rates, undisturbed
from hwbench.measure.stop import Count, Duration, StableMedian
from hwbench.testing import FakeClock
from hwbench.units import MonotonicClock


def silent(fraction):
    pass


class Work:
    """A call that takes the given times, in seconds, one after the other and over again."""

    def __init__(self, clock, *times):
        self.clock = clock
        self.times = itertools.cycle(times)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        self.clock.advance(next(self.times))


class TestSample:
    def test_a_sample_is_what_its_call_took(self):
        clock = FakeClock()
        samples = sample(Work(clock, 0.001, 0.002, 0.0000005), clock, Count(count=6), silent)
        assert list(samples) == [1_000_000, 2_000_000, 500] * 2

    def test_what_happens_between_chunks_is_in_no_sample(self):
        clock = FakeClock()

        class Slow(Count):
            def done(self, samples, elapsed_s):
                clock.advance(1.0)
                return super().done(samples, elapsed_s)

        samples = sample(Work(clock, 0.001), clock, Slow(count=500), lambda fraction: clock.advance(2.0))
        assert set(samples) == {1_000_000}

    @pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 21, 50, 1000, 4096])
    @pytest.mark.parametrize("call_s", [1e-6, 1e-3, 0.2])
    def test_a_count_is_taken_exactly(self, count, call_s):
        clock = FakeClock()
        work = Work(clock, call_s)
        assert len(sample(work, clock, Count(count=count), silent)) == count
        assert work.calls == count

    def test_a_duration_overshoots_by_less_than_a_chunk(self):
        clock = FakeClock()
        start = clock.now_ns()
        samples = sample(Work(clock, 0.001), clock, Duration(seconds=2), silent)
        assert 2.0 <= (clock.now_ns() - start) / 1e9 <= 2.051
        assert len(samples) == (clock.now_ns() - start) // 1_000_000

    def test_a_long_call_is_looked_at_every_time(self):
        clock = FakeClock()
        work = Work(clock, 0.3)
        sample(work, clock, Duration(seconds=1), silent)
        assert work.calls == 4

    def test_a_steady_median_stops_at_the_shortest_time(self):
        clock = FakeClock()
        start = clock.now_ns()
        rule = StableMedian(min_seconds=3, min_count=10, max_seconds=20, relative=0.01)
        samples = sample(Work(clock, 0.010, 0.01001), clock, rule, silent)
        assert 3.0 <= (clock.now_ns() - start) / 1e9 < 3.2
        assert rule.reached(samples, 3.2)

    def test_an_unsteady_median_stops_at_the_longest_time(self):
        clock = FakeClock()
        start = clock.now_ns()
        rule = StableMedian(min_seconds=1, min_count=10, max_seconds=5, relative=1e-6)
        samples = sample(Work(clock, 0.010, 0.020, 0.017, 0.013), clock, rule, silent)
        assert 5.0 <= (clock.now_ns() - start) / 1e9 < 5.2
        assert not rule.reached(samples, 5.2)

    def test_progress_rises_from_zero_to_one(self):
        clock = FakeClock()
        told = []
        sample(Work(clock, 0.001), clock, Count(count=1000), told.append)
        assert told == sorted(told)
        assert 0 < told[0] <= told[-1] < 1

    def test_an_error_goes_through(self):
        def fail():
            raise RuntimeError("no more")

        with pytest.raises(RuntimeError, match="no more"):
            sample(fail, FakeClock(), Count(count=3), silent)

    def test_the_real_clock(self):
        samples = sample(lambda: time.sleep(0.002), MonotonicClock(), Count(count=10), silent)
        assert len(samples) == 10
        assert min(samples) >= 2_000_000


class TestUndisturbed:
    @pytest.mark.parametrize("enabled", [True, False])
    @pytest.mark.parametrize("fails", [True, False])
    def test_the_collector_is_as_before(self, enabled, fails):
        was = gc.isenabled()
        frozen = gc.get_freeze_count()
        (gc.enable if enabled else gc.disable)()
        try:
            with pytest.raises(ValueError, match="inside") if fails else contextlib.nullcontext(), undisturbed():
                assert not gc.isenabled()
                assert gc.get_freeze_count() > frozen
                if fails:
                    int("inside")
        finally:
            after, still_frozen = gc.isenabled(), gc.get_freeze_count()
            (gc.enable if was else gc.disable)()
        assert after == enabled
        assert still_frozen == 0

    def test_nothing_is_collected_inside(self):
        collected = []
        gc.callbacks.append(lambda phase, info: collected.append(phase))
        try:
            with undisturbed():
                collected.clear()
                for _ in range(100_000):
                    cycle = []
                    cycle.append(cycle)
                inside = list(collected)
        finally:
            gc.callbacks.pop()
        assert inside == []


class TestStreams:
    def test_every_stream_calls_from_a_thread_of_its_own(self):
        seen = [set(), set(), set()]
        calls = [lambda own=own: (own.add(threading.get_ident()), time.sleep(0.001)) for own in seen]
        sample_streams(calls, MonotonicClock(), Duration(seconds=0.1), silent)
        assert [len(own) for own in seen] == [1, 1, 1]
        assert len(set.union(*seen)) == 3
        assert threading.get_ident() not in set.union(*seen)

    @pytest.mark.parametrize("count", [1, 7, 100])
    def test_a_count_is_sent_exactly(self, count):
        sent = itertools.count()
        got = sample_streams([lambda: next(sent)] * 3, MonotonicClock(), Count(count=count), silent)
        assert next(sent) == count
        assert len(got.samples) == len(got.completions_s) == count
        assert max(got.completions_s) == got.window_s, "the window closes with the last of them"

    def test_what_is_in_flight_at_the_end_is_a_sample_and_no_completion(self):
        clock = MonotonicClock()
        got = sample_streams([lambda: time.sleep(0.001), lambda: time.sleep(0.3)], clock, Duration(seconds=0.1), silent)
        assert len(got.samples) - len(got.completions_s) in {1, 2}, "the long one, and mostly a short one"
        assert all(0 < end <= got.window_s for end in got.completions_s)
        assert got.window_s < 0.3
        assert max(got.samples) >= 300_000_000

    def test_samples_stand_stream_by_stream(self):
        got = sample_streams(
            [lambda: time.sleep(0.02), lambda: time.sleep(0.001)], MonotonicClock(), Duration(seconds=0.15), silent
        )
        slow = [ns >= 15_000_000 for ns in got.samples]
        first = slow.index(False) if False in slow else len(slow)
        assert first >= 2
        assert sum(slow[:first]) == first

    @pytest.mark.parametrize("error", [RuntimeError("in a stream"), SystemExit(3), MemoryError()])
    def test_an_error_ends_all_streams_and_is_raised(self, error):
        calls = itertools.count()

        def fail():
            if next(calls) == 5:
                raise error
            time.sleep(0.001)

        before = threading.active_count()
        with pytest.raises(type(error)) as raised:
            sample_streams([fail, lambda: time.sleep(0.001)], MonotonicClock(), Duration(seconds=60), silent)
        assert raised.value is error
        assert threading.active_count() == before

    def test_an_error_of_the_caller_ends_the_streams(self):
        def stop(fraction):
            raise KeyboardInterrupt

        before = threading.active_count()
        with pytest.raises(KeyboardInterrupt):
            sample_streams([lambda: time.sleep(0.001)] * 2, MonotonicClock(), Duration(seconds=60), stop)
        assert threading.active_count() == before

    def test_the_stop_rule_sees_how_many_and_not_their_values(self):
        seen = []

        class Watching(Duration):
            def done(self, samples, elapsed_s):
                seen.append(samples)
                return super().done(samples, elapsed_s)

        sample_streams([lambda: time.sleep(0.001)], MonotonicClock(), Watching(seconds=0.12), silent)
        assert all(isinstance(samples, range) for samples in seen)
        assert [len(samples) for samples in seen] == sorted(len(samples) for samples in seen)


class TestSubWindows:
    def test_rates_add_up_to_the_completions(self):
        ends = tuple(index * 0.0137 for index in range(700))
        got = Concurrent(samples=array("q"), completions_s=ends, window_s=9.6)
        rates = sub_window_rates(got)
        assert len(rates) == SUB_WINDOWS
        assert sum(rates) * 9.6 / SUB_WINDOWS == pytest.approx(700)

    def test_one_part_after_another(self):
        ends = (0.05, 0.15, 0.151, 0.999, 1.0)  # the last one exactly at the end
        rates = sub_window_rates(Concurrent(samples=array("q"), completions_s=ends, window_s=1.0))
        assert rates == pytest.approx((10, 20, 0, 0, 0, 0, 0, 0, 0, 20))
