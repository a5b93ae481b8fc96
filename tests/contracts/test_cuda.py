"""The contract of CUDA: on the fake; on both packages over a driver library without a GPU; on a GPU where one is.

pycuda and cuda-python are run as they are, in a process that is started with that library in the place of the driver's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_contract import CudaContract
from cuda_library import driver_library
from fake_cuda import FakeCuda

from hwbench.cuda.choose import BACKEND, installed_backends
from hwbench.cuda.driver import DriverFacts, probe

TESTS = Path(__file__).parent.parent
# Lazy binding: pycuda names a hundred functions of the driver that hwbench does not use.
START = "import os, sys, pytest; sys.setdlopenflags(os.RTLD_LAZY); sys.exit(pytest.main(sys.argv[1:]))"


class TestFakeCuda(CudaContract):
    @pytest.fixture
    def cuda(self):
        return FakeCuda()

    @pytest.fixture
    def image(self):
        return b"fake cubin"


def contract(backend: str, inside: str, **environment: str) -> None:
    """Hold a package against the contract in a process of its own."""
    if backend not in installed_backends():
        pytest.skip(f"{backend} is not installed")
    options = ["-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", "-o", "addopts=", "--noconftest"]
    child = subprocess.run(
        [sys.executable, "-c", START, *options, "cuda_in_child.py"],
        cwd=TESTS,
        env={
            **os.environ,
            **environment,
            "HWBENCH_TEST_CUDA": inside,
            BACKEND: backend,
            "PYTEST_ADDOPTS": "",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stdout[-4000:] + child.stderr[-2000:]
    passed = re.search(r"(\d+) passed", child.stdout)
    assert passed is not None
    assert int(passed[1]) > 30


@pytest.mark.parametrize("backend", ["pycuda", "cuda-python"])
def test_a_package_over_the_library(backend):
    contract(backend, "library", LD_LIBRARY_PATH=str(driver_library().parent), HWBENCH_FAKE_COUNT="2")


@pytest.mark.gpu
@pytest.mark.skipif(not isinstance(probe(), DriverFacts), reason="no GPU")
@pytest.mark.parametrize("backend", ["pycuda", "cuda-python"])
def test_a_package_on_a_gpu(backend):
    contract(backend, "gpu")
