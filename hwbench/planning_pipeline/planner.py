"""One network planned for one device, and kept ready to be asked again."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import msgspec
import onnx_ir as ir

from hwbench.graph.onnx_file import infer_shapes
from hwbench.intake import Intake
from hwbench.inventory import Target
from hwbench.plan.sites import space_of
from hwbench.planning_pipeline.costs import Known
from hwbench.planning_pipeline.exact import Base, simplified
from hwbench.planning_pipeline.losses import Losses
from hwbench.planning_pipeline.solving import Found, Solving
from hwbench.planning_pipeline.unattached import claims, costing_of
from hwbench.records.base import Missing
from hwbench.records.data import DataResult
from hwbench.records.plan import EnginePlan, Joint, NoPlan, PlanRequest
from hwbench.records.planning import Space
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
            whole = space_of(
                hub,
                self.imported.model.hub_sha256,
                kinds=request.kinds,
                exact=self.base.steps,
                refused=refused_widths(hub),
            )
        with self._timed("costs"):
            self.costing = costing_of(request, self.target, self.intake, self.imported, self.learn, whole)
            calibration = self.costing.calibrate()
            self.known = self.costing.know(self.costing.runtimes(), calibration)
            self.space = narrowed(self.costing.space, self.known) if self.given is None else self.given
        with self._timed("losses"):
            self.losses = self._stack.enter_context(
                Losses(request, self.intake, self.base, self.space, self.folder, self.judge, calibration)
            )
        self._joint: dict[str, Joint | Missing] = {}

    def fronts(self) -> dict[str, Found]:
        """Solve for every runtime; by name of the engine, with the arithmetic where several were asked for."""
        self._solving_since_ns = self._clock.now_ns()
        with self._timed("solving"):
            found = {}
            for known in self.known:
                self.intake.watch(f"solving for {self._label(known)}", None)
                found[self._label(known)] = self._solving(known).run()
            self._solving_since_ns = None
            return found

    def plans(self) -> tuple[EnginePlan, ...]:
        """Return the fronts as they are written down."""
        fronts = self.fronts()
        return tuple(
            EnginePlan(
                platform=known.platform,
                samples=len(known.samples),
                sampled_now=known.now,
                baselines=known.baselines(self.space),
                front=found.planned(),
                chosen=found.chosen(),
                notes=(*claims(known, found), *found.notes),
            )
            for known, found in zip(self.known, fronts.values(), strict=True)
        )

    def _label(self, known: Known) -> str:
        several = len(self.request.floating) > 1
        return f"{known.runtime.engine} {known.runtime.floating}" if several else known.runtime.engine

    def _solving(self, known: Known) -> Solving:
        return Solving(
            space=self.space,
            costs=known.costs,
            sensitivity=self.losses.found,
            ask=self.losses.joint,
            max_drop=self.request.max_drop,
            budgets=self.request.budgets,
            objective=self.request.objective,
            floating=known.runtime.floating,
            known=self._joint,
            criterion=self.request.criterion,
            left_s=self._left_s,
        )

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
    def _timed(self, what: str) -> Iterator[None]:
        begun_ns = self._clock.now_ns()
        try:
            yield
        finally:
            self.took_s[what] = self.took_s.get(what, 0.0) + (self._clock.now_ns() - begun_ns) / 1e9


def narrowed(space: Space, known: Sequence[Known]) -> Space:
    """Return the space without the widths that no runtime gains anything from: they lie on the tread of a stair."""
    if not known:
        return space
    sites = []
    for site in space.sites:
        if site.kind != "width":
            sites.append(site)
            continue
        kept = sorted({place for each in known for place in worthwhile(each.costs, space, site)})
        if len(kept) > 1:
            sites.append(msgspec.structs.replace(site, options=tuple(site.options[place] for place in kept)))
    return msgspec.structs.replace(space, sites=tuple(sites))
