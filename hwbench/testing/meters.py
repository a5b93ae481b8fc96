"""The contract of an energy meter."""

from __future__ import annotations

import math
import threading

import pytest

from hwbench.protocols import Meter, Window
from hwbench.records.device import Device
from hwbench.records.measurement import EnergyReading
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

    def test_reading(self, meter: Meter, device: Device, clock: Clock) -> None:
        """After leaving the window, a well-formed reading where the meter said it can measure, else a reason."""
        usable = meter.supports(device).usable
        with meter.window() as window:
            clock.sleep(self.work_s)
        reading = window.reading()
        assert_reading(reading, meter.name)
        assert usable == isinstance(reading, EnergyReading), f"usable is {usable}, and the reading was {reading}"
        assert window.reading() == reading, "asking twice gave two answers"

    def test_open_window_has_no_value(self, meter: Meter) -> None:
        """A window that is still open gives a reason."""
        with meter.window() as window:
            assert_explained(window.reading())

    def test_window_closes_on_error(self, meter: Meter, clock: Clock) -> None:
        """An error inside goes through, and leaves a closed window and no thread."""
        threads = set(threading.enumerate())
        opened: list[Window] = []

        def work() -> None:
            with meter.window() as window:
                opened.append(window)
                clock.sleep(self.work_s)
                raise RuntimeError("the work failed")

        with pytest.raises(RuntimeError, match="the work failed"):
            work()
        assert set(threading.enumerate()) <= threads, "a thread of the window is still running"
        assert_reading(opened[0].reading(), meter.name)
        with meter.window() as after:
            clock.sleep(self.work_s)
        assert_reading(after.reading(), meter.name)

    def test_windows_are_independent(self, meter: Meter, clock: Clock) -> None:
        """A later window starts from nothing and leaves the earlier one's reading alone."""
        with meter.window() as first:
            clock.sleep(self.work_s)
        reading = first.reading()
        with meter.window() as second:
            clock.sleep(2 * self.work_s)
        assert first.reading() == reading
        later = second.reading()
        if isinstance(reading, EnergyReading) and isinstance(later, EnergyReading):
            assert later.window_s > reading.window_s
            assert later.window_s >= 2 * self.work_s - 1e-6


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
