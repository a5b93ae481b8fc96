"""The contract of an energy meter."""

from __future__ import annotations

import math
import threading

import pytest

from hwbench.energy.recorder import Recorder, Window
from hwbench.protocols import Instrument, Meter
from hwbench.records.base import Missing
from hwbench.records.device import Device
from hwbench.records.energy import EnergyReading
from hwbench.testing.basics import assert_explained, assert_name, assert_support, example_cpu
from hwbench.units import Clock, MonotonicClock


class MeterContract:
    """What every energy meter must do, whether or not its hardware is here.

    Override ``meter``; override ``clock`` with the meter's own where it is a fake, and ``device`` where the meter is
    not for a CPU. ``work_s`` must be long enough for the meter to give a reading.
    """

    @pytest.fixture
    def meter(self) -> Meter:
        """The meter under test."""
        raise NotImplementedError("override the fixture 'meter'")

    @pytest.fixture
    def clock(self) -> Clock:
        """The clock that the meter goes by."""
        return MonotonicClock()

    @pytest.fixture
    def device(self) -> Device:
        """A device to ask the meter about."""
        return example_cpu()

    work_s = 0.05  # time spent in a window

    def test_name(self, meter: Meter) -> None:
        """A name that can be typed after a flag."""
        assert_name(meter.name)

    def test_supports(self, meter: Meter, device: Device) -> None:
        """Yes, or reasons with a code and words."""
        assert_support(meter.supports(device))

    def test_priority(self, meter: Meter) -> None:
        """A whole number, zero for a meter that is only used when named."""
        assert isinstance(meter.priority, int)
        assert meter.priority >= 0

    def test_open(self, meter: Meter, device: Device) -> None:
        """An instrument where the meter said that it can measure, else a reason; channels whose names differ."""
        usable = meter.supports(device).usable
        instrument = meter.open(device)
        if isinstance(instrument, Missing):
            assert_explained(instrument)
            assert not usable, f"it can measure {device.name}, and does not open: {instrument}"
            return
        assert instrument.meter == meter.name
        assert instrument.boundary.strip(), "an instrument must say what its energy is of"
        names = [channel.name for source in instrument.sources for channel in source.channels]
        assert len(names) == len(set(names)), f"two channels have one name: {names}"
        for source in instrument.sources:
            assert len(source.read()) == len(source.channels)
        instrument.close()

    def test_reading(self, meter: Meter, device: Device, clock: Clock) -> None:
        """After leaving the window, a well-formed reading where the meter said it can measure, else a reason."""
        usable = meter.supports(device).usable
        with opened(meter, device, clock) as recorder:
            with recorder.window() as window:
                let(recorder, clock, self.work_s)
            reading = window.reading()
            assert_reading(reading, meter.name)
            assert usable == isinstance(reading, EnergyReading), f"usable is {usable}, and the reading was {reading}"
            assert window.reading() == reading, "asking twice gave two answers"

    def test_open_window_has_no_value(self, meter: Meter, device: Device, clock: Clock) -> None:
        """A window that is still open gives a reason."""
        with opened(meter, device, clock) as recorder, recorder.window() as window:
            assert_explained(window.reading())

    def test_window_closes_on_error(self, meter: Meter, device: Device, clock: Clock) -> None:
        """An error inside goes through, and leaves a closed window and no thread."""
        threads = set(threading.enumerate())
        windows: list[Window] = []

        def work() -> None:
            with opened(meter, device, clock) as recorder, recorder.window() as window:
                windows.append(window)
                let(recorder, clock, self.work_s)
                raise RuntimeError("the work failed")

        with pytest.raises(RuntimeError, match="the work failed"):
            work()
        assert set(threading.enumerate()) <= threads, "a thread is still running"
        assert_reading(windows[0].reading(), meter.name)

    def test_windows_are_independent(self, meter: Meter, device: Device, clock: Clock) -> None:
        """A later window starts from nothing and leaves the earlier one's reading alone."""
        with opened(meter, device, clock) as recorder:
            with recorder.window() as first:
                let(recorder, clock, self.work_s)
            reading = first.reading()
            with recorder.window() as second:
                let(recorder, clock, 2 * self.work_s)
            later = second.reading()
        assert isinstance(first.reading(), EnergyReading) == isinstance(reading, EnergyReading)
        if isinstance(reading, EnergyReading) and isinstance(later, EnergyReading):
            assert later.window_s > reading.window_s
            assert later.window_s >= 2 * self.work_s - 1e-6


def opened(meter: Meter, device: Device, clock: Clock) -> Recorder:
    """Return a recorder of the meter's instrument; of nothing where it does not open."""
    instrument: Instrument | Missing = meter.open(device)
    return Recorder(None if isinstance(instrument, Missing) else instrument, clock=clock)


def let(recorder: Recorder, clock: Clock, seconds: float, step_s: float = 0.001) -> None:
    """Let time pass, with the instrument read as often as it wants to be, under a fake clock too."""
    if isinstance(clock, MonotonicClock):
        clock.sleep(seconds)
        return
    end_s = recorder.now_s() + seconds
    while (left_s := end_s - recorder.now_s()) > 1e-9:
        clock.sleep(min(left_s, max(step_s, min(recorder.poll(), left_s))))


def assert_reading(reading: object, meter: str) -> None:
    """Check that ``reading`` is a complete :class:`EnergyReading` of ``meter``, or a :class:`Missing` with a reason."""
    if not isinstance(reading, EnergyReading):
        assert_explained(reading)
        return
    assert reading.meter == meter
    assert reading.boundary.strip(), "a reading must say what it covers"
    assert reading.provenance in {"measured_external", "measured_onboard", "vendor_modelled", "replayed"}
    assert reading.clock.strip(), "a reading must name its clock"
    assert reading.energy_j > 0, "a counter that did not move has no reading"
    assert reading.window_s > 0
    assert math.isfinite(reading.relative_uncertainty)
    assert reading.relative_uncertainty > 0, "no instrument is exact"
