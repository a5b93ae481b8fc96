"""Open-loop load under a clock that obeys: queues whose answer is known, and no coordinated omission."""

import itertools
import random
import statistics
import threading

import pytest

from hwbench.measure.arrivals import Served, poisson, serve
from hwbench.measure.modes.server import account
from hwbench.records.base import Missing
from hwbench.stats import quantile
from hwbench.testing import FakeClock
from hwbench.units import MonotonicClock


def silent(fraction):
    assert 0 <= fraction <= 1


def run(arrivals_ns, service_s, *, clock=None, give_up_s=1e9):
    """Serve with one worker whose service times come from ``service_s``; return latencies and the account."""
    clock = clock or FakeClock()
    times = iter(service_s) if not isinstance(service_s, float) else None
    served = serve(
        [lambda: clock.advance(service_s if times is None else next(times))],
        clock,
        arrivals_ns,
        spin_s=0.0,
        give_up_s=give_up_s,
        tick=silent,
    )
    latencies = [(one.ended_ns - arrivals_ns[one.index]) / 1e9 for one in served]
    return latencies, account(served, arrivals_ns, rate_per_s=1.0, workers=1, seed=0, spin_s=0.0)


def every(seconds, count):
    return [round(number * seconds * 1e9) for number in range(1, count + 1)]


class TestPoisson:
    def test_gaps_are_exponential(self):
        arrivals = poisson(100.0, 200.0, 1, seed=3)
        gaps = [(b - a) / 1e9 for a, b in itertools.pairwise(arrivals)]
        assert statistics.fmean(gaps) == pytest.approx(0.01, rel=0.03)
        assert statistics.stdev(gaps) == pytest.approx(0.01, rel=0.05)  # an exponential's is its mean
        assert sum(gap > 0.02 for gap in gaps) / len(gaps) == pytest.approx(0.1353, rel=0.1)  # exp(-2)

    def test_the_seed_decides(self):
        assert poisson(10.0, 5.0, 1, seed=1) == poisson(10.0, 5.0, 1, seed=1)
        assert poisson(10.0, 5.0, 1, seed=1) != poisson(10.0, 5.0, 1, seed=2)

    def test_least_count_goes_beyond_the_time(self):
        arrivals = poisson(1.0, 1.0, 50, seed=0)
        assert len(arrivals) == 50
        assert arrivals == sorted(arrivals)


class TestOneWorker:
    def test_below_capacity_nobody_waits(self):
        latencies, seen = run(every(0.01, 100), 0.004)
        assert latencies == pytest.approx([0.004] * 100)
        assert seen.queueing.max_s == 0
        assert seen.offered_load == pytest.approx(0.4)
        assert (seen.backlog_grew, seen.backlog, seen.unserved) == (False, 1, 0)

    @pytest.mark.parametrize("load", [0.5, 0.8])
    def test_poisson_arrivals_and_constant_service_wait_as_the_formula_says(self, load):
        """M/D/1 (Pollaczek-Khinchine): the mean wait is load x service / (2 (1 - load))."""
        service_s = 0.010
        _, seen = run(poisson(load / service_s, 4000.0, 1, seed=11), service_s)
        exact = load * service_s / (2 * (1 - load))
        assert seen.queueing.mean_s == pytest.approx(exact, rel=0.05)
        assert seen.service.mean_s == pytest.approx(service_s)
        assert seen.offered_load == pytest.approx(load, rel=0.02)
        assert not seen.backlog_grew

    def test_random_service_waits_longer(self):
        """M/M/1: the mean wait is load x service / (1 - load), twice that of constant service."""
        chance, arrivals = random.Random(5), poisson(70.0, 4000.0, 1, seed=12)
        _, seen = run(arrivals, [chance.expovariate(100.0) for _ in arrivals])
        assert seen.queueing.mean_s == pytest.approx(0.7 * 0.01 / 0.3, rel=0.1)

    def test_a_stall_delays_all_who_arrived_meanwhile(self):
        """Coordinated omission: one stall of 1 s at 100/s is 1 slow service time, and about 100 slow answers."""
        service = [0.001] * 3000
        service[1000] = 1.0
        latencies, seen = run(every(0.01, 3000), service)
        assert seen.service.p99_s == pytest.approx(0.001)
        assert quantile(sorted(latencies), 0.99) > 0.5
        assert sum(latency > 0.002 for latency in latencies) > 100
        assert not seen.backlog_grew

    def test_above_capacity_the_backlog_grows(self):
        latencies, seen = run(every(0.008, 1000), 0.010)
        assert seen.offered_load == pytest.approx(1.25)
        assert seen.backlog_grew
        assert seen.backlog == pytest.approx(200, abs=3)  # a fifth of 1000 is left when the last arrives
        assert latencies[-1] > 1.9
        assert seen.completed_per_s == pytest.approx(100, rel=0.01)

    def test_what_cannot_be_served_in_time_is_given_up_and_counted(self):
        latencies, seen = run(every(0.001, 1000), 0.010, give_up_s=2.0)
        assert seen.unserved == 1000 - len(latencies) > 700
        assert seen.backlog_grew

    def test_a_late_timer_is_told_apart_from_queueing(self):
        class Sleepy(FakeClock):
            def sleep(self, seconds):
                self.advance(seconds + 0.0002)

        latencies, seen = run(every(0.01, 200), 0.004, clock=Sleepy())
        assert seen.timer.median_s == pytest.approx(0.0002)
        assert seen.timer.waits == 200
        assert latencies[5] == pytest.approx(0.0042)

    @pytest.mark.parametrize("gap_s", [0.5, 30.0], ids=["overloaded", "idle"])
    def test_it_is_never_silent_for_long(self, gap_s):
        """A parent takes silence for a hang."""
        clock, told = FakeClock(), []
        serve(
            [lambda: clock.advance(2.0)],
            clock,
            every(gap_s, 50),
            spin_s=0.0,
            give_up_s=1e9,
            tick=lambda _: told.append(clock.now_ns()),
        )
        assert max(b - a for a, b in itertools.pairwise(told)) <= 3_000_000_000

    def test_never_idle_has_no_timer_error(self):
        served = [Served(0, 1_000_000, 2_000_000, waited=False), Served(1, 2_000_000, 3_000_000, waited=False)]
        seen = account(served, [100, 200], rate_per_s=1.0, workers=1, seed=0, spin_s=0.0)
        assert isinstance(seen.timer, Missing)


class TestManyWorkers:
    def test_two_workers_share_one_queue(self):
        """Real threads: both work, every query is answered once, and two at a time are."""
        most, busy, lock, clock = [0], [0], threading.Lock(), MonotonicClock()

        def call():
            with lock:
                busy[0] += 1
                most[0] = max(most[0], busy[0])
            clock.sleep(0.005)
            with lock:
                busy[0] -= 1

        arrivals = [number * 1_000_000 for number in range(1, 41)]
        served = serve([call, call], clock, arrivals, spin_s=0.0, give_up_s=30.0, tick=silent)
        assert [one.index for one in served] == list(range(40))
        assert most[0] == 2

    @pytest.mark.parametrize("workers", [1, 2])
    def test_what_a_call_raises_comes_out(self, workers):
        def call():
            raise RuntimeError("no")

        with pytest.raises(RuntimeError, match="no"):
            serve([call] * workers, MonotonicClock(), [1000, 2000], spin_s=0.0, give_up_s=5.0, tick=silent)

    def test_watching_the_clock_keeps_the_appointment(self):
        arrivals = every(0.01, 10)
        served = serve([lambda: None], MonotonicClock(), arrivals, spin_s=0.002, give_up_s=5.0, tick=silent)
        late = sorted(one.began_ns - arrivals[one.index] for one in served)
        assert late[0] >= 0
        assert late[2] < 1_000_000  # two in ten on time, on a machine that others use too
