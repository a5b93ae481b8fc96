"""``run_example.py`` of a bundle with a plan: TensorRT, cuda-python and numpy, and nothing of hwbench."""

from __future__ import annotations

import json
from collections.abc import Sequence
from string import Template

from hwbench.bundles.layout import engine_file
from hwbench.quantize.nvidia import Flavour
from hwbench.records.base import Missing
from hwbench.records.bundle import Manifest

_TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 2e-2, "bf16": 5e-2}
_COARSE = 0.1  # one step of a quantiser turns into many on the way

_TEXT = Template('''"""Runs $name with $title, cuda-python and numpy alone, and exits with 1 if the outputs are off."""
import ctypes
import sys
from pathlib import Path
import numpy as np
try:
    ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
except OSError:
    sys.exit("there is no NVIDIA driver here")  # TensorRT would crash
import $module as trt
try:
    from cuda.bindings import runtime as cudart
except ImportError:
    try:
        from cuda import cudart  # cuda-python before 12.8
    except ImportError:
        sys.exit("cuda-python is not installed: pip install cuda-python")

HERE = Path(__file__).resolve().parent
inputs, expected = dict(np.load(HERE / "inputs.npz")), dict(np.load(HERE / "expected.npz"))


def call(function, *arguments):
    error, *values = function(*arguments)
    if int(error):
        sys.exit(f"{function.__name__}: {error}")
    return values[0] if values else None


call(cudart.cudaSetDevice, 0)
LOGGER = trt.Logger(trt.Logger.WARNING)
runtime = trt.Runtime(LOGGER)
${runtime}engine = runtime.deserialize_cuda_engine((HERE / $file).read_bytes())
if engine is None:
    sys.exit("the plan was built for another GPU or version: $built")
${prepare}context = engine.create_execution_context()
stream, outputs, kept = call(cudart.cudaStreamCreate), {}, []
names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
for name in sorted(names, key=lambda name: name not in inputs):  # shapes of outputs follow from inputs
    if name in inputs:
        array = np.ascontiguousarray(inputs[name].astype(trt.nptype(engine.get_tensor_dtype(name))))
        context.set_input_shape(name, array.shape)
    else:
        array = np.empty(tuple(context.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name)))
        outputs[name] = array
    memory = call(cudart.cudaMalloc, max(array.nbytes, 1))
    kept.append((name, array, memory))
    context.set_tensor_address(name, int(memory))
COPY = cudart.cudaMemcpyKind
for name, array, memory in kept:
    if name in inputs:
        call(cudart.cudaMemcpy, memory, array.ctypes.data, array.nbytes, COPY.cudaMemcpyHostToDevice)
if not context.execute_async_v3(stream):
    sys.exit("TensorRT failed while running")
call(cudart.cudaStreamSynchronize, stream)
for name, array, memory in kept:
    if name not in inputs:
        call(cudart.cudaMemcpy, array.ctypes.data, memory, array.nbytes, COPY.cudaMemcpyDeviceToHost)
good = True
for name, array in expected.items():
    off = np.abs(outputs[name].astype("f8") - array).max(initial=0) / (np.abs(array).max(initial=0) or 1)
    print(f"{name} {outputs[name].shape}: largest difference {off:.2e} of the largest value")
    good = good and off <= $tolerance
sys.exit(0 if good else 1)
''')

_REFIT = """refitter = trt.Refitter(engine, LOGGER)  # the plan was saved without weights
graph = str(HERE / "engine/model.onnx")
if not (trt.OnnxParserRefitter(refitter, LOGGER).refit_from_file(graph) and refitter.refit_cuda_engine()):
    sys.exit("the weights of engine/model.onnx do not go into the plan")"""
_STREAM = "engine.weight_streaming_budget_v2 = engine.get_weight_streaming_automatic_budget()"

_PREPARE = {"STRIP_PLAN": _REFIT, "WEIGHT_STREAMING": _STREAM}


def run_example(manifest: Manifest, flavour: Flavour) -> str | Missing:
    """Return the program, or why there is none.

    What ``expected.npz`` holds, the manifest tells: the engine's outputs, or its graph's. An engine whose plugins are
    written in Python does not load before they are registered, which takes hwbench.
    """
    from hwbench.engines.tensorrt_kernels import kernels_to_load

    artefact = manifest.model.artefact
    assert artefact is not None
    settings = artefact.settings
    if kernels := kernels_to_load(settings):
        why = f"the plan loads only where hwbench has registered its plugins: {', '.join(kernels)}"
        return Missing(code="needs_plugins", why=why, cure="hwbench profile runs it")
    title = "TensorRT-RTX" if flavour == "tensorrt-rtx" else "TensorRT"
    built = f"{title} {settings.get(flavour, '?')}, compute capability {settings.get('capability', '?')}"
    flags = settings.get("flags", "").split()
    ran = manifest.expected == "engine"
    return _TEXT.substitute(
        name=json.dumps(manifest.name)[1:-1],
        title=title,
        module="tensorrt_rtx" if flavour == "tensorrt-rtx" else "tensorrt",
        file=json.dumps(engine_file(artefact.files[0])),
        built=built,
        runtime=_runtime(flags, settings.get("dla_core")),
        prepare="".join(f"{text}\n" for flag, text in _PREPARE.items() if flag in flags),
        tolerance=_TOLERANCE.get(manifest.model.arithmetic, _COARSE) if ran else _COARSE,
    )


def _runtime(flags: Sequence[str], dla_core: str | None) -> str:
    lines = ["runtime.engine_host_code_allowed = True"] if "VERSION_COMPATIBLE" in flags else []
    lines += [f"runtime.DLA_core = {dla_core}"] if dla_core is not None else []
    return "".join(f"{line}\n" for line in lines)
