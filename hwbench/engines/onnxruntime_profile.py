"""ONNX Runtime's profile: what each executed node took, and which source layers it stands for."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hwbench.engines.onnxruntime_units import anchors_of, optimised_graph, precision_of
from hwbench.errors import EngineError
from hwbench.graph.members import assign_members
from hwbench.protocols import BuildRequest, LayerProfile, UnitTimes
from hwbench.records.measurement import BuiltLayer

OPTIMISED = "optimized.onnx"  # in the working folder of a build: the graph as ONNX Runtime runs it
_KERNEL = "_kernel_time"


def read_profile(
    events: list[dict[str, Any]], request: BuildRequest, *, skip: int, end_to_end_s: Sequence[float]
) -> LayerProfile:
    """Read ONNX Runtime's profile: one time per node and run, the first ``skip`` runs left out.

    Node events carry ``<node name>_kernel_time``; a run is the window of a ``model_run`` event, in microseconds. The
    window only tells to which run a node belongs: what the run took is ``end_to_end_s``, timed around it. ONNX
    Runtime stops writing after a million events, so there may be fewer windows than runs.
    """
    runs = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event.get("name") == "model_run")
    runs = runs[skip:]
    if not runs:
        raise EngineError("ONNX Runtime's profile holds no complete run")
    starts = [start for start, _ in runs]
    times: dict[str, list[float]] = {}
    described: dict[str, dict[str, Any]] = {}
    graph = optimised_graph(request.workdir / OPTIMISED)
    nodes = [] if graph is None else graph.node
    for event in _outer_kernels(events, nodes):
        run = bisect.bisect_right(starts, event["ts"]) - 1
        if run < 0:
            continue
        name = event["name"].removesuffix(_KERNEL)
        times.setdefault(name, [0.0] * len(runs))[run] += event["dur"] / 1e6
        described.setdefault(name, event["args"])
    anchors = anchors_of(nodes, list(times), request.model.layers)
    members = assign_members(request.model.layers, request.files.merged, anchors)
    units = tuple(
        UnitTimes(unit=_built_layer(name, described[name], belongs), times_s=tuple(values))
        for (name, values), belongs in zip(times.items(), members, strict=True)
    )
    return LayerProfile(
        units=units,
        end_to_end_s=tuple(end_to_end_s[: len(runs)]),
        method="ONNX Runtime profiler (enable_profiling), kernel times at 1 µs resolution, a session of its own",
    )


def _outer_kernels(events: list[dict[str, Any]], nodes: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yield the kernel times, without those of nodes inside a Loop, If or Scan: the outer node's time holds them."""
    nested = any(attribute.HasField("g") or attribute.graphs for node in nodes for attribute in node.attribute)
    outer = {node.name for node in nodes}
    for event in events:
        if is_kernel(event) and (not nested or event["name"].removesuffix(_KERNEL) in outer):
            yield event


def is_kernel(event: Mapping[str, Any]) -> bool:
    """Say whether an event of the profile is the time of a kernel."""
    return event.get("cat") == "Node" and event["name"].endswith(_KERNEL)


def _built_layer(name: str, details: Mapping[str, Any], members: tuple[str, ...]) -> BuiltLayer:
    outputs = [kind for shape in details.get("output_type_shape", []) for kind in shape]
    return BuiltLayer(
        name=name,
        op=details["op_name"],
        members=members,
        kernel=f"{details['provider']}/{details['op_name']}",
        precision=precision_of(details["op_name"], outputs),
    )
