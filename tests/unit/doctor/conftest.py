"""Machines made of a few files, looked at with a fake clock; and whole recorded ones."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from hwbench.doctor.subject import Subject, look

# One fixture unpacks recorded hosts, and pytest gives it to its own folder only.
_HOSTS = runpy.run_path(str(Path(__file__).parents[1] / "devices" / "conftest.py"))
host = _HOSTS["host"]

BARE = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
stepping\t: 8
model name\t: Test CPU
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu avx2{flags}

processor\t: 1
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
stepping\t: 8
model name\t: Test CPU
physical id\t: 0
core id\t\t: {core}
flags\t\t: fpu avx2{flags}
"""


def write(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Subject]:
    """Return a subject whose two-core CPU is alone under the root, with more files on top."""

    def make(files: dict[str, object] | None = None, *, flags: str = "", core: int = 1) -> Subject:
        root = tmp_path / "root"
        write(
            root,
            {
                "proc/cpuinfo": BARE.format(flags=flags, core=core),
                "proc/self/status": "Cpus_allowed_list:\t0-1",
                "proc/stat": "cpu 1000 0 1000 5000 0 0 0 0 0 0",
                "sys/devices/system/cpu/online": "0-1",
                **(files or {}),
            },
        )
        return look(root, tmp_path)

    return make
