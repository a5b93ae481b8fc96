"""What is here (devices, engines, meters) and what is known about kinds of devices. Imports no runtime."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hwbench import plugins
from hwbench.devices import search
from hwbench.devices.profiles import load_profiles, match_profile
from hwbench.errors import DeviceError, EngineError, HwbenchError, UsageError
from hwbench.protocols import NEEDS_ARTEFACT, WRONG_DEVICE, BuildsElsewhere, Engine, Meter, TakesOptions
from hwbench.records.base import Missing, Record, Support, unsupported
from hwbench.records.device import Device, DeviceKind, Gpu, JetPack
from hwbench.records.model import ImportResult
from hwbench.records.profile import DeviceProfile
from hwbench.units import format_bytes

_KINDS: dict[str, DeviceKind] = {"gpu": "nvidia", "jetson": "jetson", "phone": "android"}
_AWAY = Missing(code="not_attached", why="the device is not attached")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device and what is known about its kind."""

    device: Device
    profile: DeviceProfile | None

    @property
    def cores(self) -> tuple[int, ...]:
        """The logical CPUs to run on by default: one for each physical core."""
        return self.device.cpu.usable_cores if self.device.cpu is not None else ()


@dataclass(frozen=True, kw_only=True)
class Away(Target):
    """A device that is not here; all that is known of it is in its profile."""

    profile: DeviceProfile


def find_target(name: str, *, instead: str | None = None) -> Target:
    """Find the device called ``name`` and the profile that fits it.

    Args:
        name: of the device.
        instead: what can be done where it is a kind of device that is not attached.

    Raises:
        DeviceError: it is not here.
    """
    profiles = load_profiles()
    founds = search.find_all()
    if name in profiles:
        here = ", ".join(device.name for _, found in founds for device in found.devices) or "none"
        raise DeviceError(
            f"'{name}' is a known kind of device ({profiles[name].title}), not one that is attached",
            hint=f"to measure, name one that is here: {here}{'' if instead is None else f'; {instead}'}",
        )
    device = search.select(name, founds, profiles)
    matched = match_profile(device, profiles)
    device = search.with_host(search.with_profile(device, matched), founds)
    return Target(device=device, profile=profiles[matched] if isinstance(matched, str) else None)


def find_or_describe(name: str) -> Target:
    """Find the device called ``name``; of the name of a profile, the device that the profile describes.

    Raises:
        DeviceError: no device and no profile is called so.
    """
    profile = load_profiles().get(name)
    if profile is None:
        return find_target(name)
    kind = _KINDS.get(profile.kind, "cpu")
    described = Device(
        name=profile.name,
        kind=kind,
        title=profile.title,
        fingerprint=profile.name,
        profile=profile.name,
        gpu=_described_gpu(profile) if kind in {"nvidia", "jetson"} else None,
        memory_bytes=_AWAY,
        memory_limit_bytes=_AWAY,
        virtual=_AWAY,
        container=_AWAY,
        power_mode=_AWAY,
    )
    return Away(device=described, profile=profile)


def _described_gpu(profile: DeviceProfile) -> Gpu:
    return Gpu(
        name=profile.title,
        uuid=_AWAY,
        compute_capability=profile.compute_capability or _AWAY,
        memory_bytes=_AWAY,
        driver_version=_AWAY,
        cuda_version=_AWAY,
        power_limit_w=_AWAY,
        sm_max_hz=_AWAY,
        mig=_AWAY,
    )


def default_threads(target: Target) -> int:
    """Return one thread for each physical core this process may use, and no more than a cgroup lets it."""
    cpu = target.device.cpu
    if cpu is None:
        return 1
    limit = len(cpu.usable_cores) if isinstance(cpu.quota_cpus, Missing) else int(cpu.quota_cpus)
    return max(1, min(len(cpu.usable_cores), limit))


def pinned_cpus(target: Target, threads: int) -> tuple[int, ...]:
    """Return the logical CPUs to pin to: as many cores as threads, or all when that is not enough."""
    if threads <= len(target.cores):
        return target.cores[:threads]
    return target.device.cpu.usable_cpus if target.device.cpu is not None else ()


def unusable(engine: Engine, imported: ImportResult, device: Device) -> Missing | None:
    """Return why an engine cannot run a model on a device, or None where it can.

    Of a built engine, the CPU must have the extensions that it was built for, whatever the engine's plugin says.
    """
    artefact, cpu = imported.model.artefact, device.cpu
    support = engine.supports(imported.model, imported.files, device)
    if not support.usable:
        return support.reasons[0]
    if artefact is None or cpu is None:
        return None
    lacking = [word.replace("|", " or ") for word in artefact.isa if not set(word.split("|")) & set(cpu.isa)]
    if not lacking:
        return None
    return Missing(
        code="other_isa",
        why=f"'{imported.model.name}' was built for CPUs with {', '.join(lacking)}, which this one has not",
        cure="build it on this machine",
    )


def is_news(reason: Missing, imported: ImportResult, device: Device) -> bool:
    """Say whether to tell of an engine that nobody named why it was passed over.

    Not of one that runs only what was built for it, and not of one for GPUs where a CPU is measured, or the other way
    round. Of a built engine there is but one that could run it, and so its reason is told.
    """
    if imported.model.artefact is not None:
        return True
    return reason.code != NEEDS_ARTEFACT and not (reason.code == WRONG_DEVICE and device.kind != "android")


def cannot_build(
    engine: Engine, imported: ImportResult, target: Target, options: Collection[str] = ()
) -> Missing | None:
    """Return why an engine cannot build a model for a device, or None where it may.

    One that runs only what has been built for it builds just that. ``options``: names of what it is to be told.
    """
    device = target.device
    if not isinstance(target, Away):
        support = engine.supports(imported.model, imported.files, device)
    elif isinstance(engine, BuildsElsewhere):
        support = engine.builds_for(device)
    else:
        support = _on_the_device_itself(engine, imported, device)
    reasons = (*support.reasons, *engine.installed().reasons)
    told = next((reason for reason in reasons if reason.code != NEEDS_ARTEFACT), None)  # which is what will be built
    unknown = sorted(set(options) - set(engine.options if isinstance(engine, TakesOptions) else ()))
    if told is None and unknown:
        return Missing(code="no_option", why=f"{engine.name} has no option '{unknown[0]}'", cure="leave it out")
    return told


def _on_the_device_itself(engine: Engine, imported: ImportResult, device: Device) -> Support:
    """Return why an engine that builds where it runs cannot build for a device that is not attached."""
    wrong = [
        reason
        for reason in engine.supports(imported.model, imported.files, device).reasons
        if reason.code == WRONG_DEVICE
    ]
    if wrong:  # it would not build there either
        return Support(reasons=(wrong[0],))
    why = f"{device.title} is not attached, and {engine.name} builds on the device itself"
    return unsupported("not_attached", why, "run hwbench build there")


def engines_for(imported: ImportResult, asked: Sequence[str]) -> tuple[str, ...]:
    """Return the engines to run a model with: those asked for, the one that built it, or all there are."""
    artefact = imported.model.artefact
    if asked:
        return tuple(asked)
    return tuple(plugins.default_engines()) if artefact is None else (artefact.engine,)


def precisions_for(engine: Engine, imported: ImportResult, device: Device, asked: Sequence[str]) -> tuple[str, ...]:
    """Return the precisions to run a model in: those asked for, or the engine's own list for a network in fp32.

    A built engine, or a network in anything else, is taken as it is.
    """
    plain = imported.model.artefact is None and imported.model.arithmetic == "fp32"
    return tuple(asked) or (engine.precisions(device) if plain else ("auto",))


def first_engine(models: Sequence[ImportResult], device: Device, preferred: str | None = None) -> str:
    """Return the preferred engine where it can run all of the models, else the first that can, by name.

    Raises:
        EngineError: there is none.
    """
    for name in [*([preferred] if preferred is not None else []), *plugins.default_engines()]:
        engine: Engine = plugins.load("engines", name)
        if all(unusable(engine, item, device) is None for item in models):
            return name
    given = " and ".join(dict.fromkeys(f"'{item.model.source}'" for item in models))
    raise EngineError(f"no engine here can run {given}", hint="`hwbench devices` tells why")


def able_engine(name: str, imported: ImportResult, device: Device) -> Engine:
    """Return the engine called ``name``, which can run the model on that device.

    Raises:
        EngineError: it cannot.
    """
    engine: Engine = plugins.load("engines", name)
    reason = unusable(engine, imported, device)
    if reason is not None:
        raise EngineError(f"{name} cannot run '{imported.model.name}': {reason.why}", hint=reason.cure)
    return engine


def refuse_precisions(imported: ImportResult, asked: Sequence[str]) -> None:
    """Refuse a precision that is asked of a built engine, which has one.

    Raises:
        UsageError: another than ``auto`` was asked for.
    """
    if imported.model.artefact is not None and not set(asked) <= {"auto"}:
        raise UsageError(
            f"'{imported.model.name}' is built already: it cannot be run in {', '.join(asked)}",
            hint="leave --precision out, or build it in that precision",
        )


class Item(Record, frozen=True, kw_only=True):
    """Something that can be used, or why not."""

    name: str
    why: str | None = None


class HereDevice(Record, frozen=True, kw_only=True):
    """A device that is here, in words."""

    name: str
    title: str
    facts: tuple[str, ...]


class Inventory(Record, frozen=True, kw_only=True):
    """What ``hwbench devices`` shows."""

    devices: tuple[HereDevice, ...]
    absent: tuple[Item, ...]
    engines: tuple[Item, ...]
    meters: tuple[Item, ...]
    profiles: dict[str, tuple[str, ...]]  # by kind of device


def take_inventory() -> Inventory:
    """Look at everything once."""
    profiles = load_profiles()
    founds = search.find_all()
    found = [device for _, result in founds for device in result.devices]
    by_kind: dict[str, tuple[str, ...]] = {}
    for name, profile in profiles.items():
        by_kind[profile.kind] = (*by_kind.get(profile.kind, ()), name)
    return Inventory(
        devices=tuple(_here(device, match_profile(device, profiles)) for device in found),
        absent=tuple(Item(name=name, why=str(result.absent)) for name, result in founds if not result.devices),
        engines=tuple(_item(name, _engine_support(name)) for name in plugins.available("engines")),
        meters=tuple(_item(name, _meter_support(name, found)) for name in plugins.available("meters")),
        profiles=by_kind,
    )


def _item(name: str, support: Support | HwbenchError) -> Item:
    if isinstance(support, HwbenchError):
        return Item(name=name, why=str(support))
    return Item(name=name, why=None if support.usable else str(support))


def _engine_support(name: str) -> Support | HwbenchError:
    try:
        engine: Engine = plugins.load("engines", name)
        return engine.installed()
    except HwbenchError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a plugin that somebody else wrote must not hide the others
        return _failed("engine", name, error)


def _meter_support(name: str, found: list[Device]) -> Support | HwbenchError:
    """Return the first device's yes, or else the last no."""
    answer = Support(reasons=(Missing(code="no_device", why="there is no device to measure"),))
    try:
        meter: Meter = plugins.load("meters", name)
        for device in found:
            answer = meter.supports(device)
            if answer.usable:
                break
    except HwbenchError as error:
        return error
    except Exception as error:  # noqa: BLE001 - as above
        return _failed("meter", name, error)
    return answer


def _failed(kind: str, name: str, error: Exception) -> Support:
    return unsupported("plugin_failed", f"the {kind} plugin '{name}' failed: {type(error).__name__}: {error}")


def _here(device: Device, profile: str | Missing) -> HereDevice:
    facts = [f"profile: {profile}" if isinstance(profile, str) else f"profile: none: {profile}"]
    cpu = device.cpu
    if cpu is not None:
        caches = ", ".join(
            f"L{cache.level} {cache.type} {cache.count} x {format_bytes(cache.size_bytes)}" for cache in cpu.caches
        )
        facts += [
            f"{cpu.architecture}, {cpu.physical_cores} cores, {cpu.logical_cpus} logical CPUs, "
            f"{len(cpu.usable_cpus)} usable here; NUMA nodes: {_fact(cpu.numa_nodes)}",
            f"ISA: {' '.join(cpu.isa) or 'none of those that matter here'}",
            f"caches: {caches or 'not shown by this system'}",
            f"governor: {_fact(cpu.governor)}; turbo: {_fact(cpu.turbo)}; cgroup CPUs: {_fact(cpu.quota_cpus)}",
        ]
    if device.gpu is not None:
        gpu = device.gpu
        facts.append(f"compute capability {_fact(gpu.compute_capability)}, driver {_fact(gpu.driver_version)}")
        if gpu.mig is True:
            facts.append("MIG is on: programs run on its instances, which are devices of their own")
        if gpu.instance is not None:
            facts.append(f"a part of {gpu.instance.parent}, multiprocessors: {_fact(gpu.instance.sm_count)}")
    if device.kind == "jetson":
        facts += [f"power mode: {_fact(device.power_mode)}", f"JetPack: {_jetpack(device.jetpack)}"]
    memory = device.memory_bytes
    facts.append(f"memory: {memory.why if isinstance(memory, Missing) else format_bytes(memory)}")
    facts.append(f"virtual machine: {_fact(device.virtual)}; container: {_fact(device.container)}")
    return HereDevice(name=device.name, title=device.title, facts=tuple(facts))


def _jetpack(found: JetPack | Missing) -> str:
    if isinstance(found, Missing):
        return f"unknown ({found.why})"
    told = "" if found.basis == "read" else "; not looked up, see dpkg -l"
    return f"{found.version}, with CUDA {found.cuda}, TensorRT {found.tensorrt}, Python {found.python}{told}"


def _fact(value: object) -> str:
    return f"unknown ({value.why})" if isinstance(value, Missing) else str(value)
