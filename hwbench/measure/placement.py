"""Was it run where, and as, it had to be? Read back from the runtime: what that does not show does not count as met.

The units are those of the layer table, which were seen running, or where there is none those that the runtime says it
has built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hwbench.records.base import Missing
from hwbench.records.measurement import Built, BuiltLayer, LayerTable, Partitions
from hwbench.records.model import Model
from hwbench.records.placement import Requirements, Unmet


def unmet(required: Requirements, model: Model, built: Built, table: LayerTable | Missing) -> tuple[Unmet, ...]:
    """Return every unit that is not as ``required``; empty when all is.

    Args:
        required: what must hold.
        model: the network, whose layers say which units have multiply-adds.
        built: what the runtime says it has built.
        table: its layers as they ran, where they were timed.
    """
    found: list[Unmet] = []
    if required.device is not None:
        found.extend(_devices(required.device, built))
    if required.precision is not None:
        found.extend(_precisions(required.precision, model, built, table))
    if required.delegate is not None:
        found.extend(_delegation(required.delegate, built))
    return tuple(found)


def _devices(wanted: str, built: Built) -> Iterator[Unmet]:
    if not built.execution_units:
        yield Unmet(
            requirement="device", wanted=wanted, unit="all", found="not shown", why=f"{built.engine} names no device"
        )
    for unit in built.execution_units:
        if wanted.lower() not in {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", unit)}:
            yield Unmet(
                requirement="device", wanted=wanted, unit=unit, found=unit, why="the runtime says that it used it"
            )


def _precisions(wanted: str, model: Model, built: Built, table: LayerTable | Missing) -> Iterator[Unmet]:
    units = _units(built, table)
    if isinstance(units, Missing):
        yield Unmet(
            requirement="precision", wanted=wanted, unit="all", found="not shown", why=f"no unit can be seen: {units}"
        )
        return
    heavy = {layer.name for layer in model.layers if not isinstance(layer.macs, Missing) and layer.macs > 0}
    working = [unit for unit in units if heavy & set(unit.members)]
    if not working:
        yield Unmet(
            requirement="precision",
            wanted=wanted,
            unit="all",
            found="not shown",
            why="no unit could be matched with a layer that multiplies",
        )
    for name in sorted(heavy - {member for unit in working for member in unit.members}) if working else ():
        why = "no unit that was seen stands for it"
        yield Unmet(requirement="precision", wanted=wanted, unit=name, found="not shown", why=why)
    for unit in working:
        if unit.precision != wanted:
            found = f"not told: {unit.precision.why}" if isinstance(unit.precision, Missing) else unit.precision
            kernel = unit.op if isinstance(unit.kernel, Missing) else unit.kernel
            stands = ", ".join(unit.members)
            yield Unmet(
                requirement="precision",
                wanted=wanted,
                unit=unit.name,
                found=found,
                why=f"{built.engine} runs it with {kernel}; it stands for {stands}",
            )


def _units(built: Built, table: LayerTable | Missing) -> Sequence[BuiltLayer] | Missing:
    if isinstance(table, LayerTable):
        return [row.unit for row in table.rows]
    return built.layers


def _delegation(wanted: str, built: Built) -> Iterator[Unmet]:
    parts = built.partitions
    if not isinstance(parts, Partitions):
        yield Unmet(requirement="delegate", wanted=wanted, unit="all", found="none", why=parts.why)
        return
    if parts.delegate.lower() != wanted.lower():
        yield Unmet(
            requirement="delegate",
            wanted=wanted,
            unit="all",
            found=parts.delegate,
            why=f"{built.engine} was run with this one",
        )
        return
    left = () if isinstance(parts.left, Missing) else parts.left
    for node in left:
        why = node.why if isinstance(node.why, str) else f"not told: {node.why.why}"
        yield Unmet(requirement="delegate", wanted=wanted, unit=node.name, found=node.op, why=why)
    if parts.delegated < parts.nodes and not left:
        why = f"{parts.nodes - parts.delegated} of {parts.nodes} nodes were not taken, and it is not told which"
        yield Unmet(requirement="delegate", wanted=wanted, unit="some", found="the runtime's own kernels", why=why)
