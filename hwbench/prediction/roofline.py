"""The roofline with state: what a unit takes on a machine, from what it has to compute and to move.

    t = launch + max(2 MAC / (peak x tile x efficiency), bytes / (bandwidth of the level it fits x efficiency))

*Tile*: sizes that are no multiple of the hardware's quantum (vector lanes, the depth of a dot product, the tile of a
tensor core, the number of multiprocessors) leave part of it idle. *State*: activations come from the level that the
unit's own tensors fit; weights from the level that all weights of the network fit, since a whole inference passes
before they are read again. *Efficiency* is the share of a roof that a class of layers reaches; it is fitted
(:mod:`hwbench.prediction.fit`), as are the launch of a unit and what an inference costs besides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwbench.prediction.legality import arithmetic_of, bytes_of, rate_of
from hwbench.prediction.machine import Machine
from hwbench.records.prediction import Bound, UnitPrediction, Work
from hwbench.records.quantization import Scheme

SHARES = (
    *("conv.float", "conv.int8", "depthwise.float", "depthwise.int8", "matmul.float", "matmul.int8"),
    *("memory", "elementwise", "function", "border"),
)
SECONDS = ("launch", "fixed")
PARAMETERS = (*SHARES, *SECONDS)
ON_GRIDS: frozenset[Scheme] = frozenset({"int8", "fp8"})
"""Schemes in which tensors are handed on; layers of the others take and give floats."""
REFERENCE_HZ = 3.8e9  # the clock that launches and fixed costs on CPUs were fitted at; they scale with it
_REGRID_CYCLES = 12.0  # of a vector of sums: convert, scale, round, clip, pack; by judgement
_FEW_ROWS, _FEW_ROWS_AT_ONCE = 16, 8  # of a product on a GPU; the narrow side of a tensor core's tile
_INDEX = {name: place for place, name in enumerate(PARAMETERS)}

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Bases:
    """Units on a machine at efficiency 1: seconds of arithmetic and of memory, and which parameter scales which."""

    arithmetic_s: Array
    memory_s: Array
    share: np.ndarray[Any, np.dtype[np.intp]]
    memory_share: np.ndarray[Any, np.dtype[np.intp]]
    launches: float  # how much slower than the reference this machine launches
    borders_s: float  # at efficiency 1
    borders: int
    units: tuple[Work, ...]
    arithmetics: tuple[str, ...]
    levels: tuple[str, ...]


def bases_of(works: Sequence[Work], machine: Machine, floating: str, weights_at: str | None = None) -> Bases:
    """Return the units of one network as seconds at efficiency 1.

    ``weights_at``: the level that weights come from, where not all units of the network are given.
    """
    sizes = [bytes_of(work, floating) for work in works]
    stored = machine.level(sum(size for _, size in sizes)) if weights_at is None else _named(machine, weights_at)
    arithmetics = tuple(arithmetic_of(machine, work, floating) for work in works)
    arithmetic, memory, levels = [], [], []
    for work, (moved, weights), kind in zip(works, sizes, arithmetics, strict=True):
        level = machine.level(moved + weights)
        levels.append(level.name)
        memory.append(moved / level.bytes_per_s + weights / min(stored.bytes_per_s, level.bytes_per_s))
        peak = rate_of(machine, kind) or machine.peaks["fp32"]
        arithmetic.append(2 * work.macs / (peak * tile_share(work, machine, kind)) + _regrid_s(work, machine))
    borders_s, borders = _borders(works, machine, floating)
    slower = REFERENCE_HZ / machine.clock_hz if machine.processor == "cpu" else 1.0
    return Bases(
        arithmetic_s=np.array(arithmetic),
        memory_s=np.array(memory),
        share=np.array(
            [_share_index(work, kind) for work, kind in zip(works, arithmetics, strict=True)], dtype=np.intp
        ),
        memory_share=np.array([_INDEX["memory" if work.macs else work.family] for work in works], dtype=np.intp),
        launches=slower,
        borders_s=borders_s,
        borders=borders,
        units=tuple(works),
        arithmetics=arithmetics,
        levels=tuple(levels),
    )


def _named(machine: Machine, name: str) -> Any:
    return next(level for level in machine.levels if level.name == name)


def _share_index(work: Work, arithmetic: str) -> int:
    if not work.macs:
        return _INDEX[work.family]
    return _INDEX[f"{work.family}.{'int8' if arithmetic == 'int8' else 'float'}"]


def _regrid_s(work: Work, machine: Machine) -> float:
    """Return the seconds in which a CPU brings 32-bit sums of an int8 layer back to its grid, at efficiency 1."""
    if work.scheme != "int8" or machine.processor == "gpu":
        return 0.0
    lanes = 16 if "avx512f" in machine.isa else 8 if "avx2" in machine.isa else 4
    return work.elements_out * _REGRID_CYCLES / (lanes * machine.clock_hz * machine.threads)


def tile_share(work: Work, machine: Machine, arithmetic: str) -> float:
    """Return the share of the arithmetic that is not spent on the padding of tiles, between 0 and 1."""
    if not work.macs:
        return 1.0
    rows, deep, wide = quanta(machine, arithmetic)
    few = machine.processor == "gpu" and work.positions <= _FEW_ROWS
    if few:  # what is added up is split, so that every multiprocessor has a part of it
        rows = _FEW_ROWS_AT_ONCE
    if work.family == "depthwise":
        return _full(work.groups, wide)
    share = _full(work.positions, rows) * _full(work.channels_in, deep) * _full(work.channels_out, wide)
    if machine.processor == "cpu" or few:
        return share
    tiles = math.ceil(work.positions / rows) * math.ceil(work.channels_out / wide) * work.groups
    return share * _full(tiles, machine.sm)


def _full(size: int, quantum: int) -> float:
    return size / (quantum * math.ceil(size / quantum))


def quanta(machine: Machine, arithmetic: str) -> tuple[int, int, int]:
    """Return rows, depth and width of the smallest piece of a product that the hardware does in one go."""
    if machine.processor == "gpu":
        deep = {"int8": 32, "fp16": 16, "bf16": 16}.get(arithmetic, 4)
        return (32, deep, 32)
    if "amx_tile" in machine.isa and arithmetic in {"int8", "bf16"}:
        return (16, 64 if arithmetic == "int8" else 32, 16)
    lanes = 16 if "avx512f" in machine.isa else 8
    if "neon" in machine.isa and arithmetic == "fp16":
        lanes = 16
    deep = {"int8": 8 if "i8mm" in machine.isa else 4, "bf16": 2}.get(arithmetic, 1)
    return (1, deep, lanes)


def _borders(works: Sequence[Work], machine: Machine, floating: str) -> tuple[float, int]:
    """Return the seconds and the number of conversions between units of unlike schemes; one a result and scheme.

    The ends of a network are floats.
    """
    by_name = {work.name: work for work in works}
    crossed: dict[tuple[str, Scheme], int] = {}
    for work in works:
        grid = work.scheme if work.scheme in ON_GRIDS else "float"
        for name, elements in work.reads.items():
            other = by_name.get(name)
            if other is not None and (other.scheme if other.scheme in ON_GRIDS else "float") != grid:
                crossed[name, grid] = elements
        if grid != "float" and work.ends:
            crossed[f"{work.name} (end)", grid] = work.ends
    return sum(border_bytes_s(elements, machine, floating) for elements in crossed.values()), len(crossed)


def border_bytes_s(elements: int, machine: Machine, floating: str) -> float:
    """Return the seconds in which a tensor is read in one precision and written in the other, at efficiency 1."""
    size = elements * (1 + (4 if floating == "fp32" else 2))
    return size / machine.level(size).bytes_per_s


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of every unit, of the borders and of what an inference costs besides."""

    units: Array
    arithmetic: Array
    memory: Array
    launch: float
    borders: float
    fixed: float

    @property
    def total(self) -> float:
        return float(self.units.sum()) + self.borders + self.fixed


def times_of(bases: Bases, logs: Array) -> Times:
    """Return the times at some parameters: natural logarithms, in the order of :data:`PARAMETERS`."""
    values = np.exp(logs)
    launch = float(values[_INDEX["launch"]]) * bases.launches
    arithmetic = bases.arithmetic_s / values[bases.share]
    memory = bases.memory_s / values[bases.memory_share]
    return Times(
        units=launch + np.maximum(arithmetic, memory),
        arithmetic=arithmetic,
        memory=memory,
        launch=launch,
        borders=bases.borders * launch + bases.borders_s / float(values[_INDEX["border"]]),
        fixed=float(values[_INDEX["fixed"]]) * bases.launches,
    )


def unit_predictions(bases: Bases, times: Times) -> tuple[UnitPrediction, ...]:
    """Return the table of units, with what bounds each."""
    rows = zip(bases.units, bases.arithmetics, bases.levels, times.units, times.arithmetic, times.memory, strict=True)
    return tuple(
        UnitPrediction(
            name=work.name,
            layers=work.layers,
            family=work.family,
            arithmetic=kind if work.macs else ("int8" if work.scheme == "int8" else kind),
            time_s=float(total),
            arithmetic_s=float(compute),
            memory_s=float(memory),
            launch_s=times.launch,
            bound=_bound(float(compute), float(memory), times.launch),
            level=level,
        )
        for work, kind, level, total, compute, memory in rows
    )


def _bound(arithmetic: float, memory: float, launch: float) -> Bound:
    if launch >= max(arithmetic, memory):
        return "launch"
    return "arithmetic" if arithmetic >= memory else "memory"


def as_vector(logs: Mapping[str, float]) -> Array:
    """Return parameters by name as a vector."""
    return np.array([logs[name] for name in PARAMETERS])


def as_names(logs: Array) -> dict[str, float]:
    """Return the parameters by name, as shares and seconds."""
    return {name: float(value) for name, value in zip(PARAMETERS, np.exp(logs), strict=True)}
