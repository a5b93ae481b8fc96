"""The story of a comparison, beside :mod:`hwbench.pipeline`: the only other module that knows the stages.

    two saved results:  choose -> refuse what cannot be compared -> a verdict a metric
    two models:         find the device -> bring both in -> restarts of three processes, blocks in random order
                        -> look, stop early when settled -> a verdict a metric

Nothing here renders anything.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from hwbench.children import thread_limits
from hwbench.compare.blocks import PROCESSES, Watch, interleave, restarts_in
from hwbench.compare.goals import refuse_missing, with_goals
from hwbench.compare.metrics import NEVER_LIVE, NO_DATA, one_off, verdicts
from hwbench.compare.saved import Choice, choose, compare_saved, hindrances
from hwbench.compare.sides import (
    ALREADY_BUILT,
    LIVE_FACTS,
    OTHER_INPUTS,
    Contender,
    any_built,
    built_by,
    compared,
    live_facts,
    share_inputs,
    side,
)
from hwbench.compare.verdict import looks
from hwbench.compare.wanted import Waived, Wanted
from hwbench.devices import environment
from hwbench.dialogue import Dialogue
from hwbench.errors import EngineError, Interrupted, InvalidMeasurement, UsageError
from hwbench.graph.spec import parse_spec
from hwbench.intake import Intake
from hwbench.inventory import (
    Target,
    able_engine,
    default_threads,
    find_target,
    first_engine,
    precisions_for,
    refuse_precisions,
)
from hwbench.measure.job import OUTPUTS, Job
from hwbench.measure.parity import compare_outputs
from hwbench.protocols import Engine
from hwbench.records.base import Missing, Record
from hwbench.records.comparison import (
    COMPARISON_SCHEMA,
    AccuracyChange,
    BlockProcess,
    Comparison,
    Difference,
    Goal,
    Interleaved,
    Outputs,
    Pair,
    Plan,
    Process,
    Saved,
    Settings,
)
from hwbench.records.measurement import Parity, ProfileResult, RunSettings, StopRule
from hwbench.records.model import DataFacts, ImportResult
from hwbench.records.verification import (
    RunJob,
    RunResult,
    ScoreJob,
    ScoreResult,
)
from hwbench.units import MonotonicClock

R = TypeVar("R", bound=Record)

_NOT_YET = frozenset({"one_process", "too_few_samples"})  # more restarts may still give these metrics
_WARMUP_SHARE = 0.005  # of the budget, for each process
_NOT_YET_COMPARED = Missing(code="not_yet", why="the first restart is not finished")


def compare_results(
    given: tuple[str, str],
    results: tuple[ProfileResult, ProfileResult],
    choice: Choice,
    settings: Settings,
    *,
    goals: Sequence[Goal] = (),
    waived: Waived,
) -> Comparison:
    """Compare two saved results.

    Raises:
        UsageError: what was named is not in them.
        InvalidMeasurement: they cannot be compared, one is invalid, or a goal's metric is missing.
    """
    a, b = results
    pairs = [
        with_goals(compare_saved(one, other, choice, settings, ignore=waived.ignore, force=waived.force), goals)
        for one, other in choose(given, a, b, choice)
    ]
    warnings = ["the two runs were not interleaved: whatever changed on the machine between them is in the ratios"]
    if a.run_id == b.run_id:
        warnings.append("both sides are one and the same run")
    return Comparison(
        schema_version=COMPARISON_SCHEMA,
        created_at=_now(),
        given_a=given[0],
        given_b=given[1],
        device=b.device,
        environment=b.environment,
        settings=settings,
        source=Saved(a_run=a.run_id, b_run=b.run_id),
        pairs=tuple(pairs),
        warnings=tuple(warnings),
    )


def compare_models(
    wanted: Wanted, settings: Settings, *, goals: Sequence[Goal] = (), waived: Waived, watch: Watch
) -> Comparison:
    """Measure two models beside each other.

    The workers' logs are kept only when something fails.

    Raises:
        UsageError: models, engines or precisions that do not exist or do not fit together.
        InvalidMeasurement: the two cannot be compared, or a goal's metric is missing.
        HwbenchError: a model, the device or an engine failed.
        Interrupted: Ctrl-C; nothing is kept.
    """
    never = NEVER_LIVE if wanted.data is not None else {**NEVER_LIVE, "accuracy": NO_DATA}
    refuse_missing(goals, never, "models that are measured now")
    for model in (wanted.model_a, wanted.model_b):
        parse_spec(model)
    target = find_target(wanted.device)
    folder = Path(tempfile.mkdtemp(prefix="hwbench-compare-"))
    try:
        comparison = _Live(wanted, settings, goals, waived, watch, target, folder).run()
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise Interrupted("stopped by Ctrl-C", hint="a comparison is settled as a whole: nothing was kept") from None
    except (UsageError, InvalidMeasurement):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return comparison


class _Live:
    """One run of :func:`compare_models`."""

    def __init__(
        self,
        wanted: Wanted,
        settings: Settings,
        goals: Sequence[Goal],
        waived: Waived,
        watch: Watch,
        target: Target,
        folder: Path,
    ) -> None:
        self.wanted = wanted
        self.settings = settings
        self.goals = goals
        self.waived = waived
        self.watch = watch
        self.target = target
        self.folder = folder
        self.threads = wanted.threads or default_threads(target)
        self.intake = Intake(
            folder=folder,
            watch=lambda what, fraction: watch(what, fraction or 0.0),
            threads=self.threads,
            timeout_s=wanted.timeout_s,
            seed=settings.seed,
        )

    def run(self) -> Comparison:
        self.a, self.b = self._sides()
        self.hindering = self._hindering()
        self.outputs = Outputs(b=_NOT_YET_COMPARED, control=_NOT_YET_COMPARED)
        self.accuracy = self._accuracy(self.wanted.data) if self.wanted.data is not None else NO_DATA
        clock = MonotonicClock()
        begun = clock.now_ns()
        processes, looked = interleave(
            self._start,
            self,
            budget_s=self.wanted.budget_s,
            block_s=self.wanted.block_s,
            seed=self.settings.seed,
            clock=clock,
            watch=self.watch,
        )
        elapsed_s = (clock.now_ns() - begun) / 1e9
        pair = with_goals(self._pair(processes, looked - 1), self.goals)
        return Comparison(
            schema_version=COMPARISON_SCHEMA,
            created_at=_now(),
            given_a=self.wanted.model_a,
            given_b=self.wanted.model_b,
            device=self.target.device,
            environment=environment.capture(),
            settings=self.settings,
            source=Interleaved(plan=self.planned, processes=processes, looked=looked, elapsed_s=elapsed_s),
            pairs=(pair,),
            warnings=self._warnings(elapsed_s),
        )

    def _sides(self) -> tuple[Contender, Contender]:
        wanted, choice = self.wanted, self.wanted.choice
        imported_a = self._import(wanted.model_a, "a")
        imported_b = imported_a if wanted.model_b == wanted.model_a else self._import(wanted.model_b, "b")
        imported_b = share_inputs(imported_a, imported_b)
        refuse_precisions(imported_a, [choice.precision_a] if choice.precision_a else [])
        refuse_precisions(imported_b, [choice.precision_b] if choice.precision_b else [])
        name_a, name_b = self._names(imported_a, imported_b)
        engine_a, engine_b = (
            able_engine(name, imported, self.target.device)
            for name, imported in ((name_a, imported_a), (name_b, imported_b))
        )
        precision_a, precision_b = self._precisions((engine_a, imported_a), (engine_b, imported_b))
        return (
            Contender(given=wanted.model_a, imported=imported_a, engine=name_a, precision=precision_a),
            Contender(given=wanted.model_b, imported=imported_b, engine=name_b, precision=precision_b),
        )

    def _names(self, a: ImportResult, b: ImportResult) -> tuple[str, str]:
        """Return the engines: those asked for, that of a side that is built, or one that can run what is left."""
        choice, device = self.wanted.choice, self.target.device
        of_a, of_b = choice.engine_a or built_by(a), choice.engine_b or built_by(b)
        if of_a is None:
            of_a = first_engine([a], device, of_b) if built_by(b) is not None else first_engine([a, b], device)
        return of_a, of_b or (first_engine([b], device, of_a) if built_by(a) is not None else of_a)

    def _precisions(self, a: tuple[Engine, ImportResult], b: tuple[Engine, ImportResult]) -> tuple[str, str]:
        """Return the precisions: those asked for, ``auto`` of a side that is built, or one that both offer."""
        choice, device = self.wanted.choice, self.target.device
        offered_a, offered_b = (precisions_for(engine, imported, device, ()) for engine, imported in (a, b))
        if built_by(a[1]) is not None or built_by(b[1]) is not None:
            return choice.precision_a or offered_a[0], choice.precision_b or offered_b[0]
        common = [precision for precision in offered_a if precision in offered_b]
        if not common and not (choice.precision_a and choice.precision_b):
            raise UsageError(
                f"{a[0].name} and {b[0].name} have no default precision in common", hint="name them: --precision-a, -b"
            )
        precision_a = choice.precision_a or choice.precision_b or common[0]
        return precision_a, choice.precision_b or precision_a

    def _import(self, model: str, side: str) -> ImportResult:
        return self.intake.model(model, f"model-{side}", batch_size=self.wanted.batch_size, shapes=self.wanted.shapes)

    def _hindering(self) -> tuple[Difference, ...]:
        named = {"precision"} if self.wanted.choice.other_precisions else set()
        waived = frozenset(LIVE_FACTS) if self.waived.force else self.waived.ignore | named
        return hindrances(*live_facts(self.a, self.b), waived)

    def plan(self, shortest_s: float) -> Plan:
        """Settle on a plan: see :class:`hwbench.compare.blocks.Judge`."""
        wanted = self.wanted
        restarts = wanted.restarts or restarts_in(wanted.budget_s, shortest_s)
        when, levels = looks(restarts)
        self.planned = Plan(
            threads=self.threads,
            cpus=self._cpus(),
            batch_size=wanted.batch_size,
            budget_s=wanted.budget_s,
            restarts=restarts,
            block_s=wanted.block_s,
            warmup_s=self._warmup_s(),
            meter=wanted.meter,
            looks=when,
            levels=levels,
            timeout_s=wanted.timeout_s,
        )
        return self.planned

    def _cpus(self) -> tuple[int, ...]:
        cores, cpu = self.target.cores, self.target.device.cpu
        every = cpu.usable_cpus if cpu is not None else ()
        return cores[: self.threads] if self.threads <= len(cores) else every

    def _warmup_s(self) -> float:
        return min(1.0, max(0.1, _WARMUP_SHARE * self.wanted.budget_s))

    def _start(self, restart: int, process: Process) -> Dialogue:
        side = self.b if process == "b" else self.a
        for outputs in (self.folder / f"restart-{restart}").glob(f"*/{OUTPUTS}"):
            outputs.unlink()  # of the restart before: they may be large
        job = Job(
            engine=side.engine,
            precision=side.precision,
            model=side.imported.model,
            files=side.imported.files,
            device=self.target.device,
            settings=RunSettings(
                mode="latency",
                threads=self.threads,
                streams=1,
                cpus=self._cpus(),
                warmup=StopRule(name="duration", settings={"seconds": self._warmup_s(), "min_count": 4}),
                stop=StopRule(name="count", settings={"count": 1}),
                layers=False,
                meter=self.wanted.meter,
                seed=self.settings.seed,
            ),
        )
        return Dialogue(
            "hwbench.measure.block_worker",
            job,
            folder=self.folder / f"restart-{restart + 1}" / process,
            what=f"{process} ({side.engine} {side.precision})",
            failure=EngineError,
            timeout_s=self.wanted.timeout_s,
            env=thread_limits(self.threads),
        )

    def check(self, processes: Sequence[BlockProcess]) -> None:
        """Compare the outputs, and refuse goals whose metric will not be there."""
        a, again, b = (self.folder / "restart-1" / process / OUTPUTS for process in PROCESSES)
        precision = processes[0].run.built.precision
        same = self.a.imported.model.inputs_sha256 == self.b.imported.model.inputs_sha256
        self.outputs = Outputs(
            b=compare_outputs(a, b, label="A", precision=precision) if same else OTHER_INPUTS,
            control=compare_outputs(a, again, label="A", precision=precision),
        )
        lasting = {
            name: reason for name, reason in self._pair(processes, 0).absent.items() if reason.code not in _NOT_YET
        }
        refuse_missing(self.goals, lasting, "these models")

    def settled(self, processes: Sequence[BlockProcess], look: int) -> bool:
        """Say whether the verdict on speed and all goals are clear; the last look ends it anyway."""
        pair = self._pair(processes, look)
        if any(goal.metric in pair.absent for goal in self.goals):
            return False
        pair = with_goals(pair, self.goals)
        speed = pair.headline
        told = speed is not None and speed.word != "INCONCLUSIVE"
        timed = [outcome for outcome in pair.goals if outcome.goal.metric != "accuracy"]  # time tells no more of that
        return told and all(outcome.status != "unknown" for outcome in timed)

    def _pair(self, processes: Sequence[BlockProcess], look: int) -> Pair:
        found, absent = verdicts(processes, self.settings, self.planned, 1 - self.planned.levels[look])
        if isinstance(self.accuracy, Missing):
            absent["accuracy"] = self.accuracy
        a, b = (side(ready, processes, role, created_at=_now()) for ready, role in ((self.a, "a"), (self.b, "b")))
        label_a, label_b = f"{a.engine} {a.built.precision}", f"{b.engine} {b.built.precision}"
        return Pair(
            label=label_a if label_a == label_b else f"{label_a} against {label_b}",
            a=a,
            b=b,
            verdicts=found,
            absent=absent,
            one_off=one_off(processes),
            differences=(*self.hindering, *compared(a, b)),
            outputs=self.outputs,
            accuracy=self.accuracy,
        )

    def _accuracy(self, data: str) -> AccuracyChange | Missing:
        """Run both built networks over labelled samples, the same ones.

        Raises:
            UsageError: the data do not fit, or have no labels of classes.
        """
        runs = [self._over_samples(side, data, name) for side, name in ((self.a, "a"), (self.b, "b"))]
        (_, facts), _ = runs
        judged = self.intake.run(
            "hwbench.verify.score",
            ScoreJob(
                folder=str(runs[1][0]),
                reference_folder=str(runs[0][0]),
                data_folder=str(self.folder / "data-b"),
                labels=True,
                task="classification",
                metric=None,
                max_drop=0.0,
                seed=self.settings.seed,
            ),
            ScoreResult,
            "accuracy",
            "comparing accuracy",
            EngineError,
        )
        found = judged.certificate
        if isinstance(found, Missing):
            return found
        assert not isinstance(found.worse, Missing)
        assert not isinstance(found.better, Missing)
        b = judged.scores[0].value
        return AccuracyChange(
            data=data,
            data_sha256=facts.sha256,
            n=found.n,
            a=b + found.drop,
            b=b,
            difference=-found.drop,
            low=-found.high,
            high=-found.low,
            lost=found.worse,
            won=found.better,
        )

    def _over_samples(self, side: Contender, data: str, name: str) -> tuple[Path, DataFacts]:
        model = side.imported.model
        read = self.intake.data(data, model, f"data-{name}")
        if not read.facts.labels:
            raise UsageError(f"'{data}' has no labels, and accuracy needs them", hint="add 'labels', a class a sample")
        job = RunJob(
            engine=side.engine,
            precision=side.precision,
            model=model,
            files=side.imported.files,
            device=self.target.device,
            data_folder=read.folder,
            samples=read.facts.samples,
            expose=False,
            threads=self.threads,
            cpus=self._cpus(),
        )
        where, what = f"samples-{name}", f"{name.upper()} over the data"
        self.intake.run("hwbench.verify.run", job, RunResult, where, what, EngineError)
        return self.folder / f"samples-{name}", read.facts

    def _warnings(self, elapsed_s: float) -> tuple[str, ...]:
        found = [ALREADY_BUILT] if any_built(self.a, self.b) else []
        if elapsed_s > 1.2 * self.planned.budget_s:
            found.append(
                f"this took {elapsed_s:.0f} s instead of {self.planned.budget_s:.0f} s: so many restarts of five "
                "rounds each need that long"
            )
        control = self.outputs.control
        if isinstance(control, Parity) and control.max_absolute > 0:
            found.append(
                f"A's outputs differ between two of its processes by up to {control.max_absolute:.3g}: "
                "it is not deterministic"
            )
        if self.planned.restarts == 1:
            found.append("one restart: what a fresh process changes is known from A's two processes alone")
        return tuple(found)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
