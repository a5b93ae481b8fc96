"""A client for the adb server that is already running, by its socket protocol.

A request is its length as four hexadecimal digits and then its text; the answer begins with ``OKAY`` or ``FAIL``. See
``docs/dev/services.md`` and ``protocol.md`` of Android's adb. Nothing here starts a server.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from hwbench.errors import DeviceError

_CONNECT_TIMEOUT_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of ``adb devices -l``; ``state`` is ``device`` when it can be used."""

    serial: str
    state: str


class AdbServer:
    """The adb server at one address."""

    def __init__(self, port: int = 5037, host: str = "127.0.0.1", reply_timeout_s: float = 1.0) -> None:
        self.address = f"{host}:{port}"
        self._host, self._port = host, port
        self._reply_timeout_s = reply_timeout_s

    def running(self) -> bool:
        """Tell whether something listens there."""
        try:
            self._connect().close()
        except OSError:
            return False
        return True

    def devices(self) -> list[Listed]:
        """Return what the server knows, usable or not.

        Raises:
            DeviceError: it does not answer as an adb server does.
        """
        with self._conversation() as stream:
            _request(stream, "host:devices-l")
            size = int(_exactly(stream, 4), 16)
            lines = _exactly(stream, size).decode("utf-8", "replace").splitlines()
        return [listed for line in lines if (listed := _listed(line)) is not None]

    def shell(self, serial: str, command: str) -> str:
        """Run a shell command on one device and return what it prints.

        Raises:
            DeviceError: the device is not usable, or does not answer in time.
        """
        with self._conversation() as stream:
            _request(stream, f"host:transport:{serial}")
            _request(stream, f"shell:{command}")
            chunks = iter(lambda: stream.recv(65536), b"")
            return b"".join(chunks).decode("utf-8", "replace").replace("\r\n", "\n")

    def _connect(self) -> socket.socket:
        return socket.create_connection((self._host, self._port), timeout=_CONNECT_TIMEOUT_S)

    @contextlib.contextmanager
    def _conversation(self) -> Iterator[socket.socket]:
        try:
            with self._connect() as stream:
                stream.settimeout(self._reply_timeout_s)
                yield stream
        except TimeoutError as error:
            msg = f"adb at {self.address} does not answer within {self._reply_timeout_s:g} s"
            raise DeviceError(msg, hint="is the device's screen waiting for a confirmation?") from error
        except (OSError, ValueError) as error:
            msg = f"talking to adb at {self.address} failed: {error}"
            raise DeviceError(msg, hint="adb kill-server && adb start-server") from error


def _request(stream: socket.socket, text: str) -> None:
    data = text.encode()
    stream.sendall(f"{len(data):04x}".encode() + data)
    status = _exactly(stream, 4)
    if status == b"OKAY":
        return
    if status != b"FAIL":
        msg = f"what answers is no adb server: it said {status!r}"
        raise DeviceError(msg, hint="ANDROID_ADB_SERVER_PORT names the server's port")
    size = int(_exactly(stream, 4), 16)
    msg = f"adb refused '{text}': {_exactly(stream, size).decode('utf-8', 'replace')}"
    raise DeviceError(msg)


def _exactly(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = stream.recv(size - len(data))
        if not chunk:
            msg = "the connection was closed in the middle of an answer"
            raise ConnectionError(msg)
        data += chunk
    return data


def _listed(line: str) -> Listed | None:
    """Read one line; the state may be a sentence, and the details after it are ``key:value``."""
    match = re.match(r"(\S+)\s+(.+?)(?:\s+(?:usb|product|model|device|transport_id):\S.*)?$", line.strip())
    return Listed(serial=match[1], state=match[2]) if match else None
