"""The contract of CUDA on a package as it is: run by ``contracts/test_cuda.py`` in a process of its own.

``HWBENCH_TEST_CUDA``: ``library``, a driver library without a GPU is in the place of the driver's; or ``gpu``.
"""

from __future__ import annotations

import ctypes
import os

import pytest
from cuda_contract import AXPY_PTX, CudaContract, axpy

from hwbench.cuda.choose import BACKEND, open_cuda
from hwbench.cuda.driver import LIBRARY, require_driver
from hwbench.errors import EngineError

INSIDE = os.environ["HWBENCH_TEST_CUDA"]


def current() -> int | None:
    """Return the context that is current in this thread, as the driver itself says."""
    context = ctypes.c_void_p()
    driver = ctypes.CDLL(LIBRARY)
    driver.cuInit(0)
    assert driver.cuCtxGetCurrent(ctypes.byref(context)) == 0
    return context.value


@pytest.fixture(scope="module")
def cuda():
    before = current()
    cuda = open_cuda(schedule="spin")
    yield cuda
    cuda.close()
    cuda.close()
    assert current() == before


class TestOpened(CudaContract):
    @pytest.fixture
    def image(self):
        return b"fake cubin\0" if INSIDE == "library" else AXPY_PTX

    def test_the_asked_package(self, cuda):
        assert cuda.facts.backend.startswith(os.environ[BACKEND])

    @pytest.mark.skipif(len(require_driver().gpus) < 2, reason="one GPU")
    def test_another_gpu_by_its_uuid_and_back(self, cuda, image):
        second = require_driver().gpus[1]
        other = open_cuda(second.uuid.upper())
        assert other.facts.uuid == second.uuid
        assert axpy(other, image, lambda go, _: go(1.0))[1] == 11
        other.close()
        assert axpy(cuda, image, lambda go, _: go(1.0))[1] == 11

    @pytest.mark.skipif(INSIDE == "gpu", reason="a driver may allow it")
    def test_host_memory_is_not_taken_for_the_gpus(self, cuda):
        stream, pinned = cuda.stream(), cuda.pinned(16)
        with pytest.raises(EngineError, match="CUDA_ERROR_INVALID_VALUE"):
            cuda.copy_in(pinned.address, pinned.array, stream)
        pinned.free()
