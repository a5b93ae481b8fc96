"""The planner that the loop asks: designs solved from measured costs, corrected by what became of them.

A front is a row of designs from careful to fast. What is built and judged says how far along it one may go: between the
fastest that counted and the most careful that did not, the budget is halved (in the logarithm) and solved for again.
Then single choices of the best design are swapped, where the costs promise a gain and the whole, run together, allows
it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import get_args

from hwbench.files import decode, read_bytes, write_record
from hwbench.intake import Intake
from hwbench.optimization_pipeline.planner import Known
from hwbench.plan.designs import choice_of, design_of
from hwbench.planning_pipeline.planner import Planner
from hwbench.planning_pipeline.solving import Found, key_of
from hwbench.records.base import Missing
from hwbench.records.data import DataResult
from hwbench.records.optimization import Feedback, Proposal
from hwbench.records.plan import PlanRequest
from hwbench.records.planning import Design, SiteKind, Space

_MOST = 5  # proposals of a round
_CAREFUL = 0.5  # share of the allowed drop that the careful proposal of the first round takes
_BOLD = 1.6  # the same of the bold one
_CLOSE = 1.1  # budgets that differ by less are not told apart
_GAIN = 0.99  # of the latency: what a swap must promise at least
_TRIED = 10  # swaps that are run as a whole before five are proposed
_SPACE = "space.json"
_LEAST_S, _COST_SHARE, _LOSS_SHARE = 20.0, 0.12, 0.15  # of the time budget


class FromCosts:
    """Proposes designs for every runtime that is worth it. What it needs is measured when it is first asked."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.stack = contextlib.ExitStack()
        self.planner: Planner | None = None
        self.found: dict[str, Found] = {}
        self.proposed: set[tuple[str, str]] = set()

    @property
    def space(self) -> Space:
        """What can be chosen."""
        path = self.known.folder / _SPACE
        if self.planner is None and path.exists():
            return decode(read_bytes(path), Space, what=str(path))
        return self._ready().space

    def propose(self, feedback: Sequence[Feedback]) -> Sequence[Proposal]:
        """Return the next designs; none where all budgets are told apart."""
        self._ready()
        for each in feedback:
            self.proposed.add((each.engine, key_of(each.design)))
        if not any(each.precision is None for each in feedback):
            return self._first()
        return [one for engine, found in self.found.items() for one in self._between(engine, found, feedback)][:_MOST]

    def swaps(self, feedback: Sequence[Feedback]) -> Sequence[Proposal]:
        """Return designs that differ from the best one that counts at one site, and promise to be faster."""
        self._ready()
        timed = [each for each in feedback if each.counts and each.precision is None and isinstance(each.value, float)]
        timed = [each for each in timed if each.engine in self.found]
        if not timed:
            return []
        best = min(timed, key=lambda each: each.value if isinstance(each.value, float) else math.inf)
        found = self.found[best.engine]
        allowed = self.known.request.max_drop - _beyond(best, found)
        made = []
        for design in _neighbours(self.space, best.design, found)[:_TRIED]:
            if (best.engine, key_of(design)) in self.proposed:
                continue
            joint = found.joint(design)
            drop = joint if isinstance(joint, Missing) else joint.drop
            if not isinstance(drop, Missing) and drop <= allowed:
                made.append(self._proposal(best.engine, found, design))
        return made[:_MOST]

    def close(self) -> None:
        """End what is kept alive."""
        self.stack.close()

    def _first(self) -> list[Proposal]:
        """Propose of every front what is allowed, something more careful, and something bolder; fastest first."""
        allowed = self.known.request.max_drop
        chosen: list[tuple[int, float, Proposal]] = []
        for engine, found in self.found.items():
            for rank, share in enumerate((1.0, _CAREFUL, _BOLD)):
                design = found.within(share * allowed)
                if design is not None and (engine, key_of(design)) not in self.proposed:
                    made = self._proposal(engine, found, design)
                    value = math.inf if isinstance(made.predicted, Missing) else made.predicted.value
                    chosen.append((rank, value, made))
        return [each for _, _, each in sorted(chosen, key=lambda one: one[:2])][:_MOST]

    def _between(self, engine: str, found: Found, feedback: Sequence[Feedback]) -> list[Proposal]:
        """Halve the budgets between the fastest design that counted and the most careful that did not."""
        mine = [each for each in feedback if each.engine == engine and each.precision is None]
        good = [found.loss(each.design) for each in mine if each.counts]
        bad = [found.loss(each.design) for each in mine if not each.counts and not isinstance(each.drop, Missing)]
        low, high = (
            max(good, default=0.0),
            min((loss for loss in bad if loss > max(good, default=0.0)), default=math.inf),
        )
        budgets = []
        if high < math.inf:
            low = max(low, 0.02 * high)
            if high / low > _CLOSE:
                budgets = [math.sqrt(low * high)]
        elif low > 0:
            budgets = [1.5 * low, 3 * low]
        made = []
        for budget in budgets:
            design = found.at(budget)
            if design is not None and (engine, key_of(design)) not in self.proposed:
                self.proposed.add((engine, key_of(design)))
                made.append(self._proposal(engine, found, design))
        return made

    def _proposal(self, engine: str, found: Found, design: Design) -> Proposal:
        return Proposal(
            engine=engine, design=design, predicted=found.predict(design), decisions=found.decisions(design)
        )

    def _ready(self) -> Planner:
        """Return the planner, prepared and solved; the first time that takes a while."""
        if self.planner is not None:
            return self.planner
        known = self.known
        work = known.folder / "children"
        work.mkdir(parents=True, exist_ok=True)
        request = _request(known)
        intake = Intake(
            folder=work, watch=known.watch, threads=request.threads, timeout_s=request.timeout_s, seed=request.seed
        )
        learn, select = (
            DataResult(facts=part.facts, folder=part.folder) for part in (known.parts.learn, known.parts.select)
        )
        planner = self.stack.enter_context(Planner(request, known.target, intake, known.folder, learn, select))
        planner.prepare()
        self.found = planner.fronts()
        write_record(known.folder / _SPACE, planner.space)
        self.planner = planner
        return planner


def _request(known: Known) -> PlanRequest:
    request = known.request
    return PlanRequest(
        model=request.model,
        device=request.device,
        engines=request.engines,
        kinds=get_args(SiteKind),
        floating=("auto",),
        objective="latency",
        max_drop=request.max_drop,
        data=request.data,
        preprocess=request.preprocess,
        samples=known.parts.learn.facts.samples,
        criterion="l2",
        calibration=request.calibration,
        batch_size=request.batch_size,
        shapes=request.shapes,
        threads=request.threads,
        costs_s=max(_LEAST_S, _COST_SHARE * known.left_s),
        losses_s=max(_LEAST_S, _LOSS_SHARE * known.left_s),
        budgets=12,
        seed=request.seed,
        timeout_s=request.timeout_s,
    )


def _beyond(best: Feedback, found: Found) -> float:
    """Return by how much a design fell further when it was built than when it was run as a whole."""
    joint = found.joint(best.design)
    if isinstance(joint, Missing) or isinstance(joint.drop, Missing) or isinstance(best.drop, Missing):
        return 0.0
    return best.drop.drop - joint.drop


def _neighbours(space: Space, design: Design, found: Found) -> list[Design]:
    """Return designs with one other choice that are predicted to be faster, by what they gain for what they lose."""
    choice, here = choice_of(space, design), found.predict(design).value
    ranked: list[tuple[float, Design]] = []
    for site in space.sites:
        for place in range(len(site.options)):
            if place == choice[site.name]:
                continue
            other = design_of(space, {**choice, site.name: place}, floating=design.floating)
            gain = here - found.predict(other).value
            if gain > (1 - _GAIN) * here:
                ranked.append(((found.loss(other) - found.loss(design)) / gain, other))
    return [each for _, each in sorted(ranked, key=lambda one: one[0])]
