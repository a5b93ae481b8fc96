"""Which JetPack a release of L4T is, and the CUDA and TensorRT that NVIDIA ships with it.

The release decides which TensorRT a Jetson has: up to JetPack 6 it comes with the image, and wheels from package
indexes are for other machines (SBSA). ``basis`` of an entry says whether it was read or is remembered; a remembered one
must be looked up on the board (``dpkg -l | grep -i tensorrt``) before anybody builds on it.

The mapping from L4T to JetPack: NVIDIA, developer.nvidia.com/embedded/jetpack-archive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from hwbench.records.base import Missing
from hwbench.records.device import JetPack


@dataclass(frozen=True)
class _Line:
    """A release line of L4T, and what all JetPacks of it ship."""

    cuda: str
    tensorrt: str
    python: str
    basis: Literal["read", "memory"]
    source: str
    releases: dict[str, str]  # L4T, by as many of its numbers as it takes, to JetPack


_LINES: Final = (
    _Line("10.2", "8.2.1", "3.6", "read", "NVIDIA, JetPack SDK 4.6.x archive",
          {"32.7.1": "4.6.1", "32.7.2": "4.6.2", "32.7.3": "4.6.3", "32.7.4": "4.6.4", "32.7.5": "4.6.5",
           "32.7.6": "4.6.6"}),
    _Line("11.4", "8.5.2", "3.8", "memory", "not looked up",
          {"35.2": "5.1", "35.3": "5.1.1", "35.4": "5.1.2", "35.5": "5.1.3", "35.6.0": "5.1.4", "35.6.1": "5.1.5",
           "35.6.2": "5.1.5", "35.6.3": "5.1.5", "35.6.4": "5.1.6"}),
    _Line("12.2", "8.6.2", "3.10", "memory", "not looked up", {"36.3": "6.0"}),
    _Line("12.6", "10.3.0", "3.10", "read", "docs.pytorch.org/TensorRT, page on JetPack",
          {"36.4.0": "6.1", "36.4.2": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1", "36.4.7": "6.2.1"}),
    _Line("12.6", "10.3.0", "3.10", "memory", "not looked up", {"36.5": "6.2.2"}),
    _Line("13.0", "10.13", "3.12", "memory", "not looked up", {"38.2": "7.0", "38.4": "7.1"}),
    _Line("13.2", "10.16.2", "3.12", "read", "github.com/OE4T/meta-tegra, issue 2240, pull requests 2281 and 2339",
          {"39.2.0": "7.2", "39.2.1": "7.2.1"}),  # 7.2.2 brings TensorRT 11.4.1; the numbers of its L4T were not read
)  # fmt: skip


def shipped(l4t: str) -> JetPack | Missing:
    """Return what NVIDIA ships with a release of L4T.

    Args:
        l4t: ``36.4.3``, as :func:`hwbench.devices.jetson.l4t_release` reads it.
    """
    parts = l4t.split(".")
    for line in _LINES:
        for release, version in line.releases.items():
            wanted = release.split(".")
            if parts[: len(wanted)] == wanted:
                return JetPack(
                    version=version,
                    cuda=line.cuda,
                    tensorrt=line.tensorrt,
                    python=line.python,
                    basis=line.basis,
                    source=line.source,
                )
    return Missing(
        code="unknown_release",
        why=f"what NVIDIA ships with L4T {l4t} is not in hwbench's table",
        cure="dpkg -l | grep -i -e tensorrt -e nvinfer tells it on the board",
    )
