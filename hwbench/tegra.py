"""What the kernel of a Jetson (NVIDIA Tegra) calls the clock of its GPU.

Under ``/sys/class/devfreq`` it is ``17000000.gpu`` or ``17000000.ga10b``, the GPU's code name, and on Thor
``gpu-gpc-0`` (NVIDIA Jetson Linux Developer Guide, L4T 32 to 38). Not verified on a board.
"""

from __future__ import annotations

import re
from typing import Final

DEVFREQ: Final = "sys/class/devfreq"
_GPU: Final = re.compile(r"(\.|-|^)(gpu|gv11b|gp10b|ga10b|gm20b|gb10b|gpu-gpc-0)$")


def is_gpu_clock(folder: str) -> bool:
    """Say whether a folder of :data:`DEVFREQ` with this name is the clock of the GPU."""
    return _GPU.search(folder) is not None
