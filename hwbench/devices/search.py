"""All devices: every finder asked in turn, and one device picked by name."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from typing import Final

import msgspec

from hwbench import plugins
from hwbench.errors import DeviceError, HwbenchError, PluginError
from hwbench.protocols import DeviceFinder
from hwbench.records.base import Missing, unsupported
from hwbench.records.device import Device, Found

_log = logging.getLogger(__name__)

ALIASES: Final = {"local": "cpu", "cuda": "cuda:0"}
"""What people type for a device that has another name."""

_MOST_NAMED: Final = 4  # profiles with a name like the one that was asked for
_FINDER_OF: Final = {"cuda": "nvidia"}  # a name's first word, where it is not the finder's own


def find_all() -> list[tuple[str, Found]]:
    """Ask every registered finder; returns its name with what it found, or why it found nothing.

    A finder that does not load or fails is a reason beside the others' results.

    Raises:
        PluginError: two packages register a finder of the same name.
    """
    return [(name, _find(name)) for name in plugins.available("devices")]


def _find(name: str) -> Found:
    try:
        finder: DeviceFinder = plugins.load("devices", name)
    except PluginError as error:
        return Found(absent=unsupported("plugin_broken", error.message, error.hint))
    try:
        return finder.find()
    except HwbenchError as error:
        return Found(absent=unsupported("finder_failed", error.message, error.hint))
    except Exception as error:  # noqa: BLE001 - a plugin that somebody else wrote must not hide the other devices
        _log.debug("the device finder '%s' failed", name, exc_info=True)
        why = f"the device finder '{name}' failed: {type(error).__name__}: {error}"
        return Found(absent=unsupported("finder_failed", why, "run with -v to see where it fails"))


def select(name: str, founds: Iterable[tuple[str, Found]], profiles: Iterable[str] = ()) -> Device:
    """Return the device called ``name``, or by one of the ``ALIASES``.

    Raises:
        DeviceError: it is not here, or two finders give that name; the message lists what is here, and which of the
            ``profiles`` (by name) may have been meant.
    """
    wanted = ALIASES.get(name, name)
    founds = list(founds)
    devices = [(finder, device) for finder, found in founds for device in found.devices]
    matching = [(finder, device) for finder, device in devices if device.name == wanted]
    if len(matching) == 1:
        return matching[0][1]
    if matching:
        finders = ", ".join(finder for finder, _ in matching)
        msg = f"{len(matching)} devices are called '{wanted}', from the finders {finders}"
        raise DeviceError(msg, hint="uninstall one of the plugins")
    here = ", ".join(device.name for _, device in devices) or "none"
    msg = f"device '{name}' is not here"
    why = _why_absent(wanted, founds)
    if why:
        raise DeviceError(f"{msg}: {why}", hint=f"devices here: {here}")
    meant = ", ".join(similar(name, profiles))
    kinds = f"; kinds that are known, to build and plan for: {meant}" if meant else ""
    raise DeviceError(msg, hint=f"devices here: {here}{kinds}; `hwbench devices` lists all")


def similar(name: str, profiles: Iterable[str]) -> list[str]:
    """Return the profiles that ``name`` is a part of, or else those that are spelt much like it."""
    names, word = list(profiles), name.lower()
    within = [each for each in names if word and word in each]
    return within[:_MOST_NAMED] or difflib.get_close_matches(word, names, n=_MOST_NAMED)


def _why_absent(name: str, founds: Iterable[tuple[str, Found]]) -> str:
    """Return the reasons of the finder that would have found it."""
    word = name.partition(":")[0]
    responsible = _FINDER_OF.get(word, word)
    return "; ".join(str(found.absent) for finder, found in founds if finder == responsible and found.absent.reasons)


def with_host(device: Device, founds: Iterable[tuple[str, Found]]) -> Device:
    """Return ``device`` with the CPU of this machine, if it is a GPU that sits in it and does not tell one itself."""
    if device.kind != "nvidia" or device.cpu is not None:
        return device
    hosts = [found.cpu for _, result in founds for found in result.devices if found.kind == "cpu"]
    return msgspec.structs.replace(device, cpu=hosts[0]) if hosts else device


def with_profile(device: Device, profile: str | Missing) -> Device:
    """Return ``device`` with the name of the profile that was found for it, or with why there is none."""
    return msgspec.structs.replace(device, profile=profile)
