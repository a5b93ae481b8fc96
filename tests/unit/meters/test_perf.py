import errno
import sys

import pytest
from fake_perf import PMU, WATTS, FakeKernel, pmu
from sysfs import Machine, codes, measure

from hwbench.meters.perf import Perf, find_pmu
from hwbench.meters.perf_calls import KernelCalls, attributes
from hwbench.testing import FakeClock, MeterContract, example_cpu, opened


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


class TestPerfContract(MeterContract):
    @pytest.fixture
    def clock(self, machine):
        return pmu(machine)

    @pytest.fixture
    def meter(self, clock):
        return Perf(clock.root, clock, FakeKernel(clock))


class TestPerfWithoutATree(MeterContract):
    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def meter(self, tmp_path, clock):
        return Perf(tmp_path, clock)


class TestPerfOnThisMachine(MeterContract):
    @pytest.fixture
    def meter(self):
        return Perf()


def test_the_attribute_is_laid_out_as_the_kernel_wants_it():
    """include/uapi/linux/perf_event.h: type at 0, size at 4, config at 8, all else zero in the first 64 bytes."""
    attr = attributes(22, 0x02)
    assert len(attr) == 64
    assert int.from_bytes(attr[0:4], sys.byteorder) == 22
    assert int.from_bytes(attr[4:8], sys.byteorder) == 64
    assert int.from_bytes(attr[8:16], sys.byteorder) == 2
    assert attr[16:] == bytes(48)


def test_total_is_package_and_dram_and_nothing_else(machine):
    pmu(machine)
    reading = measure(machine, Perf(machine.root, machine, FakeKernel(machine)), example_cpu(), 10.0)
    assert reading.energy_j == pytest.approx(650.0)  # not cores, GPU or platform
    assert reading.domains_j == pytest.approx(
        {"package-0": 600, "package-0/dram": 50, "package-0/core": 400, "package-0/uncore": 30, "psys": 900}
    )
    assert "package-0 + package-0/dram" in reading.boundary
    assert reading.provenance == "vendor_modelled"


def test_one_cpu_a_package_and_one_for_the_platform(machine):
    pmu(machine, cpus="0,18", packages={0: 0, 18: 1}, events=("pkg", "psys"))
    kernel = FakeKernel(machine)
    reading = measure(machine, Perf(machine.root, machine, kernel), example_cpu(), 10.0)
    assert kernel.opened == [(2, 0), (2, 18), (5, 0)]
    assert reading.energy_j == pytest.approx(1200.0)  # equal sockets are two sockets: counts begin at zero


def test_amd_dies_of_a_package_are_one_register(machine):
    pmu(machine, cpus="0,8,16,24", packages={0: 0, 8: 0, 16: 1, 24: 1}, events=("pkg",), vendor="AuthenticAMD")
    kernel = FakeKernel(machine)
    reading = measure(machine, Perf(machine.root, machine, kernel), example_cpu(), 10.0)
    assert kernel.opened == [(2, 0), (2, 16)]
    assert reading.energy_j == pytest.approx(1200.0)


def test_intel_dies_have_registers_of_their_own(machine):
    pmu(machine, cpus="0,8", packages={0: 0, 8: 0}, events=("pkg",))
    reading = measure(machine, Perf(machine.root, machine, FakeKernel(machine)), example_cpu(), 10.0)
    assert reading.energy_j == pytest.approx(1200.0)
    assert set(reading.domains_j) == {"package-0-die-0", "package-0-die-1"}


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EACCES, "permission_denied"),
        (errno.EPERM, "permission_denied"),
        (errno.ENOENT, "not_exposed"),
        (errno.ENOSYS, "not_exposed"),
        (errno.EMFILE, "counter_unreadable"),
    ],
)
def test_what_the_kernel_answers_becomes_a_reason(machine, number, code):
    pmu(machine)
    kernel = FakeKernel(machine, refuse={2: number})
    meter = Perf(machine.root, machine, kernel)
    reason = meter.supports(example_cpu()).reasons[0]
    assert reason.code == code
    if code == "permission_denied":
        assert "CAP_PERFMON" in reason.cure
        assert "perf_event_paranoid" in reason.cure


def test_a_refused_dram_leaves_nothing_open(machine):
    pmu(machine)
    kernel = FakeKernel(machine, refuse={3: errno.EINVAL})
    assert codes(Perf(machine.root, machine, kernel), example_cpu()) == ["not_exposed"]
    assert kernel.open_files == {}


def test_a_refused_part_is_left_out(machine):
    pmu(machine)
    kernel = FakeKernel(machine, refuse={4: errno.EINVAL})
    reading = measure(machine, Perf(machine.root, machine, kernel), example_cpu(), 10.0)
    assert reading.energy_j == pytest.approx(650.0)
    assert "package-0/uncore" not in reading.domains_j


def test_files_are_closed(machine):
    pmu(machine)
    kernel = FakeKernel(machine)
    with opened(Perf(machine.root, machine, kernel), example_cpu(), machine):
        assert len(kernel.open_files) == 5
    assert kernel.open_files == {}


def test_a_constant_counter(machine):
    pmu(machine)
    kernel = FakeKernel(machine, watts=dict.fromkeys(WATTS, 0.0))
    assert codes(Perf(machine.root, machine, kernel), example_cpu()) == ["counter_constant"]


@pytest.mark.parametrize(("name", "text"), [("energy-pkg", "event=0x02,umask=1"), ("energy-pkg.unit", "MB")])
def test_an_event_that_is_not_understood_is_not_opened(machine, name, text):
    pmu(machine)
    machine.put(f"{PMU}/events", **{name: text})
    assert find_pmu(machine.root) is None


def test_reasons(machine):
    meter = Perf(machine.root, machine, FakeKernel(machine))
    assert codes(meter, example_cpu(kind="nvidia")) == ["wrong_device"]
    assert codes(meter, example_cpu()) == ["no_sensor"]
    assert codes(meter, example_cpu(virtual="kvm")) == ["not_exposed_in_vm"]
    assert codes(meter, example_cpu(container="docker")) == ["masked_by_container"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a system call of Linux")
def test_this_kernels_own_answer_is_a_reason(machine):
    """The real call, with a unit that no kernel has: ENOENT, or a refusal where perf is locked away."""
    pmu(machine)
    machine.put(PMU, type=2**31 - 5)
    meter = Perf(machine.root, machine, KernelCalls())
    assert codes(meter, example_cpu())[0] in {"not_exposed", "permission_denied"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a system call of Linux")
def test_this_kernel_takes_the_attribute_and_counts():
    """A software event (type 1, the clock of CPU 0) goes the same way as an energy event."""
    calls = KernelCalls()
    try:
        file = calls.open(attributes(1, 0), 0)
    except OSError as error:
        pytest.skip(f"perf is not allowed here: {error}")
    try:
        first = calls.read(file)
        assert calls.read(file) > first
    finally:
        calls.close(file)
