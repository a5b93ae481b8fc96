"""GPUs in the doctor: its checks, and what it sets and puts back, over a pretended driver below NVIDIA's wrapper."""

from dataclasses import replace

import fake_nvml
import msgspec
import pytest
from fake_nvml import UUID, FakeDriver, example_gpu
from hypothesis import given
from hypothesis import strategies as st

from hwbench.doctor import change, gpu, journal
from hwbench.doctor.gpu_hand import GpuHand, clocks_text
from hwbench.doctor.gpu_settings import _pair
from hwbench.doctor.settings import SETTINGS, of_gpu, parse_settings, plan
from hwbench.errors import DeviceError, UsageError
from hwbench.measure.gpu_state import Card
from hwbench.records.base import Missing
from hwbench.testing import FakeClock

GB = 2**30


@pytest.fixture
def card(monkeypatch, machine):
    """Return a function that makes a subject with a GPU, whose driver is ``subject.driver``."""

    def make(uuid=UUID, **settings):
        driver = FakeDriver(FakeClock(), **settings)
        driver.install(monkeypatch)
        monkeypatch.setitem(change.HANDS, "gpu", GpuHand(fake_nvml.pynvml))
        monkeypatch.setattr("os.geteuid", lambda: 0)
        subject = machine()
        seen = Card(uuid, "cuda:0", fake_nvml.pynvml)
        return driver, replace(subject, card=seen)

    return make


def checks(subject):
    return {found.name: found for check in gpu.CHECKS if (found := check(subject)) is not None}


def test_a_quiet_gpu(card):
    _, subject = card(persistence=1, enforced_mw=700_000)
    found = checks(subject)
    assert {name for name, one in found.items() if one.severity == "warning"} == set()
    assert found["gpu_xid"].severity == "cannot_tell"
    assert "dmesg" in found["gpu_xid"].cure
    assert "gpu_mig" not in found
    assert found["gpu_clocks"].figures == {"sm_hz": 1.98e9, "sm_max_hz": 1.98e9}


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("gpu_persistence", {"persistence": 0}, "off"),
        ("gpu_processes", {"processes": {77: 3 * GB}, "drawing": {78: None}}, "2 other processes"),
        ("gpu_sharing", {"compute_mode": 2}, "prohibited"),
        ("gpu_sharing", {"served": {5: GB}}, "MPS"),
        ("gpu_power_limit", {"limit_mw": 300_000}, "300 W"),
        ("gpu_temperature", {"margin_c": 9}, "9 °C below"),
        ("gpu_temperature", {"failing": {"nvmlDeviceGetMarginTemperature": 13}, "hot": 80}, "7 °C below"),
        ("gpu_held_back", {"reasons": 0x40}, "hw_thermal"),
        ("gpu_ecc", {"ecc_errors": {1: 2, 0: 9}}, "2 errors were not corrected"),
        ("gpu_ecc", {"rows": (0, 1, 1, 0)}, "wait to be replaced"),
    ],
)
def test_what_disturbs(card, monkeypatch, name, settings, words):
    hot = settings.pop("hot", None)
    _, subject = card(**{"persistence": 1, **settings})
    if hot is not None:
        monkeypatch.setattr(Card, "temperature", lambda _: float(hot))
    found = checks(subject)[name]
    assert found.severity == "warning"
    assert words in found.found


@pytest.mark.parametrize(
    ("name", "settings", "severity"),
    [
        ("gpu_sharing", {"compute_mode": 3}, "info"),
        ("gpu_mig", {"mig": (1, 1)}, "info"),
        ("gpu_ecc", {"failing": {"nvmlDeviceGetEccMode": 3}}, "info"),
        ("gpu_ecc", {"ecc": (0, 0)}, "info"),
        ("gpu_ecc", {"failing": {"nvmlDeviceGetTotalEccErrors": 3}}, "cannot_tell"),
        ("gpu_power_limit", {"failing": {"nvmlDeviceGetPowerManagementDefaultLimit": 3}}, "cannot_tell"),
        ("gpu_processes", {"failing": {"nvmlDeviceGetGraphicsRunningProcesses_v3": 4}}, "cannot_tell"),
    ],
)
def test_what_is_told_otherwise(card, name, settings, severity):
    _, subject = card(**settings)
    assert checks(subject)[name].severity == severity


def test_in_a_container_ids_are_said_to_be_the_hosts(card):
    _, subject = card(processes={77: GB})
    assert "--pid=host" in checks(subject)["gpu_processes"].found
    spaces = subject.tree.root / "proc/self/ns"
    spaces.mkdir(parents=True)
    (spaces / "pid").symlink_to("pid:[4026531836]")
    assert "--pid=host" not in checks(subject)["gpu_processes"].found


def test_a_gpu_that_cannot_be_asked_is_one_answer(card):
    _, subject = card(failing={"nvmlInitWithFlags": 9})
    (found,) = checks(subject).values()
    assert (found.name, found.severity) == ("gpu", "cannot_tell")
    lost = replace(subject, card=Missing(code="several_gpus", why="there are two"))
    assert list(checks(lost)) == ["gpu"]
    assert checks(replace(subject, card=None)) == {}


# settings

ALL = "gpu_clocks=1500MHz,gpu_memory_clocks=1593MHz,gpu_power=300W,gpu_persistence"


def test_everything_is_set_and_put_back(card):
    driver, subject = card()
    root, changes = subject.tree.root, plan(subject, parse_settings([ALL]))
    with change.changed(root, changes, ["true"]):
        assert (driver.locked, driver.memory_locked) == ((1500, 1500), (1593, 1593))
        assert (driver.limit_mw, driver.persistence) == (300_000, 1)
        assert [one.kind for one in journal.read_journal(root).changes] == ["gpu"] * 4
    assert (driver.locked, driver.memory_locked, driver.limit_mw, driver.persistence) == (None, None, 700_000, 0)
    assert journal.read_journal(root) is None


def test_an_exception_puts_everything_back(card):
    driver, subject = card()
    with (
        pytest.raises(KeyboardInterrupt),
        change.changed(subject.tree.root, plan(subject, parse_settings([ALL])), ["true"]),
    ):
        raise KeyboardInterrupt
    assert (driver.locked, driver.memory_locked, driver.limit_mw, driver.persistence) == (None, None, 700_000, 0)


def test_hyphens_and_ranges_and_gigahertz(card):
    driver, subject = card()
    values = parse_settings(["gpu-clocks=1.2GHz-1500MHz"])
    assert values == {"gpu_clocks": "1.2GHz-1500MHz"}
    with change.changed(subject.tree.root, plan(subject, values), ["true"]):
        assert driver.locked == (1200, 1500)


def test_after_a_kill_the_journal_puts_back(card):
    driver, subject = card()
    root, changes = subject.tree.root, plan(subject, parse_settings([ALL]))
    with change.changed(root, changes, ["sleep"]):
        left = journal.journal_path(root).read_bytes()
    journal.journal_path(root).write_bytes(left)
    driver.locked, driver.limit_mw, driver.memory_locked, driver.persistence = (1500, 1500), 300_000, (1593, 1593), 1
    moved, foreign = change.restore(root)
    assert {one.setting for one in moved} == {"gpu_clocks", "gpu_memory_clocks", "gpu_power", "gpu_persistence"}
    assert foreign == []
    assert (driver.locked, driver.memory_locked, driver.limit_mw, driver.persistence) == (None, None, 700_000, 0)


def test_a_limit_that_somebody_has_set_since_is_left_alone(card):
    driver, subject = card()
    root, changes = subject.tree.root, plan(subject, parse_settings(["gpu_power=300W"]))
    with change.changed(root, changes, ["sleep"]):
        left = journal.journal_path(root).read_bytes()
    journal.journal_path(root).write_bytes(left)
    driver.limit_mw = 450_000
    assert change.restore(root) == ([], list(changes))
    assert driver.limit_mw == 450_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gpu_power=100W", "200 W to 700 W"),
        ("gpu_power=701W", "200 W to 700 W"),
        ("gpu_power", "200 W to 700 W"),
        ("gpu_power=high", "200 W to 700 W"),
        ("gpu_clocks", "gpu_clocks=1980MHz"),
        ("gpu_clocks=2GHz", "210 to 1980 MHz"),
        ("gpu_clocks=1501MHz", "1500 MHz and 1515 MHz"),
        ("gpu_clocks=1500", "gpu_clocks=1980MHz"),
        ("gpu_clocks=1500MHz-1200MHz", "lower clock first"),
        ("gpu_clocks=1200MHz-1350MHz-1500MHz", "gpu_clocks=1980MHz"),
        ("gpu_memory_clocks=3GHz", "1593 to 2619 MHz"),
        ("gpu_persistence=maybe", "on, off"),
    ],
)
def test_what_the_card_does_not_take_is_refused_with_what_it_takes(card, text, words):
    driver, subject = card()
    with pytest.raises(UsageError) as raised:
        plan(subject, parse_settings([text]))
    assert words in raised.value.hint
    assert (driver.locked, driver.limit_mw) == (None, 700_000)


@given(st.integers(1, 3000), st.integers(0, 3000))
def test_any_pair_of_clocks_is_planned_or_refused(least, more):
    offered = range(1980, 195, -15)
    asked, fits = f"{least}MHz-{least + more}MHz", least in offered and least + more in offered
    try:
        text = _pair("gpu_clocks", asked, list(offered), Card(UUID, "cuda:0"))
    except UsageError:
        assert not fits
    else:
        assert fits
        assert text == clocks_text(least, least + more)


def test_nothing_is_planned_where_it_is_so_already(card):
    _, subject = card(persistence=1)
    assert plan(subject, parse_settings(["gpu_power=700W", "gpu_persistence"])) == ()


def test_without_privilege_nothing_is_changed(card, monkeypatch):
    driver, subject = card()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    changes = plan(subject, parse_settings(["gpu_power=300W"]))
    with pytest.raises(DeviceError) as raised, change.changed(subject.tree.root, changes, ["true"]):
        pytest.fail("it went on")
    assert "sudo" in raised.value.hint
    assert driver.limit_mw == 700_000


def test_what_the_driver_refuses_after_all_undoes_the_rest(card):
    driver, subject = card(failing={"nvmlDeviceSetGpuLockedClocks": 4})
    changes = plan(subject, parse_settings(["gpu_clocks=1500MHz,gpu_power=300W"]))
    with pytest.raises(DeviceError, match="refuses this user"), change.changed(subject.tree.root, changes, ["true"]):
        pytest.fail("it went on")
    assert driver.limit_mw == 700_000
    assert journal.read_journal(subject.tree.root) is None


def test_what_cannot_be_put_back_is_told_with_the_command(card):
    driver, subject = card()
    changes = plan(subject, parse_settings(["gpu_clocks=1500MHz,gpu_power=300W,gpu_persistence"]))

    def fail():
        driver.failing |= dict.fromkeys(
            ["nvmlDeviceResetGpuLockedClocks", "nvmlDeviceSetPowerManagementLimit", "nvmlDeviceSetPersistenceMode"], 15
        )

    with pytest.raises(DeviceError) as raised, change.changed(subject.tree.root, changes, ["true"]):
        fail()
    for command in ("--reset-gpu-clocks", "--power-limit=700", "--persistence-mode=0"):
        assert f"sudo nvidia-smi -i {UUID} {command}" in raised.value.hint


def test_a_mig_instance_has_nothing_of_its_own_to_set(card):
    _, subject = card(uuid="MIG-7", instance_of="MIG-7")
    with pytest.raises(DeviceError, match="whole GPU"):
        plan(subject, parse_settings(["gpu_power=300W"]))


def test_a_gpu_must_be_named(card):
    _, subject = card()
    with pytest.raises(UsageError) as raised:
        plan(replace(subject, card=None), parse_settings(["gpu_power=300W"]))
    assert "--device cuda:0" in raised.value.hint
    several = Missing(code="several_gpus", why="there are two", cure="name one")
    with pytest.raises(DeviceError, match="there are two"):
        plan(replace(subject, card=several), parse_settings(["gpu_power=300W"]))


def test_settings_of_gpus_are_told_by_their_names():
    assert [name for name in SETTINGS if of_gpu(name)] == [
        "gpu_persistence", "gpu_power", "gpu_memory_clocks", "gpu_clocks",
    ]  # fmt: skip


def test_the_subject_of_a_gpu_is_its_card(tmp_path):
    from hwbench.doctor.subject import look

    (tmp_path / "proc").mkdir()
    assert look(tmp_path, gpu=example_gpu()).card.uuid == UUID
    nameless = msgspec.structs.replace(example_gpu(), gpu=None)
    assert look(tmp_path, gpu=nameless).card.code == "no_uuid"
    assert look(tmp_path).card is None
