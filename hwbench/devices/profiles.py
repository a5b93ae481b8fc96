"""Device profiles: what is known about kinds of devices, read from ``profiles/*.toml``, and which one a device is.

``profiles/README.md`` tells how such a file is written. Nothing here reads the machine: a :class:`Device` comes from a
finder, and :func:`match_profile` compares what it reports with the ``[match]`` table of every profile.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from hwbench.errors import StorageError
from hwbench.files import read_bytes
from hwbench.records.base import Missing
from hwbench.records.device import Device, DeviceKind
from hwbench.records.profile import PROFILE_SCHEMA, DeviceProfile, Match
from hwbench.resources import data_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

_FOUND_AS: Final[Mapping[str, DeviceKind]] = {
    "cpu": "cpu",
    "board": "cpu",
    "gpu": "nvidia",
    "jetson": "jetson",
    "phone": "android",
}
"""The kind of device that a profile's kind is found as: a Jetson's CPU alone is not a Jetson."""


def load_profiles(folder: Path | None = None) -> dict[str, DeviceProfile]:
    """Read every ``*.toml`` of ``folder``, by default of the profiles that ship with hwbench; sorted by name.

    Raises:
        StorageError: the folder is not there, or a file is not a valid profile.
    """
    folder = data_folder("profiles") if folder is None else folder
    if not folder.is_dir():
        msg = f"there is no folder of device profiles at {folder}"
        raise StorageError(msg, hint="is hwbench installed whole (pip install -e . in a checkout)?")
    return {path.stem: read_profile(path) for path in sorted(folder.glob("*.toml"))}


def read_profile(path: Path) -> DeviceProfile:
    """Read one profile.

    Raises:
        StorageError: the file cannot be read, is not TOML, is of another version, does not fit
            :class:`DeviceProfile` (the message gives the path inside the file), or has another name than its profile.
    """
    profile = parse_profile(read_bytes(path), what=str(path))
    if profile.name != path.stem:
        msg = f"{path} holds the profile '{profile.name}': file and profile must have the same name"
        raise StorageError(msg, hint=f"rename the file to {profile.name}.toml, or the profile to {path.stem}")
    return profile


def parse_profile(data: bytes, *, what: str) -> DeviceProfile:
    """Like :func:`read_profile`, for bytes already read; ``what`` names them in an error."""
    try:
        raw = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError and too long integers
        msg = f"{what} is not TOML: {error}"
        raise StorageError(msg) from error
    _check_version(raw, what)
    try:
        return msgspec.convert(raw, type=DeviceProfile)
    except (msgspec.ValidationError, OverflowError, RecursionError) as error:
        msg = f"{what} is not a valid device profile: {error}"
        raise StorageError(msg, hint="profiles/README.md describes the format") from error


def _check_version(raw: Mapping[str, Any], what: str) -> None:
    version = raw.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        msg = f"{what} has no schema_version: it is not a device profile"
        raise StorageError(msg, hint=f"the first line of a profile is: schema_version = {PROFILE_SCHEMA}")
    if version > PROFILE_SCHEMA:
        msg = f"{what} was written for a newer hwbench (format {version}; this one reads {PROFILE_SCHEMA})"
        raise StorageError(msg, hint="upgrade hwbench to read it")
    if version < PROFILE_SCHEMA:
        msg = f"{what} has format {version}, and there is no upgrade from it to {PROFILE_SCHEMA}"
        raise StorageError(msg)


def match_profile(device: Device, profiles: Mapping[str, DeviceProfile]) -> str | Missing:
    """Return the name of the profile that fits ``device``.

    Returns:
        The name; Missing with ``no_profile`` when none fits, and with ``ambiguous_profile`` when several do, which is
        an error in the profiles.
    """
    if device.gpu is not None and (device.gpu.mig is True or device.gpu.instance is not None):
        cut = "is cut up by MIG" if device.gpu.instance is None else "is a part of a GPU"
        why = f"'{device.title}' {cut}, and a profile describes the whole GPU"
        return Missing(code="no_profile", why=why, cure="profile the whole GPU, with MIG off")
    told = _told(device)
    fitting = sorted(name for name, profile in profiles.items() if _fits(profile, device, told))
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        why = f"'{device.title}' fits several profiles: {', '.join(fitting)}"
        return Missing(code="ambiguous_profile", why=why, cure="make their [match] tables exclude each other")
    why = f"no profile fits '{device.title}'"
    calibrate = "run «hwbench calibrate», or " if device.kind == "cpu" else ""
    return Missing(code="no_profile", why=why, cure=f"{calibrate}add one (profiles/README.md)")


def _told(device: Device) -> dict[str, str]:
    """Return what the device reports, by the field of :class:`Match` that is compared with it."""
    told = {"device_tree": device.title, "android_soc": device.title, "android_model": device.title}
    if device.gpu is not None:
        told["gpu_name"] = device.gpu.name
    if device.cpu is not None:
        told["cpu_model"] = device.cpu.model_name
        if not isinstance(device.cpu.cpuid, Missing):
            told["cpuid"] = device.cpu.cpuid
    return told


def _fits(profile: DeviceProfile, device: Device, told: Mapping[str, str]) -> bool:
    patterns = profile.match.patterns()
    return (
        bool(patterns)
        and _FOUND_AS[profile.kind] == device.kind
        and all(name in told and re.search(pattern, told[name]) for name, pattern in patterns.items())
        and _memory_fits(profile.match, device.memory_bytes)
    )


def _memory_fits(match: Match, memory_bytes: int | Missing) -> bool:
    low, high = match.min_memory_bytes, match.max_memory_bytes
    if low is None and high is None:
        return True
    if isinstance(memory_bytes, Missing):
        return False
    return (low is None or memory_bytes >= low) and (high is None or memory_bytes <= high)
