"""Each metric of an interleaved comparison: from blocks to a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec
import numpy as np

from hwbench.compare import resample, verdict
from hwbench.compare.resample import Restart
from hwbench.compare.robust import Array
from hwbench.energy.flags import doubt
from hwbench.energy.uncertainty import TOO_SHORT_PERIODS
from hwbench.records.base import Missing
from hwbench.records.comparison import (
    Block,
    BlockProcess,
    Metric,
    OneOff,
    Plan,
    Process,
    ProcessRun,
    Ratio,
    Settings,
    Verdict,
    Word,
)
from hwbench.records.energy import EnergyReading
from hwbench.records.measurement import Memory
from hwbench.records.memory import GpuMemory

NOT_RECORDED = Missing(
    code="not_recorded", why="accuracy is not in saved results", cure="compare the models themselves, with --data"
)
NO_DATA = Missing(code="no_data", why="accuracy needs labelled data", cure="--data")
NEVER_LIVE: dict[str, Missing] = {
    "throughput": Missing(code="other_mode", why="measured one request at a time", cure="compare saved results"),
}
UNITS: dict[Metric, str] = {
    "latency": "s", "latency_p90": "s", "throughput": "1/s", "energy": "J", "peak_memory": "B",
}  # fmt: skip
WORDS: dict[Metric, tuple[Word, Word]] = {  # for a higher and for a lower value
    "latency": ("SLOWER", "FASTER"),
    "latency_p90": ("SLOWER", "FASTER"),
    "throughput": ("FASTER", "SLOWER"),
    "energy": ("MORE", "LESS"),
    "peak_memory": ("MORE", "LESS"),
}
_TAIL = 100  # samples that a 90th percentile needs
_METHOD = "B/A of block values; levels by median polish, robust mean over restarts, these resampled, Student's t"
_CONTROL = 0.95  # confidence; no verdict rests on it but that nothing can be told
_MOST_FLAGGED = 0.1  # of the blocks of a process


class Timed(Protocol):
    """One process with its blocks: of a comparison or of a contest."""

    @property
    def run(self) -> ProcessRun: ...

    @property
    def blocks(self) -> tuple[Block, ...]: ...


@dataclass(frozen=True, kw_only=True)
class Level:
    """What an interval is to hold, and what the measuring cost: for saying what would settle it."""

    confidence: float
    budget_s: float


def absolute(metric: Metric, settings: Settings) -> float:
    """Return the absolute minimum effect of a metric in its own unit."""
    if metric in {"latency", "latency_p90"}:
        return settings.min_latency_s
    return settings.min_memory_bytes if metric == "peak_memory" else 0.0


def verdicts(
    processes: Sequence[BlockProcess], settings: Settings, plan: Plan, confidence: float
) -> tuple[tuple[Verdict, ...], dict[str, Missing]]:
    """Return a verdict for every metric that there is, and for each other metric why there is none."""
    level = Level(confidence=confidence, budget_s=plan.budget_s)
    found: list[Verdict] = []
    absent = dict(NEVER_LIVE)
    tables: dict[Metric, list[Restart] | Missing] = {
        "latency": _restarts(processes, _medians),
        "latency_p90": _restarts(_joined(processes), _p90s),
        "energy": _energy_missing(processes) or _restarts(processes, _energies),
        "peak_memory": _peak_missing(processes) or _restarts(processes, _peaks),
    }
    for metric, table in tables.items():
        if isinstance(table, Missing):
            absent[metric] = table
        else:
            found.append(_verdict(metric, table, settings, level))
    return tuple(found), absent


def _verdict(metric: Metric, restarts: list[Restart], settings: Settings, level: Level) -> Verdict:
    estimate = resample.effect(restarts, seed=settings.seed)
    control = _control(restarts, settings)
    a = math.exp(statistics.median(float(np.median(np.concatenate([r.a, r.again]))) for r in restarts))
    found = verdict.ratio(estimate, level.confidence)
    least = verdict.minimum(settings.min_effect, absolute(metric, settings), a)
    side, why = verdict.decide(found, least), None
    if not isinstance(control, Missing) and verdict.control_fails(control, least):
        side, why = "unclear", verdict.blind(control)
    elif side == "unclear":
        why = verdict.unsettled(estimate, least, level.confidence, budget_s=level.budget_s, restarts=len(restarts))
    return Verdict(
        metric=metric,
        unit=UNITS[metric],
        word=verdict.word(side, *WORDS[metric]),
        a=a,
        b=a * found.value,
        ratio=found,
        min_ratio=least,
        control=control,
        method=_METHOD,
        why=why,
    )


def block_values(item: Timed, what: Literal["latency", "energy", "memory"]) -> Array | Missing:
    """Return what one process says: seconds or joules per inference, one a block; or its peak in bytes, once."""
    if what == "latency":
        return _medians(item)
    return _peaks(item) if what == "memory" else _energy_missing([item]) or _energies(item)


def _control(restarts: list[Restart], settings: Settings) -> Ratio | Missing:
    estimate = resample.control(restarts, seed=settings.seed)
    if estimate.df == 0:
        return Missing(code="too_few_samples", why="one set of processes says nothing about how they scatter")
    return verdict.ratio(estimate, _CONTROL)


def _restarts(
    processes: Sequence[BlockProcess], values: Callable[[BlockProcess], Array | Missing]
) -> list[Restart] | Missing:
    """Return one log value a round and process, the same number for the three processes of a restart."""
    restarts = []
    for number in sorted({item.restart for item in processes}):
        found: dict[Process, Array] = {}
        for item in processes:
            if item.restart == number:
                value = values(item)
                if isinstance(value, Missing):
                    return value
                found[item.process] = np.log(value)
        rounds = min(len(value) for value in found.values())
        restarts.append(Restart(a=found["a"][:rounds], again=found["control"][:rounds], b=found["b"][:rounds]))
    return restarts


def _medians(item: Timed) -> Array:
    return np.array([np.median(block.samples_ns) / 1e9 for block in item.blocks])


def _joined(processes: Sequence[BlockProcess]) -> list[BlockProcess]:
    """Join so many restarts in a row that each has the samples which a 90th percentile needs; all, if too few."""
    least = min(len(block.samples_ns) for item in processes for block in item.blocks)
    rounds = min(len(item.blocks) for item in processes)
    every = len({item.restart for item in processes})
    together = min(every, math.ceil(math.ceil(_TAIL / least) / rounds))
    found: dict[tuple[int, Process], BlockProcess] = {}
    for item in processes:
        number = min(item.restart // together, every // together - 1)
        earlier = found.get((number, item.process))
        blocks = (*earlier.blocks, *item.blocks) if earlier is not None else item.blocks
        found[number, item.process] = msgspec.structs.replace(item, restart=number, blocks=blocks)
    return list(found.values())


def _p90s(item: BlockProcess) -> Array | Missing:
    """Return 90th percentiles of as many blocks in a row as give a hundred samples."""
    least = min(len(block.samples_ns) for block in item.blocks)
    together = math.ceil(_TAIL / least)
    groups = len(item.blocks) // together
    if groups < 1:
        has = sum(len(block.samples_ns) for block in item.blocks)
        why = f"p90 needs {_TAIL} samples of each process, there are {has}"
        return Missing(code="too_few_samples", why=why, cure="raise --budget")
    joined = [item.blocks[group * together : (group + 1) * together] for group in range(groups)]
    return np.array(
        [np.quantile(np.concatenate([block.samples_ns for block in blocks]), 0.9) / 1e9 for blocks in joined]
    )


def _energies(item: Timed) -> Array | Missing:
    """Return joules per inference of each block.

    A window that is short against the meter's update period holds some of the block before, another process's: the two
    sides would look alike. Such blocks make no energy, however many there are.
    """
    values = []
    doubtful: list[str] = []
    for block in item.blocks:
        reading = block.energy
        if isinstance(reading, Missing):
            return _too_short(reading.why) if reading.code == "window_too_short" else reading
        if "window_too_short" in reading.flags:
            period = reading.update_period_s
            told = "at an unknown interval" if isinstance(period, Missing) else f"every {period:g} s"
            return _too_short(f"a block of {reading.window_s:.2g} s is short for a meter that updates {told}", period)
        if reading.energy_j <= 0:
            return Missing(code="below_resolution", why="the meter saw no energy in a block", cure="raise --block")
        flag = doubt(reading.flags)
        doubtful += [] if flag is None else [flag]
        values.append(reading.energy_j / len(block.samples_ns))
    if len(doubtful) > _MOST_FLAGGED * len(item.blocks):
        why = f"{len(doubtful)} of {len(item.blocks)} blocks of a process are flagged {doubtful[0]}"
        return Missing(code=doubtful[0], why=why, cure="raise --block, or use another --meter")
    return np.array(values)


def _too_short(why: str, period_s: float | Missing = 0.0) -> Missing:
    cure = "raise --block and --budget"
    if isinstance(period_s, float) and period_s > 0:
        cure = f"--block {TOO_SHORT_PERIODS * period_s:.3g}s and a larger --budget"
    return Missing(code="window_too_short", why=why, cure=cure)


def _energy_missing(processes: Sequence[Timed]) -> Missing | None:
    meters = set()
    for item in processes:
        for block in item.blocks:
            if isinstance(block.energy, EnergyReading):
                if block.energy.provenance == "replayed":
                    return Missing(code="replayed", why="the energy was replayed from a recording, not measured")
                meters.add((block.energy.meter, block.energy.boundary))
    if len(meters) > 1:
        return Missing(code="other_meter", why="the two sides were not measured by the same meter")
    return None


class HasMemory(Protocol):
    """A run whose process was watched."""

    @property
    def memory(self) -> Memory: ...
    @property
    def gpu_memory_loading(self) -> GpuMemory | Missing: ...
    @property
    def gpu_memory(self) -> GpuMemory | Missing: ...


def peak_bytes(run: HasMemory) -> int | Missing:
    """Return the most memory that a worker took while loading or running: its resident set, runtime included.

    Of one that ran on a GPU it is what the process had there, as the driver counts it, or else what torch's allocator
    took; not what the whole GPU had, where other workers may be.
    """
    phases = [each for each in (run.gpu_memory_loading, run.gpu_memory) if not isinstance(each, Missing)]
    if phases:
        own = _most([each.nvml_process_peak_bytes for each in phases])
        return _most([each.torch_peak_reserved_bytes for each in phases]) if isinstance(own, Missing) else own
    return _most([run.memory.peak_load_rss_bytes, run.memory.peak_run_rss_bytes])


def _most(values: Sequence[int | Missing]) -> int | Missing:
    """Return the largest, or the first reason why one is not known."""
    most = 0
    for value in values:
        if isinstance(value, Missing):
            return value
        most = max(most, value)
    return most


def _peaks(item: Timed) -> Array | Missing:
    peak = peak_bytes(item.run)
    return peak if isinstance(peak, Missing) else np.array([float(peak)])


def _peak_missing(processes: Sequence[BlockProcess]) -> Missing | None:
    if len({item.restart for item in processes}) > 1:
        return None
    return Missing(code="one_process", why="one process a side says nothing about the next", cure="--restarts 3")


def one_off(processes: Sequence[BlockProcess]) -> tuple[OneOff, ...]:
    """Return loading, compiling and the first inference of A's and B's processes."""
    return (
        OneOff(name="load", a_s=_phase(processes, "a", "load_s"), b_s=_phase(processes, "b", "load_s")),
        OneOff(name="compile", a_s=_phase(processes, "a", "compile_s"), b_s=_phase(processes, "b", "compile_s")),
        OneOff(
            name="first_inference",
            a_s=_phase(processes, "a", "first_inference_s"),
            b_s=_phase(processes, "b", "first_inference_s"),
        ),
    )


def _phase(processes: Sequence[BlockProcess], side: Process, name: str) -> tuple[float, ...] | Missing:
    values = [getattr(item.run.phases, name) for item in processes if item.process == side]
    missing = next((value for value in values if isinstance(value, Missing)), None)
    return missing or tuple(values)
