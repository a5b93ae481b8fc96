"""Points timed again: the first one every few trials, as a control, and the best ones beside each other at the end."""

from __future__ import annotations

from pathlib import Path

import psutil

from hwbench.children import thread_limits
from hwbench.compare.contest import hold
from hwbench.dialogue import Dialogue
from hwbench.errors import EngineError
from hwbench.files import decode, read_bytes, write_record
from hwbench.intake import Intake
from hwbench.inventory import pinned_cpus
from hwbench.measure.job import OUTPUTS, Job
from hwbench.records.base import Missing
from hwbench.records.contest import ContestPlan, Entrant
from hwbench.records.measurement import LatencySummary, RunSettings, StopRule
from hwbench.records.model import ImportResult
from hwbench.records.search import Control, Finals, Trial
from hwbench.search.goals import needed
from hwbench.search.points import point_of
from hwbench.search_work.attempt import Bench
from hwbench.units import MonotonicClock

CONTROLS, FINALS = "controls", "finals"
_RECORD = "control.json"
_BLOCK_S, _WARMUP_S = 0.1, 0.2
_MOST_RESTARTS, _MOST_LIVE, _LEVEL = 30, 8, 0.05
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


def contest(bench: Bench, finalists: list[Trial], intake: Intake) -> Finals | Missing:
    """Time the best points again in one run, block by block in random order, the fastest of them twice.

    See :mod:`hwbench.compare.contest`; what it says of two points may be claimed, what trials say apart may not.
    """
    budget_s = bench.request.finals_s
    if not _TIMES & needed(bench.request.objectives, bench.request.constraints):
        return Missing(code="not_needed", why="no objective is a time")
    if not budget_s:
        return Missing(code="not_asked", why="nobody asked for it", cure="--finals")
    if len(finalists) < 2:
        return Missing(code="one_point", why="there are no two points to hold against each other")
    points = {_name(one): point_of(bench.space, one.params, bench.request.seed) for one in finalists}
    if len({point.batch_size for point in points.values()}) > 1:
        return Missing(code="other_batch", why="the best points have different batch sizes")
    bundles = {_name(one): bench.folder / one.folder / (one.bundle or "") for one in finalists}
    imported = {name: intake.model(str(path), f"final-{path.name}") for name, path in bundles.items()}
    place = bench.folder / FINALS

    def start(restart: int, heat: int, name: str, control: bool) -> Dialogue:  # noqa: ARG001 - as contests call it
        folder = place / f"{name.replace(' ', '-')}{'-again' if control else ''}"
        return _dialogue(bench, imported[name], points[name].threads, name, folder)

    found = hold(
        start,
        [Entrant(name=name, uniform=True, counts=True) for name in points],
        ContestPlan(
            objective="latency",
            budget_s=budget_s,
            block_s=_BLOCK_S,
            restarts=_MOST_RESTARTS,
            most_live=_MOST_LIVE,
            memory_limit_bytes=psutil.virtual_memory().available // 2,
            level=_LEVEL,
            seed=bench.request.seed,
        ),
        clock=MonotonicClock(),
        watch=lambda label, fraction: bench.watch(f"the best again: {label.partition(':')[0]}", fraction),
    )
    return found if isinstance(found, Missing) else Finals(contest=found[0])


def _name(trial: Trial) -> str:
    return f"trial {trial.number}"


def _dialogue(bench: Bench, imported: ImportResult, threads: int, name: str, folder: Path) -> Dialogue:
    (folder / OUTPUTS).unlink(missing_ok=True)  # of the restart before
    assert imported.model.artefact is not None
    job = Job(
        engine=imported.model.artefact.engine,
        precision="auto",
        model=imported.model,
        files=imported.files,
        device=bench.target.device,
        settings=RunSettings(
            mode="latency",
            threads=threads,
            streams=1,
            cpus=pinned_cpus(bench.target, threads),
            warmup=StopRule(name="duration", settings={"seconds": _WARMUP_S, "min_count": 4}),
            stop=StopRule(name="count", settings={"count": 1}),
            layers=False,
            meter="none",
            seed=bench.request.seed,
        ),
    )
    return Dialogue(
        "hwbench.measure.block_worker",
        job,
        folder=folder,
        what=name,
        failure=EngineError,
        timeout_s=bench.request.timeout_s,
        env=thread_limits(threads),
    )


def _latency(bench: Bench, trial: Trial, where: Path) -> LatencySummary:
    if trial.bundle is None:
        raise EngineError(f"trial {trial.number} has no bundle")
    point = point_of(bench.space, trial.params, bench.request.seed)
    measured = bench.timed(bench.folder / trial.folder / trial.bundle, where, point.threads, bench.request.timing)
    if not isinstance(measured.latency, LatencySummary):
        raise EngineError(str(measured.latency))
    return measured.latency
