"""Android devices, through an adb server that is already running.

A device that adb lists but that cannot be used (unauthorised, offline) becomes a reason with its cure.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from typing import Final

from hwbench.devices.adb import AdbServer, Listed
from hwbench.devices.fingerprint import fingerprint, rounded_gib
from hwbench.errors import DeviceError
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device, Found

_DEFAULT_PORT = 5037
_PROPERTIES: Final = (
    "ro.product.manufacturer",
    "ro.product.model",
    "ro.soc.manufacturer",
    "ro.soc.model",
    "ro.board.platform",
    "ro.product.cpu.abi",
    "ro.build.version.release",
    "ro.kernel.qemu",
    "ro.boot.qemu",
)
_COMMAND = f'for p in {" ".join(_PROPERTIES)}; do echo "$p=$(getprop $p)"; done; grep MemTotal /proc/meminfo'
_CURES: Final = {
    "unauthorized": "unlock the device and accept its question about USB debugging",
    "authorizing": "unlock the device and accept its question about USB debugging",
    "offline": "unplug the device and plug it in again, or adb reconnect",
    "recovery": "start Android on the device",
    "sideload": "start Android on the device",
    "bootloader": "start Android on the device",
    "no permissions": "add a udev rule for the device, or adb kill-server and start it as a user who may use USB",
}


class AndroidFinder:
    """Finds the devices that adb sees, under the names ``android:<serial>``."""

    name = "android"

    def __init__(self, server: AdbServer | None = None, which: Callable[[str], str | None] = shutil.which) -> None:
        """Ask ``server``, the local one by default; ``which`` finds the program ``adb``."""
        self._server = server
        self._which = which

    def find(self) -> Found:
        try:
            server = self._server or AdbServer(_port())
        except ValueError as error:
            return Found(absent=unsupported("bad_port", str(error), "unset ANDROID_ADB_SERVER_PORT"))
        if not server.running():
            return Found(absent=_not_running(server.address, installed=self._which("adb") is not None))
        try:
            listed = server.devices()
        except DeviceError as error:
            return Found(absent=unsupported("adb_failed", error.message, error.hint))
        if not listed:
            cure = "plug a device in and allow USB debugging, or adb connect HOST"
            return Found(absent=unsupported("no_device", "adb sees no Android device", cure))
        results = [_look(server, entry) for entry in listed]
        return Found(
            devices=tuple(result for result in results if isinstance(result, Device)),
            absent=Support(reasons=tuple(result for result in results if isinstance(result, Missing))),
        )


def _port() -> int:
    text = os.environ.get("ANDROID_ADB_SERVER_PORT", str(_DEFAULT_PORT))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        msg = f"ANDROID_ADB_SERVER_PORT is '{text}', which is no port"
        raise ValueError(msg)
    return int(text)


def _not_running(address: str, *, installed: bool) -> Support:
    if installed:
        return unsupported("adb_not_running", f"no adb server listens at {address}", "adb start-server")
    why = f"adb is not on the PATH, and no adb server listens at {address}"
    return unsupported("adb_not_installed", why, "install Android's platform-tools, then adb start-server")


def _look(server: AdbServer, entry: Listed) -> Device | Missing:
    name = f"android:{entry.serial}"
    if entry.state != "device":
        word = next((word for word in _CURES if entry.state.startswith(word)), None)
        code = (word or "not_ready").replace(" ", "_")
        return Missing(code=code, why=f"{name} is {entry.state}", cure=_CURES[word] if word else None)
    try:
        text = server.shell(entry.serial, _COMMAND)
    except DeviceError as error:
        return Missing(code="adb_failed", why=f"{name}: {error.message}", cure=error.hint)
    return _device(name, text)


def _device(name: str, text: str) -> Device:
    pairs = (line.partition("=") for line in text.splitlines())
    told = {key: value.strip() for key, _, value in pairs if key in _PROPERTIES and value.strip()}
    memory = _memory_bytes(text)
    product = _joined(told, "ro.product.manufacturer", "ro.product.model") or "Android device"
    soc = _joined(told, "ro.soc.manufacturer", "ro.soc.model") or told.get("ro.board.platform")
    emulated = "1" in {told.get("ro.kernel.qemu"), told.get("ro.boot.qemu")}
    release = told.get("ro.build.version.release")
    return Device(
        name=name,
        kind="android",
        title=f"{product} ({soc})" if soc else product,
        fingerprint=fingerprint(product, soc, told.get("ro.product.cpu.abi"), release, rounded_gib(memory), emulated),
        profile=Missing(code="not_looked_up", why="the finder asks the device and looks nothing up"),
        memory_bytes=memory,
        memory_limit_bytes=_not_asked("a memory limit"),
        virtual="Android emulator" if emulated else Missing(code="bare_metal", why="the device is no emulator"),
        container=_not_asked("a container"),
        power_mode=_not_asked("a power mode"),
    )


def _joined(told: dict[str, str], *keys: str) -> str | None:
    return " ".join(told[key] for key in keys if key in told) or None


def _memory_bytes(text: str) -> int | Missing:
    match = re.search(r"^MemTotal:\s*(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else Missing(code="not_exposed", why="the device does not tell its memory")


def _not_asked(what: str) -> Missing:
    return Missing(code="not_applicable", why=f"an Android device is not asked about {what}")
