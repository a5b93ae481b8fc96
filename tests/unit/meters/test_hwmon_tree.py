import errno
import os

import pytest
from sysfs import Machine

from hwbench.meters.hwmon_tree import Attribute, Readings, absent, find_chips, first_missing, numbered
from hwbench.protocols import NOT_NOW
from hwbench.records.base import Missing
from hwbench.records.energy import Channel
from hwbench.testing import example_cpu


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_an_attribute_is_read_anew_from_one_open_file(machine, monkeypatch):
    machine.put("sys", value=1500)
    attribute = Attribute(machine.root / "sys/value", 1e-3)
    assert attribute.read() == pytest.approx(1.5)
    monkeypatch.setattr(os, "open", lambda *args: pytest.fail("opened again"))
    machine.put("sys", value=-40)
    assert attribute.read() == pytest.approx(-0.04)
    attribute.close()
    attribute.close()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EAGAIN, NOT_NOW),
        (errno.EACCES, "permission_denied"),
        (errno.EPERM, "permission_denied"),
        (errno.ENODATA, "sensor_off"),
        (errno.EIO, "sensor_unreadable"),
    ],
)
def test_why_an_attribute_cannot_be_read(machine, monkeypatch, number, code):
    machine.put("sys", value=1)

    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pread", refuse)
    attribute = Attribute(machine.root / "sys/value")
    assert attribute.read().code == code
    attribute.close()


@pytest.mark.parametrize("text", ["", "none", "12.5", "0x10"])
def test_what_is_no_number_is_no_reading(machine, text):
    machine.put("sys", value=text)
    attribute = Attribute(machine.root / "sys/value")
    assert attribute.read().code == "sensor_unreadable"
    attribute.close()


def test_a_sensor_that_goes_away(machine):
    assert Attribute(machine.root / "sys/nothing").read().code == "sensor_unreadable"


def test_chips_in_the_order_of_their_numbers_with_old_and_new_layouts(machine):
    machine.put("sys/class/hwmon/hwmon10", name="ten")
    machine.put("sys/class/hwmon/hwmon2/device", name="two", power1_average=5)
    machine.put("sys/class/hwmon/hwmon3")  # has no name: not a chip
    chips = find_chips(machine.root)
    assert [chip.name for chip in chips] == ["two", "ten"]
    assert chips[0].integer("power1_average") == 5
    assert chips[0].integer("power2_average") is None


def test_inputs_and_labels(machine):
    machine.put("sys/class/hwmon/hwmon0", name="x", power10_input=1, power2_input=1, power2_label="two", power1_cap=3)
    (chip,) = find_chips(machine.root)
    assert chip.inputs(r"power\d+_input") == ("power2_input", "power10_input")
    assert chip.label("power2_input") == "two"
    assert chip.label("power10_input") is None


def test_no_tree(tmp_path):
    assert find_chips(tmp_path) == ()
    assert numbered(tmp_path / "nowhere", "*") == []


def test_why_there_is_none(tmp_path):
    def code(**changes):
        return absent("thing", "sys/class/hwmon", example_cpu(**changes), tmp_path).code

    assert code() == "no_sensor"
    assert code(virtual="kvm") == "not_exposed_in_vm"
    assert code(container="docker") == "masked_by_container"
    (tmp_path / "sys/class/hwmon").mkdir(parents=True)
    assert code(container="docker") == "no_sensor"


def test_readings_keep_the_order_of_their_channels(machine):
    machine.put("sys", a=1, b=2)
    unknown = Missing(code="not_known", why="an example")
    pairs = [
        (
            Channel(name=name, quantity="power", role="part", source=name, period_s=unknown),
            Attribute(machine.root / f"sys/{name}"),
        )
        for name in "ba"
    ]
    source = Readings(pairs, 1.0)
    assert [channel.name for channel in source.channels] == ["b", "a"]
    assert source.read() == [2.0, 1.0]
    source.close()


def test_first_missing():
    not_now, broken = Missing(code=NOT_NOW, why="asleep"), Missing(code="broken", why="broken")
    assert first_missing([1.0, not_now, broken], lambda code: code == NOT_NOW) is broken
    assert first_missing([1.0, not_now], lambda code: code == NOT_NOW) is None
