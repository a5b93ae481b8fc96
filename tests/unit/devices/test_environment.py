from __future__ import annotations

import subprocess
import sys

import hwbench
from hwbench.devices import environment
from hwbench.devices.environment import PACKAGES, capture


def test_capture_lists_what_is_installed():
    here = capture()
    assert here.hwbench == hwbench.__version__
    assert sys.version.split()[0] in here.python
    names = [package.name for package in here.packages]
    assert {"msgspec", "numpy", "onnx"} <= set(names) <= set(PACKAGES)
    assert names == sorted(names)
    assert all(package.version[0].isdigit() for package in here.packages)


def test_what_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("msgspec", "no-such-package-anywhere"))
    assert [package.name for package in capture().packages] == ["msgspec"]


def test_a_libc_that_is_not_told_is_a_reason(monkeypatch):
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert capture().libc.code == "not_told"


def test_finding_devices_imports_nothing_heavy():
    heavy = "{'numpy', 'torch', 'onnx', 'onnxruntime', 'openvino', 'psutil'}"
    code = (
        "import sys\n"
        "from hwbench.devices.search import find_all\n"
        "from hwbench.devices.environment import capture\n"
        "from hwbench.measure.host import read_host\n"
        "find_all(), capture(), read_host()\n"
        f"print(sorted({heavy} & set(sys.modules)))\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
