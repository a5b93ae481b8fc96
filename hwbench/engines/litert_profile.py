"""Times of LiteRT's nodes, from the profiler of its library.

LiteRT's own kernels report under the index of their node. A delegate reports its own operators, numbered from zero in
each partition; :mod:`hwbench.engines.litert_align` finds the nodes behind them. Operators of one node, and nodes of one
layer of the model, make one unit. A node without an operator joins the one that uses it, or that it uses.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.engines.litert_align import align
from hwbench.engines.litert_capi import VERSION, Event, ProfiledModel
from hwbench.engines.litert_costs import precision_of
from hwbench.engines.litert_file import TfliteFile
from hwbench.engines.litert_members import Members
from hwbench.engines.litert_partitions import Split
from hwbench.errors import EngineError
from hwbench.protocols import LayerProfile, UnitTimes
from hwbench.records.base import Missing
from hwbench.records.measurement import BuiltLayer

if TYPE_CHECKING:
    import numpy as np

_PACKAGE = "ai-edge-litert"
_FEWEST_WARMUPS = 3


def profile(
    path: Path,
    file: TfliteFile,
    split: Split,
    members: Members,
    *,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    builtin: bool,
    threads: int,
    iterations: int,
) -> LayerProfile | Missing:
    """Compile the file once more with the profiler on, and time its nodes over ``iterations`` inferences.

    Args:
        path: the file.
        file: what it holds.
        split: which nodes the delegate takes.
        members: the model's layers behind each node.
        inputs: by the names of the file's inputs.
        builtin: whether LiteRT's own kernels run all of it.
        threads: of the CPU kernels.
        iterations: how many inferences to time.
    """
    version = importlib.metadata.version(_PACKAGE)
    if not version.startswith(f"{VERSION}."):
        why = (
            f"LiteRT's profiler is reached through its C library, which hwbench knows as of {VERSION}, not of {version}"
        )
        return Missing(code="unknown_version", why=why, cure=f"pip install '{_PACKAGE}=={VERSION}.*'")
    model = ProfiledModel(
        path,
        signature=file.signature_index,
        threads=threads,
        builtin=builtin,
        inputs=inputs,
    )
    with model:
        for _ in range(max(_FEWEST_WARMUPS, iterations // 5)):
            model.run()
        runs = [model.profiled() for _ in range(iterations)]
    if not all(run.invoke_us for run in runs):
        return Missing(code="below_resolution", why="an inference took less than the 1 µs that the profiler resolves")
    return LayerProfile(
        units=units_of(file, split, members, [run.events for run in runs]),
        end_to_end_s=tuple(run.invoke_us / 1e6 for run in runs),
        method=(
            "LiteRT profiler (LiteRtStartProfiler), whole microseconds cut off, a compiled model of its own; end to "
            "end is its Invoke phase"
        ),
    )


def units_of(
    file: TfliteFile, split: Split, members: Members, runs: Sequence[Sequence[Event]]
) -> tuple[UnitTimes, ...]:
    """Return the executed units with their times, one for each run.

    Raises:
        EngineError: the profiler saw other operators in one inference than in another.
    """
    shapes = {tuple((event.tag, event.delegated, event.index) for event in run) for run in runs}
    if len(shapes) != 1:
        raise EngineError("LiteRT's profiler saw other operators in one inference than in another")
    owners = _owners(file, split, runs[0])
    groups: dict[tuple[str, int], list[int]] = {}  # places in a run, by the node that leads the unit
    leaders = _leaders(file, members, {owner for owner in owners if owner is not None})
    for place, owner in enumerate(owners):
        key = ("extra", place) if owner is None else ("node", leaders[owner])
        groups.setdefault(key, []).append(place)
    return tuple(
        UnitTimes(
            unit=_unit(file, members, leaders, key, [runs[0][place] for place in places]),
            times_s=tuple(sum(run[place].elapsed_us for place in places) / 1e6 for run in runs),
        )
        for key, places in groups.items()
    )


def _owners(file: TfliteFile, split: Split, run: Sequence[Event]) -> list[int | None]:
    """Return the node behind each operator; None where it has none."""
    owners: list[int | None] = [None] * len(run)
    part, start = -1, 0
    for place, event in enumerate(run):
        if not event.delegated:
            owners[place] = event.index if event.index < len(file.nodes) else None
        elif event.index == 0:
            part, start = part + 1, place
            stop = _end_of_part(run, start)
            nodes = split.parts[part] if part < len(split.parts) else ()
            tags = [one.tag for one in run[start:stop]]
            for offset, found in enumerate(align(tags, [file.nodes[node].op for node in nodes])):
                owners[start + offset] = None if found is None else nodes[found]
    return owners


def _end_of_part(run: Sequence[Event], start: int) -> int:
    stop = start + 1
    while stop < len(run) and run[stop].delegated and run[stop].index == stop - start:
        stop += 1
    return stop


def _leaders(file: TfliteFile, members: Members, timed: Iterable[int]) -> dict[int, int]:
    """Return for each node the node that leads its unit: the first timed one of its layer, or its nearest user."""
    timed = set(timed)
    leaders = {node: members.home[node] if members.home[node] in timed else node for node in timed}
    users: dict[int, list[int]] = {}
    for node in file.nodes:
        for tensor in node.inputs:
            users.setdefault(tensor, []).append(node.index)
    for node in reversed(file.nodes):
        ahead = [user for tensor in node.outputs for user in users.get(tensor, ())]
        if node.index not in leaders and len(ahead) == 1 and ahead[0] in leaders:
            leaders[node.index] = leaders[ahead[0]]
    for node in file.nodes:
        feeding = [file.producers[tensor].index for tensor in node.inputs if tensor in file.producers]
        if node.index not in leaders and feeding and feeding[-1] in leaders:
            leaders[node.index] = leaders[feeding[-1]]
    return leaders


def _unit(
    file: TfliteFile,
    members: Members,
    leaders: dict[int, int],
    key: tuple[str, int],
    events: Sequence[Event],
) -> BuiltLayer:
    kernel = " + ".join(dict.fromkeys(event.tag for event in events))
    if key[0] == "extra":
        missing = Missing(code="inserted", why="the delegate inserted this operator: no node stands behind it")
        return BuiltLayer(
            name=f"{events[0].tag} #{key[1]}", op=events[0].tag, members=(), kernel=kernel, precision=missing
        )
    node = file.nodes[key[1]]
    inside = sorted(index for index, leader in leaders.items() if leader == node.index)
    return BuiltLayer(
        name=node.name,
        op=node.op,
        members=tuple(name for index in inside for name in members.layers[index]),
        kernel=kernel,
        precision=precision_of(node, file.tensors),
    )
