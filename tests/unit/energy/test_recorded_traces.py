"""Real sensors beside an external meter (tests/data/traces): what is made of the one must hold against the other."""

from pathlib import Path

import pytest

from hwbench.energy.account import energy_between
from hwbench.energy.integrate import Sample, integrate_power, update_period_s
from hwbench.energy.trace import Trace
from hwbench.energy.uncertainty import GAIN
from hwbench.records.energy import Channel, EnergyReading, TraceHeader

FOLDER = Path(__file__).parents[2] / "data" / "traces"
BUSY_S = (1.2, 8.8)
LOAD_PERIOD_S = {"a100": 0.104, "rtx3090": 0.100}
SENSED_S = {"a100": 0.025, "rtx3090": 0.100}  # arXiv:2312.02741


def read(name):
    lines = (FOLDER / name).read_text().splitlines()[1:]
    return [Sample(*map(float, line.split(","))) for line in lines]


def nvml(card):
    channel = Channel(
        name="instant",
        quantity="power",
        role="total",
        source="nvidia-smi",
        period_s=0.1,
        averaging_s=SENSED_S[card],
        sensed_s=SENSED_S[card],
        lsb=0.01,
        gain=GAIN["nvml"].standard,
    )
    header = TraceHeader(
        schema_version=1,
        meter="nvml",
        boundary="GPU board",
        provenance="measured_onboard",
        clock="recorded",
        started_at="2023-07-14T09:12:46Z",
        channels=(channel,),
    )
    return Trace(header, {"instant": read(f"{card}_nvml_instant.csv")})


@pytest.mark.parametrize("card", ["a100", "rtx3090"])
def test_the_external_meter_lies_within_the_stated_uncertainty(card):
    truth = integrate_power(read(f"{card}_external.csv"), *BUSY_S, period_s=0.005)
    reading = energy_between(nvml(card), *BUSY_S)
    assert isinstance(reading, EnergyReading)
    assert truth.coverage == 1
    error = reading.energy_j / truth.energy_j - 1
    assert abs(error) <= reading.relative_uncertainty
    assert reading.relative_uncertainty < 0.08


def test_the_rtx_3090_is_off_by_its_gain():
    """The sensor sees all of the time and is 5.7 % low: no number of readings takes that out of the answer."""
    truth = integrate_power(read("rtx3090_external.csv"), *BUSY_S, period_s=0.005)
    halves = [energy_between(nvml("rtx3090"), *window).energy_j for window in ((1.2, 5.0), (5.0, 8.8))]
    assert sum(halves) / truth.energy_j == pytest.approx(0.943, abs=0.01)
    assert halves[0] / halves[1] == pytest.approx(1, abs=0.01)  # repeatable all the same


def test_a_sensor_that_looks_a_quarter_of_the_time_is_flagged_under_a_load_of_nearly_its_period():
    """Over half a second of the A100's beat against its 104 ms load the error is beyond every band; so it is said."""
    trace, truth = nvml("a100"), read("a100_external.csv")
    errors = []
    for tenth in range(12, 84, 4):
        window = (tenth / 10, tenth / 10 + 0.5)
        reading = energy_between(trace, *window, load_period_s=LOAD_PERIOD_S["a100"])
        assert "aliasing_risk" in reading.flags
        errors.append(abs(reading.energy_j / integrate_power(truth, *window, period_s=0.005).energy_j - 1))
    assert max(errors) > 0.3
    whole = energy_between(nvml("rtx3090"), *BUSY_S, load_period_s=LOAD_PERIOD_S["rtx3090"])
    assert "aliasing_risk" not in whole.flags


def test_the_update_period_of_the_a100_is_found():
    changes = [
        sample
        for before, sample in zip(read("a100_update_period.csv"), read("a100_update_period.csv")[1:], strict=False)
        if sample.value != before.value
    ]
    assert update_period_s(changes, counter=False) == pytest.approx(0.1, abs=0.003)
