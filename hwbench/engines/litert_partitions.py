"""How LiteRT split a graph between a delegate and its own kernels, read back from the runtime.

After compiling, an interpreter lists the file's nodes and behind them one ``DELEGATE`` node for each partition, with
the tensors that go into it and come out. What lies between belongs to the partition, so walking from its outputs back
to its inputs finds every node that it took.

The GPU and NPU accelerators show no such list. They write how many nodes run where, and why, to the log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwbench.engines.litert_file import FileNode, TfliteFile
from hwbench.records.base import Missing
from hwbench.records.measurement import LeftNode, Partitions

_NOT_TOLD = Missing(code="not_told", why="XNNPACK does not say why it leaves a node to LiteRT's own kernels")
_SPLIT = re.compile(r"(\d+) operations? will run on the GPU, and the remaining (\d+) operations? will run on the CPU")
_UNSUPPORTED = "Following operations are not supported by GPU delegate:"
_NPU_READY = "compiler plugins were applied successfully"
_GPU_READY = "Initializing WebGPU-based API from graph"
_REASON = re.compile(r"^([A-Z][A-Z0-9_]+): (\S.*)$", re.MULTILINE)
_ADAPTER = re.compile(r"Selected adapter: (?P<name>[^,\n]+).*?adapterType=(?P<type>[^\n]+)")
_NPU = re.compile(r"selected (\d+) ops, from a total of (\d+) ops\. resulted in (\d+) partitions?")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which nodes of a file each partition of a delegate took, by index, and which it left."""

    parts: tuple[tuple[int, ...], ...]
    left: tuple[int, ...]

    @property
    def delegated(self) -> frozenset[int]:
        return frozenset(node for part in self.parts for node in part)


def split_of(file: TfliteFile, details: Sequence[Mapping[str, Any]]) -> Split:
    """Return the split that an interpreter's list of nodes shows.

    Args:
        file: the file that the interpreter was made from.
        details: ``Interpreter._get_ops_details()``, after tensors were allocated.
    """
    parts = [_inside(file, one) for one in details[len(file.nodes) :] if one["op_name"] == "DELEGATE"]
    taken = {node for part in parts for node in part}
    return Split(parts=tuple(parts), left=tuple(node.index for node in file.nodes if node.index not in taken))


def _inside(file: TfliteFile, delegate: Mapping[str, Any]) -> tuple[int, ...]:
    given = {int(tensor) for tensor in delegate["inputs"]}
    todo = [int(tensor) for tensor in delegate["outputs"]]
    found: set[int] = set()
    while todo:
        tensor = todo.pop()
        node = file.producers.get(tensor)
        if tensor not in given and node is not None and node.index not in found:
            found.add(node.index)
            todo.extend(node.inputs)
    return tuple(sorted(found))


def partitions(delegate: str, split: Split, nodes: Sequence[FileNode], members: Sequence[Sequence[str]]) -> Partitions:
    """Return the record of a split; ``members`` are the source layers of each node."""
    return Partitions(
        delegate=delegate,
        nodes=len(nodes),
        delegated=len(split.delegated),
        parts=tuple(tuple(name for node in part for name in members[node]) for part in split.parts),
        left=tuple(LeftNode(name=nodes[index].name, op=nodes[index].op, why=_NOT_TOLD) for index in split.left),
    )


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The GPU that the WebGPU accelerator runs on, as its log names it."""

    name: str
    kind: str

    @property
    def software(self) -> bool:
        """Say whether it is a CPU that plays a GPU: right results, meaningless times."""
        return "software" in self.kind.lower() or "cpu" in self.kind.lower()


def adapter_in(log: str) -> Adapter | None:
    """Return the GPU that the log names, if it names one."""
    found = _ADAPTER.search(log)
    return None if found is None else Adapter(name=found["name"].strip(), kind=found["type"].strip())


def taken_by_accelerator(log: str, nodes: int) -> int:
    """Return how many of the file's nodes an accelerator took, as its log says; 0 where it says nothing of any."""
    split, npu = _SPLIT.search(log), _NPU.search(log)
    if split is not None:
        return int(split[1])
    if npu is not None and _NPU_READY in log:
        return int(npu[1])
    return nodes if _GPU_READY in log else 0


def accelerator_partitions(
    delegate: str, taken: int, log: str, nodes: Sequence[FileNode], members: Sequence[Sequence[str]]
) -> Partitions:
    """Return what an accelerator took, as far as its log tells.

    The log counts the nodes on either side, and gives reasons; which nodes it took is known only where it took all.
    """
    return Partitions(
        delegate=delegate,
        nodes=len(nodes),
        delegated=taken,
        parts=_parts(taken, members),
        left=_left(log, taken, nodes),
    )


def _parts(taken: int, members: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...] | Missing:
    if taken == len(members):
        return (tuple(name for names in members for name in names),)
    return Missing(code="not_told", why="the accelerator does not say which nodes it took")


def _left(log: str, taken: int, nodes: Sequence[FileNode]) -> tuple[LeftNode, ...] | Missing:
    """Return the nodes that were left; an accelerator names kinds that it cannot run, and leaves others with them."""
    if taken == len(nodes):
        return ()
    told = log.partition(_UNSUPPORTED)[2].partition("will run on")[0]
    reasons = "; ".join(dict.fromkeys(f"{op}: {why.strip()}" for op, why in _REASON.findall(told)))
    why = f"the accelerator left {len(nodes) - taken} nodes and does not say which"
    return Missing(code="not_told", why=f"{why}; it cannot run: {reasons}" if reasons else why)
