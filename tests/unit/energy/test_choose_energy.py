"""Refusing an energy run before minutes are spent, and saying why each meter cannot be used."""

from types import SimpleNamespace

import pytest
from synthetic_traces import channel

from hwbench import plugins
from hwbench.energy import choose as module
from hwbench.energy.choose import choose, require, shortest_window_s
from hwbench.errors import DeviceError, UsageError
from hwbench.records.base import Missing, Support, unsupported
from hwbench.testing import example_cpu


class Instrument:
    meter, boundary, provenance, settings, sources = "good", "all", "measured_onboard", {}, ()

    def __init__(self):
        self.closed = False

    def close(self):
        self.closed = True


class Meter:
    def __init__(self, name, priority, support=None, instrument=None):
        self.name, self.priority, self.support, self.instrument = name, priority, support or Support(), instrument

    def supports(self, device):
        return self.support

    def open(self, device):
        return self.instrument


@pytest.fixture
def meters(monkeypatch):
    found = {
        "counter": Meter("counter", 50, unsupported("permission_denied", "it is for root", "chmod a+r")),
        "gpu": Meter("gpu", 90, unsupported("wrong_device", "it measures GPUs")),
        "wall": Meter("wall", 10, unsupported("no_socket", "nothing is plugged in", "plug it in")),
        "good": Meter("good", 0, instrument=Instrument()),
    }
    monkeypatch.setattr(module.plugins, "available", lambda group: list(found))
    monkeypatch.setattr(module.plugins, "load", lambda group, name: found[name])
    assert module.plugins is plugins
    return found


def test_every_meter_for_the_device_is_named_with_its_cure(meters):
    with pytest.raises(DeviceError) as refusal:
        require("auto", example_cpu())
    assert "counter: it is for root" in refusal.value.message
    assert "wall: nothing is plugged in" in refusal.value.message
    assert "GPUs" not in refusal.value.message
    assert refusal.value.hint.splitlines() == [
        "counter: chmod a+r",
        "wall: plug it in",
        "--meter external records marks and load pulses for a meter of your own",
    ]


def test_a_named_meter_that_cannot_measure(meters):
    with pytest.raises(DeviceError, match="counter: it is for root"):
        require("counter", example_cpu())


def test_none_is_a_wrong_request_and_external_is_not(meters):
    with pytest.raises(UsageError, match="needs a meter"):
        require("none", example_cpu())
    require("external", example_cpu())
    assert choose("external", example_cpu()).instrument.code == "external"


def test_a_meter_that_works_is_closed_again(meters):
    require("good", example_cpu())
    assert meters["good"].instrument.closed


def test_the_reasons_are_kept_by_meter(meters):
    chosen = choose("auto", example_cpu())
    assert isinstance(chosen.instrument, Missing)
    assert {name: reason.code for name, reason in chosen.reasons.items()} == {
        "counter": "permission_denied", "gpu": "wrong_device", "wall": "no_socket",
    }  # fmt: skip


def test_windows_are_as_long_as_the_slowest_channel_that_is_added_up_asks_for(meters):
    class Slow(Instrument):
        sources = (SimpleNamespace(channels=(channel(period_s=0.1), channel("part", period_s=5.0, role="part"))),)

    slow = Slow()
    meters["good"] = Meter("good", 0, instrument=slow)
    assert shortest_window_s("good", example_cpu()) == pytest.approx(1.0)
    assert slow.closed
    assert shortest_window_s("wall", example_cpu()) == 0.0, "there is none"
