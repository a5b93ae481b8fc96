"""Points timed again: the first one every few trials, as a control, and the best ones in turns at the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwbench.errors import EngineError
from hwbench.files import decode, read_bytes, write_record
from hwbench.records.base import Missing
from hwbench.records.measurement import LatencySummary
from hwbench.records.search import Control, FinalTime, Trial
from hwbench.search.goals import needed
from hwbench.search.points import point_of
from hwbench.search_work.attempt import Bench

CONTROLS, FINALS = "controls", "finals"
_RECORD = "control.json"
_TIMES = {"latency", "latency-per-sample"}


def time_control(bench: Bench, first: Trial, after: Trial) -> None:
    """Time the first complete point again, and keep what came out; a control that fails is said and left out."""
    where, before = bench.folder / CONTROLS / f"{after.number:04d}", first.value("latency")
    if first.number == after.number or before is None:
        return
    try:
        now = _latency(bench, first, where)
    except EngineError as error:
        bench.watch(f"the control could not be timed: {error.message}", None)
        return
    control = Control(
        after_trial=after.number,
        trial=first.number,
        median_s=now.median_s,
        low_s=now.median_low_s,
        high_s=now.median_high_s,
        ratio=now.median_s / before,
    )
    write_record(where / _RECORD, control)


def controls_in(folder: Path) -> tuple[Control, ...]:
    """Return the controls of a search, in their order."""
    paths = sorted((folder / CONTROLS).glob(f"*/{_RECORD}"))
    return tuple(decode(read_bytes(path), Control, what=str(path)) for path in paths)


def final_times(bench: Bench, finalists: list[Trial]) -> tuple[FinalTime, ...] | Missing:
    """Time the best points again, all of them in every round and in a random order; ratios are within a round.

    The fastest is timed twice a round: what its second time says of its first is what no difference looks like here.
    ``finalists``: the fastest first.
    """
    rounds = bench.request.finals
    if not _TIMES & needed(bench.request.objectives, bench.request.constraints):
        return Missing(code="not_needed", why="no objective is a time")
    if not rounds:
        return Missing(code="not_asked", why="nobody asked for it", cure="--finals")
    if len(finalists) < 2:
        return Missing(code="one_point", why="there are no two points to hold against each other")
    entries = [(one, False) for one in finalists] + [(finalists[0], True)]
    medians: list[list[float]] = [[] for _ in entries]
    for number in range(rounds):
        for index in np.random.default_rng([bench.request.seed, number]).permutation(len(entries)):
            trial, again = entries[index]
            bench.watch(f"final round {number + 1} of {rounds}: trial {trial.number}", None)
            where = bench.folder / FINALS / f"{number}-{trial.number:04d}{'-again' if again else ''}"
            try:
                medians[index].append(_latency(bench, trial, where).median_s)
            except EngineError as error:
                return Missing(code="engine_failed", why=f"trial {trial.number}: {error.message}", cure=error.hint)
    return tuple(
        _final(trial, again, times, medians[0]) for (trial, again), times in zip(entries, medians, strict=True)
    )


def _final(trial: Trial, again: bool, medians: list[float], fastest: list[float]) -> FinalTime:
    ratios = sorted(one / other for one, other in zip(medians, fastest, strict=True))
    return FinalTime(
        trial=trial.number,
        again=again,
        medians_s=tuple(medians),
        ratio=float(np.median(ratios)),
        low=ratios[0],
        high=ratios[-1],
    )


def _latency(bench: Bench, trial: Trial, where: Path) -> LatencySummary:
    if trial.bundle is None:
        raise EngineError(f"trial {trial.number} has no bundle")
    point = point_of(bench.space, trial.params, bench.request.seed)
    measured = bench.timed(bench.folder / trial.folder / trial.bundle, where, point.threads, bench.request.timing)
    if not isinstance(measured.latency, LatencySummary):
        raise EngineError(str(measured.latency))
    return measured.latency
