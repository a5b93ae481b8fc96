"""Contests between bundles: each in a process of its own that is kept alive and asked."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from hwbench.children import thread_limits
from hwbench.compare.contest import hold
from hwbench.dialogue import Dialogue
from hwbench.energy.choose import shortest_window_s
from hwbench.errors import EngineError, HwbenchError, Interrupted, StorageError, UsageError
from hwbench.files import write_record
from hwbench.intake import Watch
from hwbench.inventory import Target, pinned_cpus
from hwbench.measure.job import OUTPUTS, Job
from hwbench.optimization_pipeline.kept import plain
from hwbench.records.base import Missing, Record
from hwbench.records.contest import Contest, ContestPlan, Entrant, Seat
from hwbench.records.measurement import RunSettings, StopRule
from hwbench.records.optimization import Candidate, Made, OptimizeRequest
from hwbench.units import MonotonicClock

R = TypeVar("R", bound=Record)

_BLOCK_S = 0.1
_WARMUP_S = 0.2
_MOST_LIVE = 8
_LEVEL = 0.05
_MOST_RESTARTS = 30


class Seats(Record, frozen=True, kw_only=True):
    """Everything that was seen in a contest."""

    seats: tuple[Seat, ...]


class _Told(Dialogue):
    """A dialogue that says whose it was when it fails."""

    def __init__(
        self,
        module: str,
        job: Record,
        *,
        failed: set[str],
        folder: Path,
        what: str,
        failure: type[HwbenchError],
        timeout_s: float,
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(module, job, folder=folder, what=what, failure=failure, timeout_s=timeout_s, env=env)
        self._failed, self._name = failed, what

    def hear(self, kind: type[R]) -> R:
        with self._noted():
            return super().hear(kind)

    def finish(self, kind: type[R]) -> R:
        with self._noted():
            return super().finish(kind)

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except HwbenchError:
            self._failed.add(self._name)
            raise


class Timer:
    """Holds contests."""

    def __init__(self, request: OptimizeRequest, target: Target, folder: Path, watch: Watch) -> None:
        self.request, self.target, self.folder, self.watch = request, target, folder, watch

    def contest(
        self, candidates: Sequence[Candidate], budget_s: float, where: str, restarts: int = _MOST_RESTARTS
    ) -> Contest:
        """Time candidates that were made beside each other, two at least, one of them uniform.

        Whoever fails is left out, and the contest is held again, in what is left of its time; its notes say so.

        Raises:
            UsageError: the objective cannot be measured here.
            HwbenchError: every uniform candidate failed.
        """
        clock, left, notes = MonotonicClock(), list(candidates), list[str]()
        begun_ns = clock.now_ns()
        while True:
            failed: set[str] = set()
            try:
                spent_s = (clock.now_ns() - begun_ns) / 1e9
                found = self._held(left, max(1.0, budget_s - spent_s), where, restarts, failed)
            except (StorageError, Interrupted):
                raise
            except HwbenchError as error:
                left = [each for each in left if each.name not in failed]
                if not failed or not any(each.uniform for each in left):
                    raise
                notes += [f"{name} was left out, since it failed: {error.message}" for name in sorted(failed)]
            else:
                return msgspec.structs.replace(found, notes=(*found.notes, *notes))

    def _held(
        self, candidates: Sequence[Candidate], budget_s: float, where: str, restarts: int, failed: set[str]
    ) -> Contest:
        """Hold one contest; a name goes into ``failed`` where its process fails."""
        request, place = self.request, self.folder / where
        shutil.rmtree(place, ignore_errors=True)
        made = {each.name: each.made for each in candidates if isinstance(each.made, Made)}
        entrants = [Entrant(name=each.name, uniform=each.uniform, counts=each.counts) for each in candidates]
        plan = ContestPlan(
            objective=request.measured,
            budget_s=budget_s,
            block_s=max(_BLOCK_S, shortest_window_s("auto", self.target.device) if request.needs_energy else 0.0),
            restarts=restarts,
            most_live=_MOST_LIVE,
            memory_limit_bytes=request.memory_limit_bytes,
            level=_LEVEL,
            seed=request.seed,
        )

        def start(restart: int, heat: int, name: str, control: bool) -> Dialogue:  # noqa: ARG001 - names are unique
            folder = place / f"{plain(name)}{'-again' if control else ''}"
            return self._dialogue(made[name], name, folder, failed)

        found = hold(
            start,
            entrants,
            plan,
            clock=MonotonicClock(),
            watch=lambda label, fraction: self.watch(f"{where}: {label.partition(':')[0]}", fraction),
        )
        if isinstance(found, Missing):
            raise UsageError(f"{request.measured} cannot be measured here: {found.why}", hint=found.cure)
        contest, seats = found
        shutil.rmtree(place, ignore_errors=True)
        write_record(self.folder / f"{where}-seen.json", Seats(seats=seats))
        return contest

    def _dialogue(self, made: Made, name: str, folder: Path, failed: set[str]) -> Dialogue:
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
                meter="auto" if request.needs_energy else "none",
                seed=request.seed,
            ),
        )
        return _Told(
            "hwbench.measure.block_worker",
            job,
            failed=failed,
            folder=folder,
            what=name,
            failure=EngineError,
            timeout_s=request.timeout_s,
            env=thread_limits(request.threads),
        )
