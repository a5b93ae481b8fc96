"""``torch.cuda`` without a GPU: its streams and graphs in Python, its tensors on the CPU.

:class:`FakeTorch` is torch but for ``cuda`` and ``version``. A graph is captured as CUDA captures one: what ran is
recorded, operator by operator with the very tensors, and replaying runs that again into the same outputs; what would
wait for the GPU (``.item()``) fails inside a capture, and leaves the capture broken.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from types import SimpleNamespace

import pytest

from hwbench.engines import torch_aoti, torch_graph, torch_module, torch_place, torch_sparse24  # noqa: F401 - before patching
from hwbench.engines.torch_place import OnGpu
from hwbench.records.base import Missing
from hwbench.records.device import Gpu
from hwbench.testing import example_cpu

torch = pytest.importorskip("torch")

UUIDS = ("11111111-0000-0000-0000-000000000000", "5c0f6a4e-0000-0000-0000-000000000001")
NAMES = ("NVIDIA L4", "NVIDIA H100 80GB HBM3")
NOT_CAPTURABLE = ("aten.item.default", "aten.is_nonzero.default", "aten.nonzero.default")


def gpu_device(**changes):
    """Return ``cuda:0`` as hwbench counts, which is the second GPU as torch counts."""
    unknown = Missing(code="example", why="an example device does not know")
    gpu = {
        "name": NAMES[1], "uuid": f"GPU-{UUIDS[1]}", "compute_capability": "9.0", "memory_bytes": 80 * 2**30,
        "driver_version": "580.65.06", "cuda_version": "13.0", "power_limit_w": unknown, "sm_max_hz": unknown,
        "mig": False, **changes,
    }  # fmt: skip
    return example_cpu(name="cuda:0", kind="nvidia", title=gpu["name"], cpu=None, gpu=Gpu(**gpu))


class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes every operator with its tensors."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func) in NOT_CAPTURABLE:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


class FakeCuda:
    """What hwbench asks of ``torch.cuda``; ``said`` is what was done, in order."""

    def __init__(self, uuids=UUIDS, names=NAMES, capabilities=((8, 9), (9, 0)), arch_list=("sm_80", "sm_90")):
        self.uuids, self.names, self.capabilities, self.arch_list = uuids, names, capabilities, list(arch_list)
        self.said, self.failure = [], None
        self.allocated = self.peak = self.reserved = 0
        cuda = self

        class Stream:
            def __init__(self, device=None, priority=0):
                self.device = device

            def synchronize(self):
                cuda.said.append(("wait", threading.get_ident()))

        class CUDAGraph:
            def replay(self):
                cuda.said.append(("replay", threading.get_ident()))
                with torch.inference_mode():
                    for func, args, kwargs, result in self.calls:
                        again = func(*args, **kwargs)
                        pairs = zip(
                            torch.utils._pytree.tree_leaves(result), torch.utils._pytree.tree_leaves(again), strict=True
                        )
                        for old, new in pairs:
                            if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                                old.copy_(new)

        self.Stream, self.CUDAGraph = Stream, CUDAGraph

    @contextlib.contextmanager
    def graph(self, cuda_graph, pool=None, stream=None, capture_error_mode="global"):
        assert stream is not None, "the legacy stream cannot be captured"
        self.said.append(("capture", stream.device))
        with Recorder() as recorder:
            try:
                yield
            except RuntimeError:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")  # noqa: B904
        cuda_graph.calls = recorder.calls

    def init(self):
        if self.failure is not None:
            raise self.failure

    def device_count(self):
        return len(self.names)

    def get_device_name(self, index):
        return self.names[index]

    def get_device_properties(self, index):
        return SimpleNamespace(name=self.names[index], **({"uuid": self.uuids[index]} if self.uuids else {}))

    def get_device_capability(self, index):
        return self.capabilities[index]

    def get_arch_list(self):
        return self.arch_list

    def get_allocator_backend(self):
        return "native"

    def set_stream(self, stream):
        self.said.append(("stream", threading.get_ident()))

    def synchronize(self, index=None):
        self.said.append(("synchronize", index))

    def is_initialized(self):
        return True

    def memory_allocated(self, index):
        return self.allocated

    def reset_peak_memory_stats(self, index):
        self.peak = self.allocated

    def max_memory_allocated(self, index):
        return self.peak

    def max_memory_reserved(self, index):
        return self.reserved


class FakeTorch:
    """torch, with another ``cuda`` and built for CUDA."""

    def __init__(self, cuda=None):
        self.cuda, self.version = cuda or FakeCuda(), SimpleNamespace(cuda="13.0")

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture
def fake_gpu(monkeypatch):
    """Engines asked for a GPU get the second one of a pretended torch, whose tensors lie on the CPU; returns torch."""
    fake = FakeTorch()
    monkeypatch.setattr(torch_place, "OnGpu", functools.partial(OnGpu, torch=fake, where="cpu"))
    monkeypatch.setattr(torch_place, "found_index", lambda real, device: 1)
    monkeypatch.setattr(torch_place, "_current", torch_place._Current())
    before = (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    torch.set_float32_matmul_precision("highest")  # as in a new process, whatever ran in this one
    torch.backends.cudnn.allow_tf32 = True
    yield fake
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
