"""Where an operating system lacks what Linux has, nothing fails for being imported."""

import subprocess
import sys

import pytest
from command import QUICK, engines, environment, hwbench, result_of, tiny_onnx

MISSING = ("sched_setaffinity", "sched_getaffinity", "killpg", "getuid", "geteuid", "pidfd_open")  # psutil has the rest
POOR = f"""
import os, platform, sys

if "HWBENCH_SYSFS_ROOT" in os.environ:  # torch would look for macOS libraries
    platform.system = lambda: "Darwin"

for name in {MISSING!r}:
    if hasattr(os, name):
        delattr(os, name)

class Absent:
    def find_spec(self, name, path=None, target=None):
        caller = sys._getframe(1)
        while caller and caller.f_globals.get("__name__", "").startswith(("importlib", "_frozen_importlib")):
            caller = caller.f_back
        if name in ("resource", "fcntl", "termios", "pwd", "grp") and caller is not None:
            if caller.f_globals.get("__name__", "").startswith("hwbench"):
                raise ModuleNotFoundError(name)
        return None

sys.meta_path.insert(0, Absent())
"""
ALL_MODULES = """
import importlib, pkgutil, hwbench
for module in pkgutil.walk_packages(hwbench.__path__, "hwbench."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print("imported")
"""


@pytest.fixture
def poor(tmp_path):
    """Options of a run on a system without ``/proc``, ``/sys`` and Linux's own functions."""
    folder = tmp_path / "poor"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(POOR)
    return {"path": [folder], "HWBENCH_SYSFS_ROOT": str(tmp_path / "nothing")}


@pytest.mark.slow
def test_every_module_imports(poor, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", ALL_MODULES], cwd=tmp_path,
        env=environment(tmp_path, path=poor["path"]), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout == "imported\n"


def test_a_model_is_profiled_without_pinning(poor, tmp_path):
    tiny_onnx(tmp_path / "tiny.onnx")
    run = hwbench("profile", "tiny.onnx", *QUICK, *engines("onnxruntime"), "-o", "out", cwd=tmp_path, **poor)
    assert run.returncode == 0, run.stderr
    assert len(result_of(tmp_path / "out")["measurements"]) == 1


def test_devices_are_listed(poor, tmp_path):
    run = hwbench("devices", cwd=tmp_path, **poor)
    assert run.returncode == 0, run.stderr
    assert "Devices here" in run.stdout
