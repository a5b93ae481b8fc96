"""What ONNX Runtime says about its memory: the statistics of its arena, written into the profile beside each kernel.

Newer versions (1.32 has it) note after every kernel what the CPU arena holds (``mem_arena_held``), what of that is in
use, padding included (``mem_bytes_in_use``), and the highest that was in use since the session was made
(``mem_in_use_peak``), scratch memory inside kernels included. What is in use before the first kernel was put there when
the session was made: weights that kernels packed. Weights that were not packed lie outside the arena; each kernel tells
the size of those that it reads (``parameter_size``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hwbench.records.base import Missing
from hwbench.records.memory import RuntimeMemory

if TYPE_CHECKING:
    import onnx

_METHOD = (
    "arena statistics in the ONNX Runtime profile of a session of its own, padding included; weights: those that "
    "kernels packed (in the arena before the first kernel) and those that they read as they are; activations: highest "
    "in use after a kernel, less the packed weights"
)
_NOT_TOLD = Missing(
    code="not_told",
    why="the profile of this ONNX Runtime has no statistics of the arena",
    cure="upgrade onnxruntime (1.32 has them)",
)
_SHARED = Missing(
    code="not_told",
    why="several kernels share weights, and ONNX Runtime does not tell which of them are packed",
)


def read_memory(kernels: Iterable[dict[str, Any]], graph: onnx.GraphProto | None) -> RuntimeMemory:
    """Return what the kernel events of a profile tell, the first run among them.

    Args:
        kernels: events with ``_kernel_time``, in any order.
        graph: the graph as ONNX Runtime optimised it, to count shared weights once.
    """
    events = sorted(kernels, key=lambda event: event["ts"])
    told = [event["args"] for event in events if "mem_bytes_in_use" in event["args"]]
    if not told:
        return RuntimeMemory(
            weights_bytes=_NOT_TOLD,
            activations_bytes=_NOT_TOLD,
            workspace_bytes=_NOT_TOLD,
            arena_bytes=_NOT_TOLD,
            method=_METHOD,
        )
    packed = int(told[0]["mem_bytes_in_use"]) - int(told[0]["mem_in_use_delta"])
    in_use = max(int(args["mem_bytes_in_use"]) for args in told)
    read = {event["name"]: int(event["args"].get("parameter_size", 0)) for event in events}
    plain = _unpacked_bytes({name.removesuffix("_kernel_time"): size for name, size in read.items()}, graph)
    return RuntimeMemory(
        weights_bytes=plain if isinstance(plain, Missing) else plain + packed,
        activations_bytes=in_use - packed,
        workspace_bytes=max(int(args["mem_in_use_peak"]) for args in told) - in_use,
        arena_bytes=max(int(args["mem_arena_held"]) for args in told),
        method=_METHOD,
    )


def _unpacked_bytes(read: dict[str, int], graph: onnx.GraphProto | None) -> int | Missing:
    """Return the size of the weights that kernels read as they are, each once; ``read`` is by name of the kernel."""
    if graph is None:
        return Missing(code="not_told", why="ONNX Runtime left no optimised graph to count shared weights by")
    sizes = {tensor.name: _bytes(tensor) for tensor in graph.initializer}
    users = Counter(name for node in _nodes(graph.node) for name in set(node.input) & set(sizes))
    shared = {name for name, count in users.items() if count > 1}
    inputs = {node.name: set(node.input) & set(sizes) for node in _nodes(graph.node)}
    whole: set[str] = set()
    rest = 0
    for name, size in read.items():
        mine = inputs.get(name, shared)  # of a kernel that is not in the graph nobody knows what it reads
        if size and mine and size == sum(sizes[weight] for weight in mine):
            whole |= mine
        elif size and mine & shared:
            return _SHARED
        else:
            rest += size
    return rest + sum(sizes[weight] for weight in whole)


def _nodes(nodes: Sequence[Any]) -> Iterator[Any]:
    """Yield the nodes, and those inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner.node)


def _bytes(tensor: onnx.TensorProto) -> int:
    """Return the size of a tensor in memory; two 4-bit values share a byte."""
    import onnx

    count = 1
    for length in tensor.dims:
        count *= length
    if tensor.data_type in {onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1}:
        return (count + 1) // 2
    return int(count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
