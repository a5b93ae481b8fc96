"""Tests that need an NVIDIA GPU: each is skipped, with the reason, where there is none or torch cannot use it.

make gpu-bench                                    # these first, then measurements
python -m pytest tests/gpu                        # these alone
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hwbench.errors import DeviceError
from hwbench.inventory import find_target

_ASK = """
import sys
from hwbench.cuda.driver import require_driver
from hwbench.errors import HwbenchError
try:
    require_driver()
except HwbenchError as error:
    sys.exit(error.message)
"""


@pytest.fixture(scope="session", autouse=True)
def driver():
    """Ask for a driver in a new process: other tests load a library into this one that pretends to be one."""
    asked = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        pytest.skip(asked.stderr.strip())


@pytest.fixture(scope="session")
def attached_gpu():
    """The device to test on: ``cuda:0``, or what HWBENCH_GPU names."""
    try:
        return find_target(os.environ.get("HWBENCH_GPU", "cuda:0")).device
    except DeviceError as error:
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def torch_on_gpu(attached_gpu):
    """torch, and its number of the GPU."""
    from hwbench.cuda.torch_devices import cuda_of, kernels_for, torch_index

    torch = pytest.importorskip("torch", reason="torch is not installed")
    reason = cuda_of(torch)
    index = torch_index(torch, attached_gpu) if reason is None else reason
    if isinstance(index, int):
        reason = kernels_for(torch, index)
    if reason is not None or not isinstance(index, int):
        pytest.skip(str(reason or index))
    return torch, index
