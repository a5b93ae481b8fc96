import fixtures_results
import msgspec
import pytest

from hwbench import inventory, plugins
from hwbench.devices import search
from hwbench.devices.profiles import load_profiles
from hwbench.errors import DeviceError, PluginError
from hwbench.files import decode, encode
from hwbench.inventory import Inventory, Target, default_threads, find_target, take_inventory
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Found
from hwbench.testing import example_cpu

NO = Missing(code="no", why="there is none")


def cpu_target(**changes):
    device = example_cpu()
    return Target(
        device=msgspec.structs.replace(device, cpu=msgspec.structs.replace(device.cpu, **changes)), profile=None
    )


class TestDefaultThreads:
    @pytest.mark.parametrize(("quota", "threads"), [(NO, 4), (8.0, 4), (2.0, 2), (2.9, 2), (0.5, 1)])
    def test_one_a_core_within_the_cgroup(self, quota, threads):
        assert default_threads(cpu_target(quota_cpus=quota)) == threads

    def test_only_usable_cores_count(self):
        assert default_threads(cpu_target(usable_cpus=(2, 3), usable_cores=(2,))) == 1

    def test_a_device_without_a_cpu(self):
        target = Target(device=example_cpu(name="cuda:0", kind="nvidia", cpu=None), profile=None)
        assert default_threads(target) == 1
        assert target.cores == ()


class TestFindTarget:
    def test_this_machine(self):
        target = find_target("cpu")
        assert target.device.kind == "cpu"
        assert (target.profile is None) == isinstance(target.device.profile, Missing)
        assert find_target("local").device.name == "cpu"

    def test_its_profile_comes_along(self, monkeypatch):
        name = next(name for name, profile in load_profiles().items() if profile.match.cpuid and profile.kind == "cpu")
        monkeypatch.setattr(inventory, "match_profile", lambda device, profiles: name)
        target = find_target("cpu")
        assert target.device.profile == name
        assert target.profile.name == name

    def test_a_kind_of_device_is_not_a_device(self):
        name = next(iter(load_profiles()))
        with pytest.raises(DeviceError, match=f"'{name}' is a known kind of device") as refused:
            find_target(name)
        assert "one that is here: cpu" in refused.value.hint
        with pytest.raises(DeviceError) as refused:
            find_target(name, instead="plan for it")
        assert refused.value.hint.endswith("; plan for it")

    @pytest.mark.parametrize(
        ("asked", "named"),
        [
            ("rtx-4090", "nvidia-rtx-4090"),
            ("RTX-4090", "nvidia-rtx-4090"),
            ("nvidia-h100", "nvidia-h100-pcie, nvidia-h100-sxm"),
            ("jetson-orin-nano", "jetson-orin-nano-8gb, jetson-orin-nano-super"),
            ("nvida-rtx4090", "nvidia-rtx-4090"),
        ],
    )
    def test_profiles_with_a_similar_name_are_named(self, asked, named):
        for find in (find_target, inventory.find_or_describe):
            with pytest.raises(DeviceError, match=f"device '{asked}' is not here") as refused:
                find(asked)
            assert named in refused.value.hint
            assert "`hwbench devices`" in refused.value.hint

    def test_a_device_that_a_finder_looks_for_needs_no_guesses(self):
        with pytest.raises(DeviceError) as refused:
            find_target("tpu")
        assert "kinds" not in refused.value.hint
        if not any(found.devices for name, found in search.find_all() if name == "jetson"):
            with pytest.raises(DeviceError) as refused:
                find_target("jetson")
            assert "kinds" not in refused.value.hint

    def test_what_is_not_here(self):
        with pytest.raises(DeviceError, match="device 'tpu' is not here") as refused:
            find_target("tpu")
        assert "cpu" in refused.value.hint


class Engine:
    def installed(self):
        return Support()


class Meter:
    def __init__(self, *answers):
        self.answers = iter(answers)

    def supports(self, device):
        return next(self.answers)


def failing(error):
    class Broken:
        def installed(self):
            raise error

        def supports(self, device):
            raise error

    return Broken()


@pytest.fixture
def registered(monkeypatch):
    """Return a dict of plugins by kind and name that stands for what is registered; an exception is raised on load."""
    table = {"engines": {}, "meters": {}}
    real_available, real_load = plugins.available, plugins.load

    def load(kind, name):
        if kind not in table:
            return real_load(kind, name)
        if isinstance(table[kind][name], Exception):
            raise table[kind][name]
        return table[kind][name]

    monkeypatch.setattr(
        plugins, "available", lambda kind: table.get(kind) or ({} if kind in table else real_available(kind))
    )
    monkeypatch.setattr(plugins, "load", load)
    return table


class TestTakeInventory:
    def test_here(self):
        taken = take_inventory()
        assert "cpu" in [device.name for device in taken.devices]
        assert {item.name for item in taken.engines} == set(plugins.available("engines"))
        assert {item.name for item in taken.meters} == set(plugins.available("meters"))
        assert all(item.why for item in taken.absent)
        assert sum(len(names) for names in taken.profiles.values()) == len(load_profiles())
        assert decode(encode(taken), Inventory, what="it") == taken

    def test_a_broken_plugin_does_not_hide_the_others(self, registered):
        registered["engines"] = {
            "broken": PluginError("it does not import", hint="mend it"),
            "buggy": failing(ZeroDivisionError("division by zero")),
            "good": Engine(),
        }
        registered["meters"] = {
            "broken": PluginError("no such module"),
            "buggy": failing(KeyError("x")),
            "good": Meter(Support()),
        }
        taken = take_inventory()
        engines = {item.name: item.why for item in taken.engines}
        assert engines["good"] is None
        assert "it does not import" in engines["broken"]
        assert "mend it" in engines["broken"]
        assert "the engine plugin 'buggy' failed: ZeroDivisionError: division by zero" in engines["buggy"]
        meters = {item.name: item.why for item in taken.meters}
        assert meters["good"] is None
        assert "no such module" in meters["broken"]
        assert "KeyError" in meters["buggy"]

    def test_a_meter_for_any_device_is_usable(self, registered, monkeypatch):
        devices = (example_cpu(), example_cpu(name="other"))
        monkeypatch.setattr(search, "find_all", lambda: [("cpu", Found(devices=devices))])
        no = unsupported("no", "not this one")
        registered["meters"] = {"second": Meter(no, Support()), "none": Meter(no, unsupported("no", "nor that"))}
        meters = {item.name: item.why for item in take_inventory().meters}
        assert meters == {"none": "nor that", "second": None}

    def test_no_device_at_all(self, registered, monkeypatch):
        monkeypatch.setattr(search, "find_all", lambda: [("cpu", Found(absent=unsupported("x", "no /proc")))])
        registered["meters"] = {"meter": Meter()}
        taken = take_inventory()
        assert taken.devices == ()
        assert taken.absent[0].why == "no /proc"
        assert taken.meters[0].why == "there is no device to measure"

    def test_what_is_unknown_says_why(self, monkeypatch):
        device = fixtures_results.make_device()
        monkeypatch.setattr(search, "find_all", lambda: [("cpu", Found(devices=(device,)))])
        (here,) = take_inventory().devices
        text = "\n".join(here.facts)
        assert "governor: unknown (the hypervisor hides it)" in text
        assert "L2 unified 2 x 2.00 MiB" in text
        assert "memory: 16.0 GiB" in text
        assert "None" not in text
