"""One run of :func:`hwbench.optimization_pipeline.optimize`, stage by stage."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from hwbench.devices import environment
from hwbench.errors import HwbenchError, Interrupted, ModelError, StorageError, UsageError
from hwbench.files import decode, read_bytes, write_record
from hwbench.intake import Intake, Watch
from hwbench.inventory import Target
from hwbench.optimization_pipeline import aims, ending, saving
from hwbench.optimization_pipeline.candidates import Workshop
from hwbench.optimization_pipeline.judging import Eligibility, Judge
from hwbench.optimization_pipeline.kept import Kept, plain
from hwbench.optimization_pipeline.making import Maker
from hwbench.optimization_pipeline.parts import divide
from hwbench.optimization_pipeline.proposer import Given, Proposer, ProposerOf
from hwbench.optimization_pipeline.rounds import FINAL, ROUNDS, Loop
from hwbench.optimization_pipeline.timing import Timer
from hwbench.records.base import Missing
from hwbench.records.contest import Contest
from hwbench.records.goals import PlanGoalOutcome
from hwbench.records.model import ImportResult
from hwbench.records.optimization import (
    OPTIMIZATION_SCHEMA,
    Baselines,
    Candidate,
    Made,
    OptimizationResult,
    OptimizeRequest,
    Parts,
    Round,
    Scored,
    Verdicts,
)
from hwbench.records.verification import ScoreResult
from hwbench.units import MonotonicClock

_LOOP = (*(f"round {number}" for number in range(1, ROUNDS + 1)), "swaps")
STAGES = ("model", "data", "baselines", *_LOOP, FINAL, "certificate")
_CONTEST_SHARE = 0.2  # of the time budget, at least, for the contest that chooses
_FAR = 2.0  # who was so many times slower than the best that counted in its round is not timed again
_FAILED = "planner-failed"
_NO_PLANNER = "there was no planner: uniform precisions alone were compared"


class Optimization:
    """One run: what it does is kept stage by stage."""

    def __init__(
        self, request: OptimizeRequest, folder: Path, target: Target, watch: Watch, planner: ProposerOf | None
    ) -> None:
        self.request, self.folder, self.target, self.watch = request, folder, target, watch
        work = (folder / saving.WORK).resolve()
        self.kept = Kept(work, request, STAGES, MonotonicClock(), watch)
        self.intake = Intake(
            folder=work, watch=watch, threads=request.threads, timeout_s=request.timeout_s, seed=request.seed
        )
        self.maker = Maker(request, target, self.intake, self.kept)
        self.judge = Judge(request, target, self.intake, self.kept)
        self.timer = Timer(request, target, work, watch)
        self.planner_of = planner

    def run(self) -> OptimizationResult:
        """Carry the stages out that are not done yet, and save what follows."""
        try:
            found = self._found()
        finally:
            self.kept.save()
        return saving.save(found, self.folder, self.kept.folder)

    def _found(self) -> OptimizationResult:
        kept = self.kept
        imported = kept.stage("model", ImportResult, self._model)
        self.arithmetic = imported.model.arithmetic
        parts = kept.stage(
            "data", Parts, lambda: divide(self.request, imported.model, self.intake, kept.folder / "parts")
        )
        self.maker.prepare(imported, parts)
        original = self.judge.prepare(imported, parts)
        self._allow(aims.settled_drop(self.request.goals, self.request.max_drop, original.scores))
        workshop = Workshop(self.request, self.maker, self.judge, kept)
        baselines = kept.stage("baselines", Baselines, workshop.baselines)
        eligibility = Eligibility(self.request.max_drop, baselines.candidates)
        loop = Loop(workshop, self.timer, kept, eligibility, baselines.candidates)
        if self.planner_of is not None:
            self._planned(self.planner_of, imported, parts, loop)
        kept.skip(*_LOOP)
        contest = kept.stage(FINAL, Contest, lambda: self._contest(loop))
        verdicts = kept.stage("certificate", Verdicts, lambda: self._certified(contest, loop, imported, parts))
        return self._result(imported, parts, original, baselines, loop, contest, verdicts)

    def _model(self) -> ImportResult:
        imported = self.maker.bring_in()
        if imported.model.artefact is not None:
            raise UsageError(f"'{self.request.model}' is a built engine", hint="optimize the model it was built from")
        if imported.files.no_graph is not None:
            raise ModelError(imported.files.no_graph.why, hint=imported.files.no_graph.cure)
        return imported

    def _planned(self, planner_of: ProposerOf, imported: ImportResult, parts: Parts, loop: Loop) -> None:
        """Do the rounds; where planning fails, the candidates that are there already go on without it."""
        told = self.kept.folder / f"{_FAILED}.json"
        if not loop.over:
            told.unlink(missing_ok=True)  # of an earlier run: what was in the way may be gone
        try:
            with contextlib.closing(self._planner(planner_of, imported, parts, loop.candidates)) as planner:
                loop.run(planner)
        except (StorageError, Interrupted):
            raise
        except HwbenchError as error:
            write_record(told, Missing(code="planner_failed", why=error.message, cure=error.hint))

    def _planner(
        self, planner_of: ProposerOf, imported: ImportResult, parts: Parts, baselines: list[Candidate]
    ) -> Proposer:
        self.watch("planning", None)
        return planner_of(
            Given(
                request=self.request,
                target=self.target,
                imported=imported,
                parts=parts,
                baselines=tuple(baselines),
                folder=self.kept.folder / "planning",
                left_s=self.kept.left_s,
                watch=self.watch,
            )
        )

    def _contest(self, loop: Loop) -> Contest:
        """Time all that count, in one run; where nothing does, all that were built; uniform ones in any case.

        The best uniform one of each round is timed however far behind it is: what is chosen is held against it.
        """
        made = [each for each in loop.candidates if isinstance(each.made, Made)]
        always = {ending.careful(loop.candidates, self.arithmetic, loop.rounds)}
        always |= {done.contest.best_uniform for done in loop.rounds if isinstance(done.contest, Contest)}
        slow_too = any(goal.metric not in {"accuracy", self.request.measured} for goal in self.request.goals)
        slow_too |= self.request.objective == "accuracy"
        near = [each for each in made if slow_too or each.name in always or not _far(each, loop.rounds)]
        timed = [each for each in near if each.counts] or near
        if not any(each.uniform for each in timed):
            timed += [each for each in made if each.uniform]
        budget_s = max(_CONTEST_SHARE * self.request.time_budget_s, 0.8 * self.kept.left_s)
        return self.timer.contest(timed, budget_s, "final-contest")

    def _allow(self, max_drop: float) -> None:
        """Take what may be lost, with goals of accuracy held against the original's."""
        self.request = msgspec.structs.replace(self.request, max_drop=max_drop)
        self.judge.request = self.request

    def _certified(self, contest: Contest, loop: Loop, imported: ImportResult, parts: Parts) -> Verdicts:
        def score(candidate: Candidate) -> Scored:
            assert isinstance(candidate.made, Made)
            return self.judge.score(plain(candidate.name), candidate.made, parts.certify)

        self.judge.reference(parts.certify)  # where the original itself fails, nobody can be certified
        careful = ending.careful(loop.candidates, self.arithmetic, loop.rounds)
        values = ending.values_of(contest, loop.rounds)
        missed = aims.by_candidate(
            self.request.goals,
            loop.candidates,
            aims.as_it_came(loop.candidates, imported.model.arithmetic, values),
            ending.measured_of(contest, loop.rounds),
            self.request.objective,
            _batch(imported),
        )
        accurate = self.request.objective == "accuracy"
        return ending.certify(
            contest, loop.candidates, self.request.max_drop, score, careful, missed, accurate=accurate
        )

    def _result(
        self,
        imported: ImportResult,
        parts: Parts,
        original: ScoreResult,
        baselines: Baselines,
        loop: Loop,
        contest: Contest,
        verdicts: Verdicts,
    ) -> OptimizationResult:
        values = ending.values_of(contest, loop.rounds)
        goals = self._held(imported, parts, loop, contest, verdicts)
        return OptimizationResult(
            schema_version=OPTIMIZATION_SCHEMA,
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            request=self.request,
            environment=environment.capture(),
            device=self.target.device,
            model=imported.model,
            parts=parts,
            task=original.task,
            original=original.scores,
            candidates=tuple(loop.candidates),
            not_built=baselines.not_built,
            rounds=tuple(loop.rounds),
            contest=contest,
            verdicts=verdicts,
            goals=goals,
            word=ending.outcome(verdicts, goals),
            bundle=saving.BUNDLE,
            pareto=ending.pareto(loop.candidates, values),
            binding=(
                *ending.binding(verdicts, loop.candidates, values, self.request.max_drop),
                *ending.missed(goals),
            ),
            stages=tuple(self.kept.stages.values()),
            took_s=self.kept.spent_s,
            warnings=self._warnings(imported),
        )

    def _held(
        self,
        imported: ImportResult,
        parts: Parts,
        loop: Loop,
        contest: Contest,
        verdicts: Verdicts,
    ) -> tuple[PlanGoalOutcome, ...]:
        """Hold the goals against what was chosen, on the samples that chose nothing."""
        if not self.request.goals:
            return ()
        last = verdicts.certified[-1]
        chosen = next(each for each in loop.candidates if each.name == last.entrant)
        values = ending.values_of(contest, loop.rounds)
        before = aims.as_it_came(loop.candidates, imported.model.arithmetic, values)
        scores = self.judge.reference(parts.certify).scores
        return aims.held(
            self.request.goals,
            (chosen, last.found),
            (before, scores),
            ending.measured_of(contest, loop.rounds),
            _batch(imported),
        )

    def _warnings(self, imported: ImportResult) -> tuple[str, ...]:
        found = list(imported.model.warnings)
        if self.planner_of is None:
            found.append(_NO_PLANNER)
        told = self.kept.folder / f"{_FAILED}.json"
        if told.exists():
            reason = decode(read_bytes(told), Missing, what=str(told))
            found.append(f"planning failed, and the run went on with what was built by then: {reason}")
        if imported.model.weights == "untrained":
            found.append("this network is untrained: its accuracy says nothing, agreement with the original does")
        return tuple(found)


def _batch(imported: ImportResult) -> int:
    batch = imported.model.batch_size
    return batch if isinstance(batch, int) else 1


def _far(candidate: Candidate, rounds: Sequence[Round]) -> bool:
    """Say whether a round has shown a candidate to be far slower than the best that counted there."""
    for done in rounds:
        standing = None if isinstance(done.contest, Missing) else done.contest.standing(candidate.name)
        if standing is not None and isinstance(done.contest, Contest):
            counting = [each.value for each in done.contest.standings if each.counts]
            if counting and standing.value > _FAR * min(counting):
                return True
    return False
