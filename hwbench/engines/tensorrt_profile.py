"""Times of layers, from TensorRT's own profiler: ``IProfiler``, in a run of its own.

TensorRT waits for each layer then, so the inferences are slower than those that are timed, and CUDA graphs are off; how
much, the layer table says. A layer is told once an inference, under the inspector's name for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from hwbench.engines.tensorrt_api import Api
from hwbench.protocols import LayerProfile, UnitTimes
from hwbench.records.base import Missing
from hwbench.records.measurement import BuiltLayer

_WARM_UP = 3
_NOTHING = Missing(code="no_layer_times", why="TensorRT's profiler told of no layer")
_UNEVEN = Missing(
    code="no_layer_times", why="TensorRT's profiler told of other layers in some inferences than in others"
)
_METHOD = "TensorRT's IProfiler, which waits for every layer; a context of its own, without a CUDA graph"


def profile_with(
    api: Api, layers: tuple[BuiltLayer, ...] | Missing, context: Any, run: Callable[[], None], iterations: int
) -> LayerProfile | Missing:
    """Profile ``iterations`` inferences of a context; ``run`` runs one and returns when it is done."""
    told: list[tuple[str, float]] = []
    context.profiler = listener(api.trt, told)
    for _ in range(max(_WARM_UP, iterations // 5)):
        run()
    inferences, end_to_end = list[list[tuple[str, float]]](), list[float]()
    for _ in range(iterations):
        told.clear()
        started = time.perf_counter_ns()
        run()
        end_to_end.append((time.perf_counter_ns() - started) / 1e9)
        inferences.append(list(told))
    return gathered(inferences, end_to_end, () if isinstance(layers, Missing) else layers)


def listener(trt: Any, told: list[tuple[str, float]]) -> Any:
    """Return an ``IProfiler`` that puts names and milliseconds, as TensorRT calls it, into a list as seconds."""

    class Listener(trt.IProfiler):  # type: ignore[misc]
        """Notes what it is told."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            told.append((layer_name, ms / 1e3))

    return Listener()


def gathered(
    inferences: Sequence[Sequence[tuple[str, float]]], end_to_end: Sequence[float], layers: Sequence[BuiltLayer]
) -> LayerProfile | Missing:
    """Put the times of each layer together; a name that several layers bear is told apart by its order."""
    first = [name for name, _ in inferences[0]] if inferences else []
    if not first:
        return _NOTHING
    if any([name for name, _ in one] != first for one in inferences):
        return _UNEVEN
    waiting: dict[str, list[BuiltLayer]] = {}
    for layer in layers:
        waiting.setdefault(layer.name, []).append(layer)
    units = tuple(
        UnitTimes(
            unit=waiting[name].pop(0) if waiting.get(name) else _unknown(name),
            times_s=tuple(one[number][1] for one in inferences),
        )
        for number, name in enumerate(first)
    )
    return LayerProfile(units=units, end_to_end_s=tuple(end_to_end), method=_METHOD)


def _unknown(name: str) -> BuiltLayer:
    """Return a unit that the profiler times and the inspector does not show."""
    why = Missing(code="not_told", why="the engine inspector shows no layer of this name")
    return BuiltLayer(name=name, op="layer", members=(), kernel=why, precision=why)
