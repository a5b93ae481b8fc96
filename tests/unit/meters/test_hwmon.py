import pytest
from sysfs import Machine, codes, measure

from hwbench.meters.hwmon import KNOWN, Hwmon
from hwbench.testing import FakeClock, MeterContract, example_cpu


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def meter_of(machine):
    return Hwmon(machine.root, machine)


def watts(machine, folder, attribute, power_w):
    """A counter in µJ that rises with the clock."""
    machine.move(f"{folder}/{attribute}", lambda t: 5e6 + power_w * t * 1e6)


@pytest.fixture
def epyc(machine):
    machine.put("sys/class/hwmon/hwmon0", name="amd_energy", energy1_label="Ecore000", energy2_label="Ecore001")
    machine.put("sys/class/hwmon/hwmon0", energy3_label="Esocket0", energy4_label="Esocket1")
    for number, power_w in ((1, 3), (2, 2), (3, 120), (4, 110)):
        watts(machine, "sys/class/hwmon/hwmon0", f"energy{number}_input", power_w)
    return machine


def grace(machine, number, socket, name, power_w, interval_ms=50):
    folder = machine.put(f"sys/class/hwmon/hwmon{number}", name="power_meter").name
    machine.put(
        f"sys/class/hwmon/{folder}/device",
        power1_average=round(power_w * 1e6),
        power1_oem_info=f"{name} Power Socket {socket}",
        power1_average_interval=interval_ms,
    )


@pytest.fixture
def grace_hopper(machine):
    for number, (name, power_w) in enumerate((("Module", 600), ("Grace", 200), ("CPU", 140), ("SysIO", 20))):
        grace(machine, number, 0, name, power_w)
    return machine


@pytest.fixture
def altra(machine):
    machine.put("sys/class/hwmon/hwmon4", name="smpro_hwmon")
    rails = (("CORE VRD", 60), ("SoC", 20), ("DIMM VRD1", 5), ("DIMM VRD2", 6), ("RCA VRD", 9))
    for n, (label, power_w) in enumerate(rails, start=1):
        files = {f"power{n}_label": f"power{n} {label}", f"power{n}_input": power_w * 1_000_000}
        machine.put("sys/class/hwmon/hwmon4", **files)
    machine.put("sys/class/hwmon/hwmon4", temp1_label="temp1 SoC", temp1_input=37000)
    return machine


class TestHwmonContract(MeterContract):
    @pytest.fixture
    def clock(self, epyc):
        return epyc

    @pytest.fixture
    def meter(self, epyc):
        return meter_of(epyc)


class TestHwmonOfPower(MeterContract):
    work_s = 1.0

    @pytest.fixture
    def clock(self, grace_hopper):
        return grace_hopper

    @pytest.fixture
    def meter(self, grace_hopper):
        return meter_of(grace_hopper)


class TestHwmonWithoutATree(MeterContract):
    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def meter(self, tmp_path, clock):
        return Hwmon(tmp_path, clock)


class TestHwmonOnThisMachine(MeterContract):
    @pytest.fixture
    def meter(self):
        return Hwmon()


def test_amd_energy_sums_sockets_and_leaves_cores(epyc):
    reading = measure(epyc, meter_of(epyc), example_cpu(), 10.0)
    assert reading.energy_j == pytest.approx(2300.0)
    assert reading.provenance == "vendor_modelled"


def test_grace_counts_each_joule_once(grace_hopper):
    """Module contains Grace and the GPU, Grace contains CPU and SysIO: 200 W, not 960 W."""
    reading = measure(grace_hopper, meter_of(grace_hopper), example_cpu(), 10.0)
    assert reading.energy_j == pytest.approx(2000.0)
    assert reading.domains_j == pytest.approx(
        {
            "Grace Power Socket 0": 2000,
            "CPU Power Socket 0": 1400,
            "SysIO Power Socket 0": 200,
            "Module Power Socket 0": 6000,
        }
    )


def test_grace_of_two_sockets(grace_hopper):
    grace(grace_hopper, 7, 1, "Grace", 150)
    assert measure(grace_hopper, meter_of(grace_hopper), example_cpu(), 10.0).energy_j == pytest.approx(3500.0)


def test_the_averaging_interval_is_the_instruments(grace_hopper):
    instrument = meter_of(grace_hopper).open(example_cpu())
    channel = next(c for c in instrument.sources[0].channels if c.role == "total")
    assert channel.averaging_s == pytest.approx(0.05)
    assert instrument.sources[0].every_s == pytest.approx(0.025)


def test_an_acpi_meter_that_is_not_graces_is_not_used(machine):
    machine.put("sys/class/hwmon/hwmon0", name="power_meter", power1_average=350_000_000, power1_oem_info="Total")
    reason = meter_of(machine).supports(example_cpu()).reasons[0]
    assert reason.code == "no_known_total"
    assert "Total" in reason.why


def test_altra_adds_its_five_regulators(altra):
    reading = measure(altra, meter_of(altra), example_cpu(), 10.0)
    assert reading.energy_j == pytest.approx(1000.0)
    assert reading.provenance == "measured_onboard"


def test_hsmp_has_one_monitor_a_socket(machine):
    for number, power_w in ((3, 180), (5, 170)):
        machine.put(f"sys/class/hwmon/hwmon{number}", name="amd_hsmp_hwmon", power1_input=power_w * 1_000_000)
    assert measure(machine, meter_of(machine), example_cpu(), 10.0).energy_j == pytest.approx(3500.0)


def test_unknown_rails_are_never_added(machine):
    machine.put("sys/class/hwmon/hwmon0", name="mystery", power1_input=10_000_000, power2_input=90_000_000)
    reason = meter_of(machine).supports(example_cpu()).reasons[0]
    assert reason.code == "no_known_total"
    assert "mystery" in reason.why
    assert "power2" in reason.why


def test_unknown_rails_beside_a_known_total_are_listed_and_not_added(altra):
    altra.put("sys/class/hwmon/hwmon9", name="amdgpu", power1_average=30_000_000, power1_label="PPT")
    reading = measure(altra, meter_of(altra), example_cpu(), 10.0)
    assert reading.energy_j == pytest.approx(1000.0)
    (name,) = [name for name in reading.domains_j if name.startswith("amdgpu")]
    assert reading.domains_j[name] == pytest.approx(300.0)
    assert "amdgpu" in meter_of(altra).open(example_cpu()).settings["not_added"]


def test_of_two_known_drivers_the_first_is_taken(epyc):
    epyc.put("sys/class/hwmon/hwmon8", name="amd_hsmp_hwmon", power1_input=118_000_000)
    assert measure(epyc, meter_of(epyc), example_cpu(), 10.0).energy_j == pytest.approx(2300.0)
    assert "amd_hsmp_hwmon" in meter_of(epyc).open(example_cpu()).settings["not_added"]


def test_temperatures_come_along_as_context(altra):
    sources = meter_of(altra).open(example_cpu()).sources
    context = [channel for source in sources for channel in source.channels if channel.role == "context"]
    assert [channel.name for channel in context] == ["smpro_hwmon:temp1 SoC"]


def test_a_frozen_counter_has_no_energy(machine):
    machine.put("sys/class/hwmon/hwmon0", name="amd_energy", energy1_label="Esocket0", energy1_input=123456)
    assert measure(machine, meter_of(machine), example_cpu(), 10.0).code == "counter_constant"


def test_reasons(tmp_path):
    meter = Hwmon(tmp_path, FakeClock())
    assert codes(meter, example_cpu(name="gpu0", kind="nvidia")) == ["wrong_device"]
    assert codes(meter, example_cpu()) == ["no_sensor"]
    assert codes(meter, example_cpu(virtual="kvm")) == ["not_exposed_in_vm"]
    assert codes(meter, example_cpu(container="docker")) == ["masked_by_container"]


def test_every_known_driver_names_its_source():
    assert all(driver.basis and driver.boundary for driver in KNOWN.values())
