"""Sensor files of Linux: finding the chips of ``/sys/class/hwmon``, reading attributes, and saying why there are none.

The number of a ``hwmonN`` changes from boot to boot: chips are known by their ``name``, channels by their labels. Old
drivers keep their attributes one level further down, in ``hwmonN/device/``; some chips of an I²C bus are only found
through it. An attribute is opened once and read again from its start (``os.pread``), which calls the driver anew.

The unit of an attribute is fixed by the kernel (Documentation/hwmon/sysfs-interface.rst): mV, mA, µW, µJ, m°C.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hwbench.protocols import NOT_NOW, Source
from hwbench.records.base import Missing
from hwbench.records.device import Device
from hwbench.records.energy import Channel, Provenance

HWMON = "sys/class/hwmon"
_NUMBER_BYTES = 32
CURE_CONTAINER = "start the container with -v /sys:/host/sys:ro -v /proc:/host/proc:ro and set HWBENCH_SYSFS_ROOT=/host"


class Reader(Protocol):
    """Something that can be read again and again."""

    def read(self) -> float | Missing:
        """Read now, in SI units."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class Attribute:
    """A sysfs attribute that holds one whole number; ``scale`` makes SI of its unit."""

    def __init__(self, path: Path, scale: float = 1.0) -> None:
        self.path, self._scale = path, scale
        self._file: int | None = None

    def read(self) -> float | Missing:
        """Return the number times the scale; Missing with the code ``NOT_NOW`` where a sensor is asleep (EAGAIN).

        Other codes: ``permission_denied``, ``sensor_off`` (ENODATA: the channel is disabled), ``sensor_unreadable``.
        """
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            return int(os.pread(self._file, _NUMBER_BYTES, 0)) * self._scale
        except (OSError, ValueError) as error:
            return _why_unreadable(self.path, error)

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _why_unreadable(path: Path, error: OSError | ValueError) -> Missing:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EAGAIN:
        return Missing(code=NOT_NOW, why=f"{path} has no value now: what it measures is switched off")
    if number in {errno.EACCES, errno.EPERM}:
        cure = f"sudo chmod a+r {path} (until the next boot; a udev rule makes it stay)"
        return Missing(code="permission_denied", why=f"{path} may not be read by this user", cure=cure)
    if number == errno.ENODATA:
        return Missing(code="sensor_off", why=f"{path} belongs to a channel that is switched off")
    return Missing(code="sensor_unreadable", why=f"{path} cannot be read: {error}")


class Readings:
    """A source: channels, each with its reader, read one after the other."""

    def __init__(self, pairs: Sequence[tuple[Channel, Reader]], every_s: float | None) -> None:
        self.channels = tuple(channel for channel, _ in pairs)
        self.every_s = every_s
        self._readers = tuple(reader for _, reader in pairs)

    def read(self) -> Sequence[float | Missing]:
        """Read all of them now."""
        return [reader.read() for reader in self._readers]

    def close(self) -> None:
        """Close every file."""
        for reader in self._readers:
            reader.close()


class ClosingSource(Source, Protocol):
    """A source that holds files open."""

    def close(self) -> None:
        """Close them."""
        ...


@dataclass(frozen=True, kw_only=True)
class SensorInstrument:
    """Sensors of this machine, opened."""

    meter: str
    boundary: str
    provenance: Provenance
    sources: tuple[ClosingSource, ...]
    settings: dict[str, str] = field(default_factory=dict)

    def close(self) -> None:
        """Close what the sources hold open."""
        for source in self.sources:
            source.close()


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A hardware monitor. ``place`` tells it from others of its name: ``1-0040`` on I²C."""

    name: str
    place: str
    folders: tuple[Path, ...]  # where its attributes lie

    def path(self, attribute: str) -> Path | None:
        """Return the file of an attribute, if the chip has it."""
        return next((folder / attribute for folder in self.folders if (folder / attribute).exists()), None)

    def text(self, attribute: str) -> str | None:
        """Return an attribute without white space around it, None where there is none."""
        path = self.path(attribute)
        return None if path is None else text_of(path)

    def integer(self, attribute: str) -> int | None:
        """Return an attribute as a whole number."""
        text = self.text(attribute)
        return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None

    def inputs(self, pattern: str) -> tuple[str, ...]:
        """Return the names of attributes that match a pattern, in the order of their numbers."""
        names = {name for folder in self.folders for name in _names(folder) if re.fullmatch(pattern, name)}
        return tuple(sorted(names, key=_by_number))

    def label(self, attribute: str) -> str | None:
        """Return the label that goes with ``power1_input``, if it has one."""
        return self.text(f"{attribute.partition('_')[0]}_label") or None


def find_chips(root: Path) -> tuple[Chip, ...]:
    """Return the hardware monitors of the machine, each once, in the order of their numbers."""
    folders = [path for name in _names(root / HWMON) if (path := root / HWMON / name).is_dir()]
    buses = root / "sys/bus/i2c/devices"
    for device in sorted(_names(buses)):
        folders += [buses / device / "hwmon" / name for name in _names(buses / device / "hwmon")]
    found: dict[Path, Chip] = {}
    for folder in sorted(folders, key=lambda path: _by_number(path.name)):
        name = text_of(folder / "name") or text_of(folder / "device/name")
        where = folder.resolve()
        if name is not None and where not in found:
            device_folder = (folder / "device").resolve() if (folder / "device").is_dir() else where.parent.parent
            places = (folder, folder / "device") if (folder / "device").is_dir() else (folder,)
            found[where] = Chip(name=name, place=device_folder.name, folders=places)
    return tuple(found.values())


def absent(what: str, where: str, device: Device, root: Path, cure: str | None = None) -> Missing:
    """Return why there is no sensor: ``not_exposed_in_vm``, ``masked_by_container`` or ``no_sensor``.

    Args:
        what: the sensor, as in "an energy counter".
        where: the folder that would hold it, relative to the root.
        device: says whether this is a virtual machine or a container.
        root: where ``/sys`` lies.
        cure: what to do on a machine of one's own.
    """
    if not isinstance(device.virtual, Missing):
        why = f"this is a virtual machine, and its hypervisor shows no {what}"
        return Missing(code="not_exposed_in_vm", why=why, cure="measure on the physical machine")
    if not isinstance(device.container, Missing) and not (root / where).exists():
        return Missing(code="masked_by_container", why=f"this container has no /{where}", cure=CURE_CONTAINER)
    return Missing(code="no_sensor", why=f"the kernel shows no {what} (/{where})", cure=cure)


def numbered(folder: Path, pattern: str) -> list[Path]:
    """Return what matches in a folder, ``cpu10`` after ``cpu9``."""
    return sorted(folder.glob(pattern), key=lambda path: _by_number(path.name))


def text_of(path: Path) -> str | None:
    """Return the content of a file without white space and NULs around it, None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip(" \t\r\n\0")
    except OSError:
        return None


def first_missing(values: Sequence[float | Missing], allowed: Callable[[str], bool]) -> Missing | None:
    """Return the first reading that failed for a reason that is not ``allowed``."""
    return next((value for value in values if isinstance(value, Missing) and not allowed(value.code)), None)


def _by_number(name: str) -> tuple[int, str]:
    return len(name), name


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []
