"""One network planned for one device, and kept ready to be asked again."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import msgspec
import onnx_ir as ir

from hwbench.graph.onnx_file import infer_shapes
from hwbench.intake import Intake
from hwbench.inventory import Target
from hwbench.plan.goals import drop_of
from hwbench.plan.sites import space_of
from hwbench.planning_pipeline.energy import joules_of
from hwbench.planning_pipeline.exact import Base, simplified
from hwbench.planning_pipeline.found import Found
from hwbench.planning_pipeline.known import Known, Runtime
from hwbench.planning_pipeline.losses import Losses
from hwbench.planning_pipeline.meeting import Gauge, baseline_of, best_of_either, gauged, held, meeting, rank_of
from hwbench.planning_pipeline.solving import Solving
from hwbench.planning_pipeline.spaces import alternatives, kept, shared
from hwbench.planning_pipeline.unattached import claims, costing_of
from hwbench.planning_pipeline.ways import union
from hwbench.planning_pipeline.with_zeros import JoulesWithZeros
from hwbench.records.base import Missing
from hwbench.records.data import DataResult
from hwbench.records.plan import EnginePlan, Joint, NoPlan, PlanRequest
from hwbench.records.planning import Design, Space, SparseCost
from hwbench.sensitivity.masks import refused_widths
from hwbench.tables.edges import worthwhile
from hwbench.units import MonotonicClock


class Planner:
    """Plans one network. Use as a context manager: it keeps a process alive that runs whole designs."""

    def __init__(
        self,
        request: PlanRequest,
        target: Target,
        intake: Intake,
        folder: Path,
        learn: DataResult,
        judge: DataResult,
        space: Space | None = None,
    ) -> None:
        """Take what is known; nothing is done yet.

        Args:
            request: what is wanted.
            target: the device.
            intake: runs children.
            folder: kept between runs: the rewritten network, losses that were measured.
            learn: samples for ranges and statistics.
            judge: samples that losses are measured on.
            space: plan in exactly this one, of an earlier run; None: in what :func:`narrowed` leaves.
        """
        self.request, self.target, self.intake, self.folder = request, target, intake, folder
        self.learn, self.judge, self.given = learn, judge, space
        self.took_s: dict[str, float] = {}
        self._stack = contextlib.ExitStack()
        self._clock = MonotonicClock()
        self._solving_since_ns: int | None = None
        self._apart: dict[str, tuple[str, ...]] = {}  # by label, why a runtime has not all schemes in one front

    def __enter__(self) -> Planner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def prepare(self) -> None:
        """Find what can be chosen, what it costs, and what it loses.

        Raises:
            HwbenchError: the model fails, no runtime can be planned for, or losses cannot be measured.
        """
        request = self.request
        with self._timed("exact rewrites"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.base: Base = simplified(request, self.intake, self.folder)
            self.imported = self.intake.model(
                self.base.source, "base", batch_size=request.batch_size, shapes=request.shapes
            )
            hub = infer_shapes(ir.load(Path(self.imported.files.folder) / self.imported.files.hub))
        with self._timed("costs"):
            self.costing = costing_of(request, self.target, self.intake, self.imported, self.learn)
            runtimes = self.costing.runtimes()
            ways = self.costing.offers(hub, runtimes)
            whole = space_of(
                hub,
                self.imported.model.hub_sha256,
                kinds=request.kinds,
                exact=self.base.steps,
                refused=refused_widths(hub),
                ways=union(ways.values()),
            )
            self.costing.choose_in(whole, ways)
            calibration = self.costing.calibrate(runtimes)
            known = self.costing.know(runtimes, calibration)
            self.space = narrowed(whole, known) if self.given is None else self.given
            self.known = [replace(each, space=shared(self.space, each.space)) for each in known]
        with self._timed("losses"):
            self.losses = self._stack.enter_context(
                Losses(
                    request,
                    self.intake,
                    self.base,
                    self.space,
                    self.folder,
                    self.judge,
                    self.learn,
                    calibration,
                    engines=[each.runtime.engine for each in self.known],
                )
            )
        self._joint: dict[str, Joint | Missing] = {}
        self.joules = self._joules()
        self._before: dict[str, float | Missing] = {}

    def fronts(self) -> dict[str, Found]:
        """Solve for every runtime; by name of the engine, with the arithmetic where several were asked for."""
        with self._limited("solving"):
            return self._fronts()

    def _fronts(self) -> dict[str, Found]:
        found = {}
        for known in self.known:
            self.intake.watch(f"solving for {self._label(known)}", None)
            found[self._label(known)] = self._meeting(known, {})
        return found

    def again(self, label: str, gauges: Mapping[str, Gauge]) -> Found:
        """Solve once more for a runtime, with goals of what is measured as bounds of what is predicted.

        Args:
            label: of the runtime, as :meth:`fronts` has it.
            gauges: by quantity, what has been measured of it.
        """
        return self._meeting(next(known for known in self.known if self._label(known) == label), gauges)

    def after_training(self, found: Found) -> Found:
        """Solve for the same once more, with what designs lose after a training."""
        with self._limited("solving"):
            return found.after_training()

    def _meeting(self, known: Known, gauges: Mapping[str, Gauge]) -> Found:
        """Solve for one runtime with all goals; where its network may not mix two schemes, return the better front."""
        wanted = gauged(self.request.goals, self.before(), gauges, self._batch)
        accuracy = min((goal.priority for goal in self.request.goals if goal.metric == "accuracy"), default=1)
        spaces = alternatives(known.space, known.ways.one_of)
        fronts = [meeting(self._solving(known, each), wanted, accuracy) for each in spaces]
        self._apart[self._label(known)] = best_of_either(fronts, known.ways.one_of)
        return min(fronts, key=rank_of)

    def before(self) -> dict[str, float | Missing]:
        """Return what the network as it is takes, by metric, on the runtime that is predicted to be fastest with it."""
        if not self._before and self.request.goals:
            fastest = min(
                (self._solving(known, known.space) for known in self.known),
                key=lambda each: each.costs.predict(each.space, each.as_it_is).value,
            )
            self._before = baseline_of(fastest, self._batch)
        return self._before

    @property
    def _batch(self) -> int:
        size = self.imported.model.batch_size
        return size if isinstance(size, int) else 1

    def _joules(self) -> dict[Runtime, JoulesWithZeros]:
        """Return the energies of the parts; runtimes that nothing is known of are not planned for."""
        if not self.request.needs_energy:
            return {}
        found: dict[Runtime, JoulesWithZeros] = {}
        for known in self.known:
            joules = joules_of(known, known.space)
            if isinstance(joules, Missing):
                self.costing.failed[known.runtime.engine] = joules
            else:
                found[known.runtime] = joules
        self.known = [known for known in self.known if known.runtime in found]
        return found

    def plans(self) -> tuple[EnginePlan, ...]:
        """Solve for every runtime, and return the fronts as written down; what is run for that has its time too."""
        with self._limited("solving"):
            return self._written(self._fronts())

    def _written(self, fronts: Mapping[str, Found]) -> tuple[EnginePlan, ...]:
        return tuple(
            EnginePlan(
                platform=known.platform,
                samples=len(known.samples),
                sampled_now=known.now,
                baselines=known.baselines(),
                front=found.planned(),
                chosen=found.chosen(),
                drop_kept=found.drop_kept,
                goals=held(found, self.request.goals, self.before(), self._batch),
                sparse=offered_of(known),
                not_offered=known.ways.not_offered,
                notes=(*claims(known, found), *known.ways.notes, *self._apart[self._label(known)], *found.notes),
            )
            for known, found in zip(self.known, fronts.values(), strict=True)
        )

    def _label(self, known: Known) -> str:
        several = len(self.request.floating) > 1
        return f"{known.runtime.engine} {known.runtime.floating}" if several else known.runtime.engine

    def _solving(self, known: Known, space: Space) -> Solving:
        return Solving(
            space=space,
            costs=known.costs,
            sensitivity=self.losses.found,
            ask=self.losses.joint,
            max_drop=self._max_drop(),
            budgets=self.request.budgets,
            objective=self.request.objective,
            joules=self.joules.get(known.runtime),
            floating=known.runtime.floating,
            stored=known.runtime.stored(self.costing.machine(known.runtime)),
            known=self._joint,
            criterion=self.request.criterion,
            left_s=self._left_s,
            remarks=known.ways.remarks,
        )

    def _max_drop(self) -> float:
        """Return what may be lost, with goals of the accuracy itself held against that of the network as it is."""
        joint = self.losses.joint(Design(), rough=False) if self.request.goals else None
        none = Missing(code="not_run", why="the network as it is could not be run")
        accuracy = joint.before if isinstance(joint, Joint) else none
        return drop_of(self.request.goals, self.request.max_drop, accuracy)

    def _left_s(self) -> float:
        """Return what is left of the time for finding fronts: as much as losses had; who asks on has his own."""
        if self._solving_since_ns is None:
            return math.inf
        return self.request.losses_s - (self._clock.now_ns() - self._solving_since_ns) / 1e9

    @property
    def not_planned(self) -> tuple[NoPlan, ...]:
        """The runtimes without a plan, and why."""
        return tuple(NoPlan(engine=name, reason=reason) for name, reason in self.costing.failed.items())

    @contextlib.contextmanager
    def _limited(self, what: str) -> Iterator[None]:
        """Time a block in which solving and running whole designs have only the time that there is for it."""
        self._solving_since_ns = self._clock.now_ns()
        with self._timed(what):
            yield
        self._solving_since_ns = None

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begun_ns = self._clock.now_ns()
        try:
            yield
        finally:
            self.took_s[what] = self.took_s.get(what, 0.0) + (self._clock.now_ns() - begun_ns) / 1e9


def offered_of(known: Known) -> tuple[SparseCost, ...]:
    """Return what zeros make of layers' times, of those zeros that can be chosen."""
    there = {(site.about, o.scheme or "float", o.zeros) for site in known.space.sites for o in site.options if o.zeros}
    return tuple(each for each in known.ways.sparse if (each.cluster, each.scheme, each.zeros) in there)


def narrowed(space: Space, known: Sequence[Known]) -> Space:
    """Return the space without what no runtime has, and the widths that none gains anything from.

    Those lie on the tread of a stair.
    """
    if not known:
        return space
    there = {(site.name, option.name) for each in known for site in each.space.sites for option in site.options}
    reasons = {left.about: left.reason for each in known for left in each.space.left_alone if left.kind == "precision"}
    space = kept(space, lambda site, option: (site.name, option.name) in there, reasons)
    sites = []
    for site in space.sites:
        if site.kind != "width":
            sites.append(site)
            continue
        places = sorted({place for each in known for place in worthwhile(each.costs.dense, space, site)})
        if len(places) > 1:
            sites.append(msgspec.structs.replace(site, options=tuple(site.options[place] for place in places)))
    return msgspec.structs.replace(space, sites=tuple(sites))
