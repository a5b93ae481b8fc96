"""A real RAPL counter (tests/data/traces/rapl_perf.csv) through both of its readers; the energy is known to a count."""

from itertools import pairwise
from pathlib import Path

import pytest
from fake_perf import FakeKernel, pmu
from sysfs import Machine

from hwbench.meters.perf import Perf
from hwbench.meters.rapl import Rapl
from hwbench.testing import FakeClock, example_cpu, opened

COUNT_J = 2.0**-32
RANGE_UJ = 262_143_328_850


def recording():
    path = Path(__file__).parents[2] / "data" / "traces" / "rapl_perf.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()[1:]]
    return [(float(t), int(count)) for t, count in lines]


class Recorded(FakeKernel):
    """Answers what the counter had counted when it was last read before now, from the opening on."""

    def read(self, file):
        _, since_s = self.open_files[file]
        return next(count for t, count in reversed(recording()) if t <= self.machine.elapsed_s - since_s + 1e-9)


def test_through_perf(tmp_path):
    machine = pmu(Machine(tmp_path), events=("pkg",))
    times = [t for t, _ in recording()]
    with opened(Perf(machine.root, machine, Recorded(machine)), example_cpu(), machine) as recorder:
        with recorder.window() as window:
            for before, after in pairwise(times):
                machine.sleep(after - before)
                recorder.poll()
        reading = window.reading()
    assert reading.energy_j == pytest.approx(recording()[-1][1] * COUNT_J, abs=1e-6)
    assert reading.window_s == pytest.approx(times[-1], abs=1e-6)
    assert 1.0 < reading.energy_j / reading.window_s < 1.5  # an idle client CPU


@pytest.mark.parametrize("wraps_after", [None, 3, 9])
def test_through_powercap_across_a_wrap(tmp_path, wraps_after):
    """The same joules as microjoules, the counter restarting from zero at whatever reading."""
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    energies = [round(count * COUNT_J * 1e6) for _, count in recording()]
    times = [t for t, _ in recording()]
    start = 1_000_000 if wraps_after is None else RANGE_UJ - energies[wraps_after]
    clock = FakeClock()

    def show(energy_uj):
        (zone / "energy_uj").write_text(f"{(start + energy_uj) % RANGE_UJ}\n")

    show(energies[0])
    with opened(Rapl(tmp_path, clock), example_cpu(), clock) as recorder, recorder.window() as window:
        for (t, energy_uj), before in zip(zip(times[1:], energies[1:], strict=True), times, strict=False):
            clock.sleep(t - before)
            show(energy_uj)
            recorder.poll()
    reading = window.reading()
    assert reading.energy_j == pytest.approx(energies[-1] / 1e6, abs=2e-6)
    assert "counter_backwards" not in reading.flags
