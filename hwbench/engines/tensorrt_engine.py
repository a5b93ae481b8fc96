"""A plan read into a runtime, and what can be asked of it: its inputs and outputs, its layers, its memory.

A driver must have been found before (:func:`hwbench.engines.tensorrt_place.attached_place`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hwbench.engines.tensorrt_api import Api
from hwbench.engines.tensorrt_buffers import ELEMENTS
from hwbench.errors import EngineError
from hwbench.records.model import TensorSpec

GRAPH = "model.onnx"  # beside the plan, as lowering calls it
# Of TensorRT-RTX's IRuntimeConfig, what is pinned: the setting, its enumeration, the member.
_RUNTIME = {
    "dynamic_shapes_kernel_specialization_strategy": ("DynamicShapesKernelSpecializationStrategy", "EAGER"),
    "cuda_graph_strategy": ("CudaGraphStrategy", "DISABLED"),
}
JUST_IN_TIME = (
    "TensorRT-RTX compiles its kernels on the GPU they run on: that is part of loading and of the first inference, and "
    "no runtime cache keeps them for the next process"
)


def open_engine(api: Api, data: bytes, dla_core: int | None = None) -> Any:
    """Read a plan into TensorRT; one with layers for the DLA runs them on that core.

    Raises:
        EngineError: it was built for another GPU or version, or is damaged; the words are TensorRT's own.
    """
    runtime = api.runtime()
    if dla_core is not None:
        runtime.DLA_core = dla_core
    if hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True  # a version-compatible plan has its runtime inside
    with api.explained("TensorRT refused the plan"):
        engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise EngineError(
            f"{api.title} cannot load the plan: {api.journal.last_error() or 'it does not say why'}",
            hint="a plan runs on the kind of GPU, the system and the version it was built for: build it again here",
        )
    return engine


def open_saved(api: Api, path: Path, settings: Mapping[str, str]) -> tuple[Any, dict[str, str]]:
    """Read a plan as its settings say: weights put back into one without, room made for those that are streamed.

    Returns:
        The engine, and what was settled on reading it, as settings.

    Raises:
        EngineError: as :func:`open_engine`; or the weights do not go in.
    """
    flags = settings.get("flags", "").split()
    core = settings.get("dla_core")
    engine = open_engine(api, path.read_bytes(), None if core is None else int(core))
    told: dict[str, str] = {}
    if "STRIP_PLAN" in flags:
        refit(api, engine, path.with_name(GRAPH))
        told["refitted_from"] = GRAPH
    if "WEIGHT_STREAMING" in flags:
        budget = int(engine.get_weight_streaming_automatic_budget())
        engine.weight_streaming_budget_v2 = budget
        told["weight_streaming_budget_bytes"] = str(budget)
    return engine, told


def contexts_of(api: Api, engine: Any) -> tuple[Callable[[], Any], dict[str, str]]:
    """Return what makes execution contexts of an engine, and what they are made with, as settings.

    TensorRT-RTX compiles kernels where they run. Left to itself it runs generic ones where shapes are open until those
    for the shapes at hand are ready, in the middle of what is timed: ``EAGER`` waits for them. Its own CUDA graphs are
    off, since the runner makes one. There is no runtime cache: the first inference of every process compiles. Source:
    "Working with Runtime Configuration", docs.nvidia.com/deeplearning/tensorrt-rtx. Not run on a GPU yet.
    """
    if not api.is_rtx or not hasattr(engine, "create_runtime_config"):
        return engine.create_execution_context, {}
    config, told = engine.create_runtime_config(), {"runtime_cache": "none"}
    for attribute, (kind, name) in _RUNTIME.items():
        if hasattr(config, attribute):
            setattr(config, attribute, api.member(kind, name))
            told[attribute] = str(getattr(config, attribute).name)
    return (lambda: engine.create_execution_context(config)), told


def refit(api: Api, engine: Any, graph: Path) -> None:
    """Put the weights of a graph into an engine that was built from it and saved without.

    Raises:
        EngineError: they are not there, or do not fit.
    """
    if not graph.is_file():
        raise EngineError(f"the plan holds no weights, and {graph.name} is not beside it", hint="take the whole bundle")
    with api.explained("TensorRT could not put the weights in"):
        refitter = api.trt.Refitter(engine, api.logger)
        done = api.trt.OnnxParserRefitter(refitter, api.logger).refit_from_file(str(graph))
        done = done and refitter.refit_cuda_engine()
    if not done:
        raise EngineError(f"{api.title} could not put the weights into the plan: {api.journal.last_error()}")


def inspected(api: Api, engine: Any) -> str:
    """Return what the inspector tells of an engine, as JSON."""
    with api.explained("TensorRT's engine inspector failed"):
        return str(engine.create_engine_inspector().get_engine_information(api.trt.LayerInformationFormat.JSON))


def tensors(engine: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return inputs and outputs; an open axis is told as the largest of the first profile."""
    found: tuple[list[TensorSpec], list[TensorSpec]] = ([], [])
    for number in range(engine.num_io_tensors):
        name = engine.get_tensor_name(number)
        kind = getattr(engine.get_tensor_dtype(name), "name", "?")
        shape = tuple(int(size) for size in engine.get_tensor_shape(name))
        is_input = engine.get_tensor_mode(name).name == "INPUT"
        if is_input and min(shape, default=0) < 0:
            shape = tuple(int(size) for size in engine.get_tensor_profile_shape(name, 0)[2])
        spec = TensorSpec(
            name=name, dtype=ELEMENTS.get(kind, kind.lower()), shape=tuple(max(size, 0) for size in shape)
        )
        found[0 if is_input else 1].append(spec)
    return tuple(found[0]), tuple(found[1])
