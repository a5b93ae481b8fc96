"""Which joules stand for one inference in a result."""

import msgspec
import pytest
from fixtures_energy import make_run
from fixtures_results import make_energy, make_measurement

from hwbench.pipeline import _per_inference


def measured(**reading):
    fields = make_energy(0.2, 1000)
    energy = msgspec.structs.replace(fields["energy"], **reading)
    return make_measurement(n=1000, **{**fields, "energy": energy})


def test_a_windows_energy_over_its_inferences():
    run = measured()
    assert _per_inference(run) == pytest.approx(run.energy.energy_j / 1000)


def test_a_window_below_ten_updates_of_the_meter_gives_none():
    assert _per_inference(measured(flags=("window_too_short",))).code == "window_too_short"


def test_an_energy_run_gives_its_total_and_not_the_window_with_its_pauses():
    run = make_run(60.0, 4e-3)
    measurement = msgspec.structs.replace(measured(), energy_run=run)
    assert _per_inference(measurement) == run.total_j.value
