"""What a recorder makes of instruments that misbehave, and how often it reads."""

import threading
import time

import pytest
from synthetic_traces import channel

from hwbench.energy.recorder import Recorder
from hwbench.protocols import NOT_NOW
from hwbench.records.base import Missing
from hwbench.testing import FakeClock, let
from hwbench.units import MonotonicClock


class Source:
    """Gives what a function says, at the interval asked for."""

    def __init__(self, give, every_s=None, name="board", quantity="energy"):
        self.give, self.every_s, self.reads = give, every_s, 0
        self.channels = (channel(name, quantity, period_s=0.01, lsb=1e-6),)

    def read(self):
        self.reads += 1
        return (self.give(self.reads),)


class Instrument:
    meter, boundary, provenance = "fake", "all", "measured_onboard"

    def __init__(self, *sources, settings=None):
        self.sources, self.settings, self.closed = sources, settings or {}, 0

    def close(self):
        self.closed += 1


def recorded(source, seconds=1.0):
    clock = FakeClock()
    with Recorder(Instrument(source), clock=clock) as recorder, recorder.window() as window:
        let(recorder, clock, seconds)
    return recorder, window.reading()


def test_the_end_of_a_window_does_not_wait_for_the_lock():
    """A slow reading in the thread must not lengthen the window: the moment is noted before the wait."""
    with Recorder(Instrument(Source(float, every_s=None)), clock=MonotonicClock()) as recorder:
        recorder._lock.acquire()
        threading.Timer(0.3, recorder._lock.release).start()
        called_s = recorder.now_s()
        mark = recorder.end_mark("window.end")
        assert recorder.now_s() - called_s > 0.2
    assert mark.t_s - called_s < 0.1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_reading_that_is_no_number_is_a_fault(value):
    recorder, reading = recorded(Source(lambda n: value if n > 5 else float(n), every_s=0.1))
    assert reading.code == "not_finite"
    assert recorder.trace.faults["board"][1].code == "not_finite"
    assert max(sample.value for sample in recorder.trace.samples["board"]) == 5


def test_a_source_that_raises_is_a_fault_and_is_not_asked_again():
    def give(n):
        if n == 3:
            raise OSError("the probe fell off")
        return float(n)

    source = Source(give, every_s=0.1)
    _, reading = recorded(source)
    assert reading.code == "meter_failed"
    assert "the probe fell off" in reading.why
    assert source.reads == 3


def test_not_now_is_no_fault():
    recorder, reading = recorded(Source(lambda n: Missing(code=NOT_NOW, why="busy") if n % 2 else float(n), 0.1))
    assert recorder.trace.faults == {}
    assert reading.energy_j > 0


def test_counters_are_read_at_marks_alone_unless_asked():
    source = Source(float)
    recorded(source)
    assert source.reads == 2
    clock, source = FakeClock(), Source(float)
    with Recorder(Instrument(source), clock=clock) as recorder:
        recorder.at_least_every(0.1)
        let(recorder, clock, 1.0)
    assert source.reads == pytest.approx(11, abs=1)


def test_at_least_every_does_not_slow_a_source_down():
    clock, source = FakeClock(), Source(float, every_s=0.01)
    with Recorder(Instrument(source), clock=clock) as recorder:
        recorder.at_least_every(1.0)
        let(recorder, clock, 1.0)
    assert source.reads == pytest.approx(101, abs=2)


def test_a_thread_reads_under_a_real_clock_and_ends_with_the_recorder():
    source = Source(float)
    before = set(threading.enumerate())
    with Recorder(Instrument(source), clock=MonotonicClock()) as recorder:
        assert set(threading.enumerate()) == before, "nothing is to be read in between"
        recorder.at_least_every(0.01)
        time.sleep(0.15)
        recorder.stop()
        reads = source.reads
        assert reads >= 5
        time.sleep(0.03)
        assert source.reads == reads, "it goes on reading after it was stopped"
        recorder.mark("last")
        assert source.reads == reads + 1
    assert set(threading.enumerate()) <= before
    assert 0 < recorder.cpu_s < 0.1


def test_a_thread_that_waits_long_is_woken():
    source = Source(float, every_s=60.0)
    with Recorder(Instrument(source), clock=MonotonicClock()) as recorder:
        time.sleep(0.02)
        recorder.at_least_every(0.01)
        time.sleep(0.1)
    assert source.reads >= 4


def test_the_schedule_is_absolute():
    """What was missed is not made up for, and the next reading is on the grid."""
    clock, source = FakeClock(), Source(float, every_s=0.1)
    with Recorder(Instrument(source), clock=clock) as recorder:
        recorder.poll()
        clock.advance(0.37)
        assert recorder.poll() == pytest.approx(0.03)
        assert source.reads == 2
        clock.advance(0.03)
        recorder.poll()
    assert [round(s.t_s, 6) for s in recorder.trace.samples["board"]] == [0.0, 0.37, 0.4]
