from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from hwbench.devices.adb import AdbServer
from hwbench.devices.android import AndroidFinder
from hwbench.errors import DeviceError
from hwbench.records.base import Missing

PIXEL = {
    "ro.product.manufacturer": "Google",
    "ro.product.model": "Pixel 9 Pro",
    "ro.soc.manufacturer": "Google",
    "ro.soc.model": "Tensor G4",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.build.version.release": "15",
}
LONG = "usb:1-2 product:caiman model:Pixel_9_Pro device:caiman transport_id:3"


class FakeAdb:
    """An adb server with some devices; answers ``host:devices-l``, ``host:transport`` and ``shell``."""

    def __init__(
        self, listing="", properties=None, memory="MemTotal:       15600000 kB\n", greeting=None, silent=False
    ):
        self.listing, self.properties, self.memory = listing, properties or {}, memory
        self.greeting, self.silent = greeting, silent
        self.commands = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self):
        # shutdown wakes the thread that waits in accept; close alone does not
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self):
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            with stream, contextlib.suppress(OSError, ValueError):
                self._talk(stream)

    def _talk(self, stream):
        while True:
            request = stream.recv(int(stream.recv(4), 16)).decode()
            self.commands.append(request)
            if self.silent:
                time.sleep(0.3)
                return
            if self.greeting is not None:
                stream.sendall(self.greeting)
                return
            if request == "host:devices-l":
                stream.sendall(b"OKAY" + self._framed(self.listing))
                return
            if request.startswith("host:transport:"):
                serial = request.removeprefix("host:transport:")
                if serial not in self.properties:
                    stream.sendall(b"FAIL" + self._framed(f"device '{serial}' not found"))
                    return
                stream.sendall(b"OKAY")
                told = self.properties[serial]
            elif request.startswith("shell:"):
                lines = "".join(f"{key}={value}\r\n" for key, value in told.items())
                stream.sendall(b"OKAY" + (lines + self.memory).encode())
                return

    @staticmethod
    def _framed(text):
        return f"{len(text.encode()):04x}{text}".encode()


@pytest.fixture
def adb():
    with contextlib.ExitStack() as stack:

        def start(**settings):
            server = FakeAdb(**settings)
            stack.callback(server.close)
            return server

        yield start


def look(server, reply_timeout_s=2.0):
    return AndroidFinder(AdbServer(server.port, reply_timeout_s=reply_timeout_s), which=lambda _: None).find()


def test_a_phone(adb):
    server = adb(listing=f"4B1X0       device {LONG}\n", properties={"4B1X0": PIXEL})
    found = look(server)
    (device,) = found.devices
    assert found.absent.usable
    assert (device.name, device.kind) == ("android:4B1X0", "android")
    assert device.title == "Google Pixel 9 Pro (Google Tensor G4)"
    assert device.memory_bytes == 15600000 * 1024
    assert isinstance(device.virtual, Missing)
    assert not any("kill" in command or "root" in command for command in server.commands)


def test_devices_that_cannot_be_used_are_reasons_beside_those_that_can(adb):
    listing = (
        f"GOOD1 device {LONG}\n"
        "LOCK1 unauthorized usb:1-3 transport_id:4\n"
        "AWAY1 offline transport_id:5\n"
        "???????????? no permissions (missing udev rules? user is in the plugdev group); see [http://x] usb:1-4\n"
    )
    found = look(adb(listing=listing, properties={"GOOD1": PIXEL}))
    assert [device.name for device in found.devices] == ["android:GOOD1"]
    assert [reason.code for reason in found.absent.reasons] == ["unauthorized", "offline", "no_permissions"]
    assert all(reason.cure for reason in found.absent.reasons)
    assert "android:LOCK1" in found.absent.reasons[0].why


def test_an_emulator_over_the_network_without_soc_properties(adb):
    told = {"ro.product.model": "sdk_gphone64", "ro.board.platform": "goldfish", "ro.boot.qemu": "1"}
    server = adb(listing="127.0.0.1:5555 device\n", properties={"127.0.0.1:5555": told}, memory="")
    (device,) = look(server).devices
    assert device.name == "android:127.0.0.1:5555"
    assert device.title == "sdk_gphone64 (goldfish)"
    assert device.virtual == "Android emulator"
    assert device.memory_bytes.code == "not_exposed"


def test_a_device_that_goes_away_is_a_reason(adb):
    found = look(adb(listing="GONE device\n"))
    assert found.devices == ()
    assert "not found" in found.absent.reasons[0].why


def test_no_device(adb):
    assert look(adb()).absent.reasons[0].code == "no_device"


@pytest.mark.parametrize(
    ("which", "code"), [(lambda _: "/usr/bin/adb", "adb_not_running"), (lambda _: None, "adb_not_installed")]
)
def test_no_server(monkeypatch, which, code):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    (reason,) = AndroidFinder(which=which).find().absent.reasons
    assert reason.code == code
    assert "adb start-server" in reason.cure
    assert str(port) in reason.why


def test_a_bad_port_is_a_reason(monkeypatch):
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "abc")
    assert AndroidFinder().find().absent.reasons[0].code == "bad_port"


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n", b"OKAYzzzz", b"OKAY00ffshort", b"OK", b""])
def test_a_server_that_is_no_adb_is_a_reason(adb, greeting):
    (reason,) = look(adb(greeting=greeting)).absent.reasons
    assert reason.code == "adb_failed"


def test_a_silent_server_costs_the_timeout_and_no_more(adb):
    server = adb(silent=True)
    started = time.perf_counter()
    with pytest.raises(DeviceError, match=r"within 0\.05 s"):
        AdbServer(server.port, reply_timeout_s=0.05).devices()
    assert time.perf_counter() - started < 0.25
