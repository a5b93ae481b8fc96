from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from hwbench import plugins
from hwbench.devices.cpu import CpuFinder
from hwbench.devices.search import find_all, select, with_profile
from hwbench.errors import EXIT_UNAVAILABLE, DeviceError
from hwbench.records.base import unsupported
from hwbench.records.device import Found


class Crashing:
    name = "crashing"

    def find(self):
        raise RuntimeError("boom")


class Refusing:
    name = "refusing"

    def find(self):
        raise DeviceError("the bus is gone", hint="plug it in")


class Recorded:
    name = "cpu"

    def find(self):
        return CpuFinder(Path(Recorded.root), affinity={0}).find()


def register(monkeypatch, **values):
    points = EntryPoints(EntryPoint(name, value, "hwbench.devices") for name, value in values.items())
    monkeypatch.setattr(plugins, "_installed", lambda: points)


@pytest.fixture
def founds(host, monkeypatch):
    monkeypatch.setattr(Recorded, "root", str(host("amd-epyc-kvm")), raising=False)
    here = f"{__name__}:"
    register(
        monkeypatch,
        cpu=f"{here}Recorded",
        crashing=f"{here}Crashing",
        refusing=f"{here}Refusing",
        broken="no_such_module_anywhere:Finder",
    )
    return find_all()


def test_one_bad_finder_does_not_hide_the_others(founds):
    by_name = dict(founds)
    assert [device.name for device in by_name["cpu"].devices] == ["cpu"]
    assert by_name["broken"].absent.reasons[0].code == "plugin_broken"
    assert by_name["crashing"].absent.reasons[0].code == "finder_failed"
    assert "RuntimeError: boom" in by_name["crashing"].absent.reasons[0].why
    assert str(by_name["refusing"].absent) == "the bus is gone; plug it in"


@pytest.mark.parametrize("name", ["cpu", "local"])
def test_select(founds, name):
    assert select(name, founds).name == "cpu"


def test_select_tells_what_is_here_and_why_the_wanted_one_is_not(founds):
    nvidia = ("nvidia", Found(absent=unsupported("no_driver", "there is no driver", "install it")))
    with pytest.raises(DeviceError) as caught:
        select("cuda", [*founds, nvidia])
    assert caught.value.exit_code == EXIT_UNAVAILABLE
    assert "there is no driver; install it" in caught.value.message
    assert caught.value.hint == "devices here: cpu"


def test_select_refuses_a_name_that_two_finders_give(founds):
    with pytest.raises(DeviceError, match="2 devices are called 'cpu', from the finders cpu, other"):
        select("cpu", [*founds, ("other", dict(founds)["cpu"])])


def test_with_profile_changes_nothing_else(founds):
    device = select("cpu", founds)
    profiled = with_profile(device, "epyc-genoa")
    assert profiled.profile == "epyc-genoa"
    assert (profiled.cpu, profiled.fingerprint) == (device.cpu, device.fingerprint)


def test_the_registered_finders_answer():
    answers = dict(find_all())
    assert set(answers) >= {"cpu", "nvidia", "jetson", "android"}
    for name, found in answers.items():
        codes = {reason.code for reason in found.absent.reasons}
        assert not codes & {"plugin_broken", "finder_failed"}, (name, str(found.absent))
        assert found.devices or found.absent.reasons, f"{name} found nothing and gives no reason"
