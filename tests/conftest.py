"""The same signals wherever the tests are started: what ``nohup`` or ``&`` had ignored, children would ignore too."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

import pytest


def pytest_configure() -> None:
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


_spoilt: set[int] = set()


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Name the test after which a byte is no longer itself: native code wrote into an object that Python shares."""
    changed = {byte for byte in range(256) if chr(byte).encode("latin-1")[0] != byte} - _spoilt
    _spoilt.update(changed)
    assert not changed, f"{item.nodeid} has overwritten Python's own bytes {sorted(changed)}"


_DRIVERS = ("/usr/lib/chromium/vk_swiftshader_icd.json",)  # Debian's chromium-common: a GPU played by the CPU


@pytest.fixture(scope="session")
def vulkan():
    """A Vulkan driver for LiteRT's GPU accelerator: the one that is named, an installed one, or a browser's own."""
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    named = os.environ.get("VK_ICD_FILENAMES")
    installed = sorted(Path("/usr/share/vulkan/icd.d").glob("*.json"))
    found = [named] if named else [str(path) for path in (*installed, *map(Path, _DRIVERS)) if path.exists()]
    if not found:
        pytest.skip("no Vulkan driver here: neither VK_ICD_FILENAMES, nor an installed one, nor SwiftShader")
    for loader in ("libvulkan.so.1", str(Path(found[0]).parent / "libvulkan.so.1")):
        with contextlib.suppress(OSError):
            ctypes.CDLL(loader, mode=ctypes.RTLD_GLOBAL)  # then the accelerator finds it by its name
            break
    else:
        pytest.skip("a Vulkan driver is here, and libvulkan.so.1 is not")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VK_ICD_FILENAMES", found[0])
        yield found[0]
