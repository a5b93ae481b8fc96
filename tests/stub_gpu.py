"""A GPU that is pretended, for the command line: a device finder and engines that come in as any plugin does.

The finder tells an H100 as ``cuda:0``, without a CPU, as the real one does. The engines run ONNX Runtime on the CPU
behind it, so that outputs are right; ``gpu-stub`` also builds and reads what it built.
"""

from __future__ import annotations

STUBS = """
import shutil
from pathlib import Path

import numpy as np

from hwbench.protocols import NOT_OFFERED
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device, Found, Gpu
from hwbench.records.measurement import Built
from hwbench.records.quantization import Lowered

UNKNOWN = Missing(code="stub", why="a pretended GPU does not know")


class Finder:
    name = "stubgpu"

    def find(self):
        gpu = Gpu(
            name="NVIDIA H100 80GB HBM3", uuid="GPU-5c0f6a4e-0000-0000-0000-000000000001", compute_capability="9.0",
            memory_bytes=85520809984, driver_version="580.65.06", cuda_version="13.0", power_limit_w=700.0,
            sm_max_hz=1.98e9, mig=False,
        )
        device = Device(
            name="cuda:0", kind="nvidia", title=gpu.name, fingerprint="stubgpu0stubgpu0", profile=UNKNOWN, gpu=gpu,
            memory_bytes=gpu.memory_bytes, memory_limit_bytes=UNKNOWN, virtual=UNKNOWN, container=UNKNOWN,
            power_mode=UNKNOWN,
        )
        return Found(devices=(device,))


class Bound:
    def __init__(self, session, inputs, names):
        self.session, self.inputs, self.names = session, inputs, names

    def run(self):
        return self.session.run(self.names, self.inputs)

    def outputs(self):
        return dict(zip(self.names, self.run(), strict=True))


class Runner:
    timed_region = "tensors in GPU memory to tensors in GPU memory (pretended)"

    def __init__(self, request):
        import onnxruntime as ort

        assert request.device.kind == "nvidia", "the engine is told the device"
        assert request.device.gpu.uuid.startswith("GPU-")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        path = Path(request.files.folder) / request.files.runtime_graph
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.request = request

    def bind(self, inputs):
        return Bound(self.session, dict(inputs), [spec.name for spec in self.request.model.outputs])

    def built(self):
        precision = self.request.model.arithmetic if self.request.precision == "auto" else self.request.precision
        return Built(
            engine="gpu-stub", version="1.0", precision=precision, execution_units=("NVIDIA H100 80GB HBM3",),
            threads=Missing(code="stub", why="threads of a GPU are not counted"), settings={},
            layers=Missing(code=NOT_OFFERED, why="a stub has no layers"),
        )

    def profile_layers(self, inputs, iterations):
        return Missing(code=NOT_OFFERED, why="a stub has no layers")

    def close(self):
        pass


class Program:
    load_phase = compile_phase = None

    def __init__(self, request):
        self.request = request

    def compile(self):
        return Runner(self.request)


class Engine:
    name = "gpu-stub"
    schemes = ("fp32", "fp16", "auto")

    def installed(self):
        return Support()

    def supports(self, model, files, device):
        if device.kind != "nvidia":
            return unsupported("wrong_device", "for GPUs only")
        return Support()

    def precisions(self, device):
        return ("fp32",)

    def start(self):
        return "1.0"

    def load(self, request):
        return Program(request)

    def lower(self, request):
        shutil.copy(Path(request.files.folder) / request.files.runtime_graph, request.folder / "model.bin")
        return Lowered(
            files=("model.bin",), arithmetic="fp32", settings={"sm": request.device.gpu.compute_capability}, layers=(),
            same_bytes=True,
        )
"""


def stub_gpu(folder):
    """Install the finder and the engine into ``folder``, for ``PYTHONPATH``; return it."""
    meta = folder / "hwbench_stub_gpu-1.0.dist-info"
    meta.mkdir(parents=True)
    (folder / "hwbench_stub_gpu.py").write_text(STUBS)
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: hwbench-stub-gpu\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text(
        "[hwbench.devices]\nstubgpu = hwbench_stub_gpu:Finder\n[hwbench.engines]\ngpu-stub = hwbench_stub_gpu:Engine\n"
    )
    return folder
