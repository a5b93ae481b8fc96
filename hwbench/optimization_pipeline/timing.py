"""Contests between bundles: each in a process of its own that is kept alive and asked."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from hwbench.children import thread_limits
from hwbench.compare.contest import hold
from hwbench.dialogue import Dialogue
from hwbench.errors import EngineError, UsageError
from hwbench.files import write_record
from hwbench.intake import Watch
from hwbench.inventory import Target, pinned_cpus
from hwbench.measure.job import OUTPUTS, Job
from hwbench.records.base import Missing, Record
from hwbench.records.contest import Contest, ContestPlan, Entrant, Seat
from hwbench.records.measurement import RunSettings, StopRule
from hwbench.records.optimization import Candidate, Made, OptimizeRequest
from hwbench.units import MonotonicClock

_BLOCK_S = 0.1
_WARMUP_S = 0.2
_MOST_LIVE = 8
_LEVEL = 0.05
_MOST_RESTARTS = 30


class Seats(Record, frozen=True, kw_only=True):
    """Everything that was seen in a contest."""

    seats: tuple[Seat, ...]


class Timer:
    """Holds contests."""

    def __init__(self, request: OptimizeRequest, target: Target, folder: Path, watch: Watch) -> None:
        self.request, self.target, self.folder, self.watch = request, target, folder, watch

    def contest(
        self, candidates: Sequence[Candidate], budget_s: float, where: str, restarts: int = _MOST_RESTARTS
    ) -> Contest:
        """Time candidates that were made beside each other, two at least, one of them uniform.

        Raises:
            UsageError: the objective cannot be measured here.
            EngineError: a process failed.
        """
        request, place = self.request, self.folder / where
        shutil.rmtree(place, ignore_errors=True)
        made = {each.name: each.made for each in candidates if isinstance(each.made, Made)}
        entrants = [Entrant(name=each.name, uniform=each.uniform, counts=each.counts) for each in candidates]
        plan = ContestPlan(
            objective=request.objective,
            budget_s=max(1.0, budget_s),
            block_s=_BLOCK_S,
            restarts=restarts,
            most_live=_MOST_LIVE,
            memory_limit_bytes=request.memory_limit_bytes,
            level=_LEVEL,
            seed=request.seed,
        )

        def start(restart: int, heat: int, name: str, control: bool) -> Dialogue:  # noqa: ARG001 - names are unique
            return self._dialogue(made[name], name, place / f"{_plain(name)}{'-again' if control else ''}")

        found = hold(
            start,
            entrants,
            plan,
            clock=MonotonicClock(),
            watch=lambda label, fraction: self.watch(f"{where}: {label.partition(':')[0]}", fraction),
        )
        if isinstance(found, Missing):
            raise UsageError(
                f"the objective '{request.objective}' cannot be measured here: {found.why}", hint=found.cure
            )
        contest, seats = found
        shutil.rmtree(place, ignore_errors=True)
        write_record(self.folder / f"{where}-seen.json", Seats(seats=seats))
        return contest

    def _dialogue(self, made: Made, name: str, folder: Path) -> Dialogue:
        (folder / OUTPUTS).unlink(missing_ok=True)  # of the restart before: they may be large
        request, imported = self.request, made.imported
        job = Job(
            engine=made.engine.artefact.engine,
            precision="auto",
            model=imported.model,
            files=imported.files,
            device=self.target.device,
            settings=RunSettings(
                mode="latency",
                threads=request.threads,
                streams=1,
                cpus=pinned_cpus(self.target, request.threads),
                warmup=StopRule(name="duration", settings={"seconds": _WARMUP_S, "min_count": 4}),
                stop=StopRule(name="count", settings={"count": 1}),
                layers=False,
                meter="auto" if request.objective == "energy" else "none",
                seed=request.seed,
            ),
        )
        return Dialogue(
            "hwbench.measure.block_worker",
            job,
            folder=folder,
            what=name,
            failure=EngineError,
            timeout_s=request.timeout_s,
            env=thread_limits(request.threads),
        )


def _plain(name: str) -> str:
    return name.replace(" ", "-").replace("/", "-")
