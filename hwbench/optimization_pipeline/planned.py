"""The planner that the loop asks: designs solved from measured costs, corrected by what became of them.

A front is a row of designs from careful to fast. What is built and judged says how far along it one may go: between the
fastest that counted and the most careful that did not, the next budget is where the drops seen at both say that what is
allowed lies, and the next design is the nearest of the row that has not been proposed, or is solved for. What is
measured scales what is predicted, by one factor a runtime: that moves the runtimes against each other, and no choice
within one; and goals are bounds of what is measured, so where it is off the front is solved for again. Then single
choices of the best design are swapped, where the costs promise a gain and the whole, run together, allows it.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import msgspec

from hwbench.files import decode, read_bytes, write_record
from hwbench.intake import Intake
from hwbench.optimization_pipeline.arithmetic import floating_for
from hwbench.optimization_pipeline.gauging import differ, gauge_of, gauges_of, steering
from hwbench.optimization_pipeline.proposer import Given
from hwbench.plan.designs import choice_of, design_of, key_of, uniform
from hwbench.planning_pipeline.found import Found
from hwbench.planning_pipeline.meeting import Gauge
from hwbench.planning_pipeline.planner import Planner
from hwbench.records.base import Missing
from hwbench.records.data import DataResult
from hwbench.records.optimization import Feedback, Proposal, Scored
from hwbench.records.plan import PlanRequest
from hwbench.records.planning import Design, Interval, SiteKind, Space
from hwbench.records.quantization import Scheme
from hwbench.tables.draw import schemes_of

_MOST = 5  # proposals of a round
_CAREFUL = 0.5  # share of the allowed drop that the careful proposal of the first round takes
_BOLD = 1.6  # the same of the bold one
_CLOSE = 1.1  # budgets that differ by less are not told apart
_LEAST_STEP = 0.02  # of a budget that was too large: the least that is tried next
_GAIN = 0.99  # of the objective: what a swap must promise at least
_TRIED = 10  # swaps that are run as a whole before five are proposed
_OTHERS = 2  # designs that are tried instead of those that could not be built
_TAKEN_BACK = 3.0  # times as much may be lost before a training as after it, until what was trained has told
_TRAINED = (1.0, 0.5)  # shares of that which the first proposals take: a few samples flatter whom they select
_HOPE = 1.1  # times the best that counts: what is predicted to take longer is not made
_LEAST_SHARE = 0.25  # of what may be lost, that designs are sought in at least
_SPACE = "space.json"
_LEAST_S, _COST_SHARE, _LOSS_SHARE = 20.0, 0.12, 0.15  # of the time budget

_Chosen = tuple[str, Design]  # by name of the engine
_Seen = tuple[float, float]  # what is predicted to be lost, and the drop that was seen


class FromCosts:
    """Proposes designs for every runtime that is worth it. What it needs is measured when it is first asked."""

    def __init__(self, known: Given) -> None:
        self.known = known
        self.stack = contextlib.ExitStack()
        self.planner: Planner | None = None
        self.found: dict[str, Found] = {}  # of designs as they will be judged: after a training, where there is one
        self.stitched: dict[str, Found] = {}  # of designs as they can be run as a whole: before it
        self.proposed: set[tuple[str, str]] = set()
        self.scales: dict[str, Gauge] = {}  # of what contests are held in
        self.gauges: dict[str, dict[str, Gauge]] = {}  # that goals were last turned into bounds with
        self.allowed = allowed_drop(known.request.max_drop, [each.selected for each in known.baselines])
        self.trains = known.request.recover is not None
        self.reach = self.allowed * (_TAKEN_BACK if self.trains else 1.0)  # of designs as stitched

    @property
    def space(self) -> Space:
        """What can be chosen."""
        path = self.known.folder / _SPACE
        if self.planner is None and path.exists():
            return self._kept_space(path)
        return self._ready().space

    def propose(self, feedback: Sequence[Feedback]) -> Sequence[Proposal]:
        """Return the next designs; none where all budgets are told apart."""
        self._learn(feedback)
        told = self._told(feedback)
        if not any(each.precision is None for each in feedback):
            return self._taken(self._hopeful(self._first(self.found, told), told))
        between = [one for engine, found in self.found.items() for one in self._between(engine, found, told)]
        between.sort(key=lambda one: self._worth(one[0], self.found[one[0]], one[1]))
        return self._taken(self._hopeful(between, told))

    def swaps(self, feedback: Sequence[Feedback]) -> Sequence[Proposal]:
        """Return designs that differ from the best one that counts at one site, and promise to be faster."""
        self._learn(feedback)
        timed = [
            (each.ratio, each)
            for each in self._told(feedback)
            if each.counts and each.precision is None and each.engine in self.found and isinstance(each.ratio, float)
        ]
        if not timed or self.known.request.objective == "accuracy":  # which every front is solved for exactly
            return []
        best = min(timed, key=lambda one: one[0])[1]  # ratios: rounds are minutes apart, and machines drift
        found = self.stitched[best.engine]  # in which what is ranked and what is run as a whole are of one kind
        allowed = self.allowed - _beyond(best, found)
        beside = _neighbours(best.design, found, self.known.request.measured)
        near = [each for each in beside if self._new(best.engine, each)]
        made: list[_Chosen] = []
        for design in near[:_TRIED]:
            joint = found.joint(design)
            drop = joint if isinstance(joint, Missing) else joint.drop
            if not isinstance(drop, Missing) and drop <= allowed:
                made.append((best.engine, design))
        return self._taken(made)

    def close(self) -> None:
        """End what is kept alive."""
        self.stack.close()

    def _new(self, engine: str, design: Design) -> bool:
        return (engine, key_of(design)) not in self.proposed

    def _learn(self, feedback: Sequence[Feedback]) -> None:
        """Take what became of designs: none is proposed twice, and what was measured scales what is predicted."""
        self._ready()
        told = self._told(feedback)
        self.proposed |= {(each.engine, key_of(self._design_of(each))) for each in feedback}
        asked = self.known.request.measured
        self.scales = {engine: gauge_of(engine, found, told, asked) for engine, found in self.found.items()}
        if any(goal.metric != "accuracy" for goal in self.known.request.goals):
            for engine in self.found:
                self._bound_again(engine, told)

    def _as_judged(self, planner: Planner, front: Found) -> Found:
        return planner.after_training(front) if self.trains else front

    def _told(self, feedback: Sequence[Feedback]) -> list[Feedback]:
        """Return what became of designs that the fronts can tell of: not of those with a scheme they were not left."""
        return [each for each in feedback if each.engine not in self.found or self.found[each.engine].has(each.design)]

    def _bound_again(self, engine: str, feedback: Sequence[Feedback]) -> None:
        """Solve again for a runtime where goals, which are of what is measured, turn out to be other bounds."""
        found, before = self.found[engine], self.gauges.get(engine, {})
        now = gauges_of(engine, found, feedback, self.known.request.measured)
        if any(differ(gauge, before.get(name, Gauge())) for name, gauge in now.items()):
            self.gauges[engine] = now
            planner = self._ready()
            self.stitched[engine] = planner.again(engine, now)
            self.found[engine] = self._as_judged(planner, self.stitched[engine])

    def _taken(self, chosen: Sequence[_Chosen]) -> list[Proposal]:
        """Propose what was chosen, each design once."""
        made: list[Proposal] = []
        for engine, design in chosen:
            if len(made) < _MOST and self._new(engine, design):
                self.proposed.add((engine, key_of(design)))
                made.append(self._proposal(engine, self.found[engine], design))
        return made

    @property
    def _shares(self) -> tuple[float, ...]:
        """Which shares of the reach the first proposals of a runtime take."""
        return _TRAINED if self.trains else (1.0, _CAREFUL, _BOLD)

    def _design_of(self, each: Feedback) -> Design:
        """Return a candidate's design; of a uniform one, that which makes it from what can be chosen."""
        found = self.found.get(each.engine)
        if each.precision is None or found is None:
            return each.design
        space = found.solving.space
        scheme: Scheme = next((one for one in schemes_of(space) if one == each.precision), "float")
        return uniform(space, scheme)

    def _first(self, fronts: Mapping[str, Found], feedback: Sequence[Feedback]) -> list[_Chosen]:
        """Choose of every front what is allowed, something more careful, and something bolder; fastest first.

        What loses no more than a uniform precision that was built and counts is allowed, whatever a few samples say;
        what is cut so little is not worth a training.
        """
        chosen: list[tuple[int, float, _Chosen]] = []
        for engine, found in fronts.items():
            ranked = [(rank, self._within(engine, share)) for rank, share in enumerate(self._shares)]
            proven = max((loss for loss, each in self._judged(engine, found, feedback) if each.counts), default=0.0)
            near = found.at(proven) if proven else None
            if near is not None and not (self.trains and near.cuts):
                ranked.append((0, near))
            for rank, design in ranked:
                if design is not None and self._new(engine, design):
                    chosen.append((rank, self._worth(engine, found, design), (engine, design)))
        return [each for _, _, each in sorted(chosen, key=lambda one: one[:2])]

    def _hopeful(self, chosen: Sequence[_Chosen], feedback: Sequence[Feedback]) -> list[_Chosen]:
        """Leave out what is predicted to be well behind what was built and counts: making it takes others' time.

        Where goals bound something else the best that counts may miss them, and all is kept.
        """
        goals = self.known.request.goals
        if self.known.request.objective == "accuracy" or any(each.metric != "accuracy" for each in goals):
            return list(chosen)
        best = min(
            (
                self._worth(each.engine, self.found[each.engine], self._design_of(each))
                for each in feedback
                if each.counts and each.engine in self.found and not isinstance(each.drop, Missing)
            ),
            default=math.inf,
        )
        return [one for one in chosen if self._worth(one[0], self.found[one[0]], one[1]) <= _HOPE * best]

    def _within(self, engine: str, share: float) -> Design | None:
        """Return the best design within a share of the reach; one that will not be trained, of what is allowed.

        Where designs are trained it is the best of those that are predicted to lose as much after it.
        """
        stitched, found = self.stitched[engine], self.found[engine]
        design = stitched.within(share * self.reach)
        if design is None or not self.trains:
            return design
        if not design.cuts:
            return stitched.within(min(share, 1.0) * self.allowed)
        better = found.at(found.loss(design))
        return better if better is not None and better.cuts else design

    def _judged(self, engine: str, found: Found, feedback: Sequence[Feedback]) -> list[tuple[float, Feedback]]:
        """Return what was built for a runtime, uniform ones too, with the loss that is predicted of it."""
        mine = [each for each in feedback if each.engine == engine and not isinstance(each.drop, Missing)]
        return [(found.loss(self._design_of(each)), each) for each in mine]

    def _bracket(self, engine: str, found: Found, feedback: Sequence[Feedback]) -> tuple[_Seen, _Seen]:
        """Return the largest predicted loss of what counts, and the least beyond it of what does not, with their drops.

        A uniform precision that counts says nothing against a proposal that loses less and did not count; one that does
        not, or whatever else was not trained, says nothing of designs that will be.
        """
        judged = self._judged(engine, found, feedback)
        failed = [(loss, each) for loss, each in judged if not each.counts and (each.design.cuts or not self.trains)]
        least = min((loss for loss, each in failed if each.precision is None), default=math.inf)
        counted = [
            (loss, _seen(each)) for loss, each in judged if each.counts and (each.precision is None or loss < least)
        ]
        low = max(counted, default=(0.0, 0.0))
        return low, min(((loss, _seen(each)) for loss, each in failed if loss > low[0]), default=(math.inf, math.inf))

    def _between(self, engine: str, found: Found, feedback: Sequence[Feedback]) -> list[_Chosen]:
        """Choose designs between the fastest that counted and the most careful that did not."""
        mine = [each for each in feedback if each.engine == engine and each.precision is None]
        if all(isinstance(each.drop, Missing) for each in mine):  # nobody was proposed yet, or nobody could be built
            return self._first({engine: found}, feedback) or self._others(engine, found)
        below, beyond = self._bracket(engine, found, feedback)
        low, high = below[0], beyond[0]
        budgets: list[float] = []
        if high < math.inf:
            budgets = [self._crossing(below, beyond)] if high > _CLOSE * low else []
        elif low > 0:
            budgets = [1.5 * low, 3 * low]
        made: list[Design] = []
        for budget in budgets:
            there = [each for _, each in found.row if low < found.loss(each) < min(high, 2 * budget)]
            there = [each for each in there if self._new(engine, each) and each not in made]
            near = min(there, key=lambda each: abs(math.log(found.loss(each) / budget)), default=None)
            design = near if near is not None else found.at(budget)
            made += [design] if design is not None and (design.cuts or not self.trains) else []
        return [(engine, design) for design in made]

    def _crossing(self, below: _Seen, beyond: _Seen) -> float:
        """Return the loss at which what is allowed is dropped, on the line between two designs; well between them.

        Where the drops do not tell (one counted that lost more, or failed that lost less) it is the middle, in the
        logarithm.
        """
        (low, dropped), (high, too_much) = below, beyond
        least = max(low, _LEAST_STEP * high)
        if not dropped < self.allowed < too_much:
            return math.sqrt(least * high)
        crossing = low + (self.allowed - dropped) / (too_much - dropped) * (high - low)
        edge = min(_CLOSE, math.sqrt(high / least))
        return min(max(crossing, edge * least), high / edge)

    def _others(self, engine: str, found: Found) -> list[_Chosen]:
        """Choose the fastest designs of a front that are allowed and have not been proposed."""
        able: list[Design] = []
        for _, design in found.row:
            joint = found.joint(design)
            drop = joint if isinstance(joint, Missing) else joint.drop
            if not isinstance(drop, Missing) and drop <= self.reach and self._new(engine, design):
                able.append(design)
        able.sort(key=lambda each: self._worth(engine, found, each))
        return [(engine, each) for each in able[:_OTHERS]]

    def _worth(self, engine: str, found: Found, design: Design) -> float:
        """Return what is to be small: as it is to be measured, or the predicted loss where accuracy is to be large."""
        if self.known.request.objective == "accuracy":
            return found.loss(design)
        return self.scales.get(engine, Gauge()).measured(found.values(design)[self.known.request.measured])

    def _proposal(self, engine: str, found: Found, design: Design) -> Proposal:
        return Proposal(
            engine=engine,
            design=design,
            predicted=self._expected(engine, found, design),
            decisions=found.decisions(design),
        )

    def _expected(self, engine: str, found: Found, design: Design) -> Interval | Missing:
        """Return the latency or energy to be expected, as contests measure it."""
        objective = self.known.request.measured
        if objective == "memory":
            return Missing(code="not_predicted", why="what a runtime takes beyond the network is measured alone")
        raw = found.predict(design) if objective == "latency" else found.energy(design)
        scale = self.scales.get(engine, Gauge()).factor
        if isinstance(raw, Missing):
            return raw
        return msgspec.structs.replace(raw, value=scale * raw.value, low=scale * raw.low, high=scale * raw.high)

    def _kept_space(self, path: Path) -> Space:
        return decode(read_bytes(path), Space, what=str(path))

    def _ready(self) -> Planner:
        """Return the planner, prepared and solved; the first time that takes a while."""
        if self.planner is not None:
            return self.planner
        known = self.known
        work = known.folder / "children"
        work.mkdir(parents=True, exist_ok=True)
        request = _request(known, self.reach)
        path = known.folder / _SPACE
        space = self._kept_space(path) if path.exists() else None  # designs of rounds that are done are of this one
        intake = Intake(
            folder=work, watch=known.watch, threads=request.threads, timeout_s=request.timeout_s, seed=request.seed
        )
        learn, select = (
            DataResult(facts=part.facts, folder=part.folder) for part in (known.parts.learn, known.parts.select)
        )
        planner = self.stack.enter_context(Planner(request, known.target, intake, known.folder, learn, select, space))
        planner.prepare()
        if space is None:
            write_record(path, planner.space)
        self.stitched = planner.fronts()
        self.found = {engine: self._as_judged(planner, front) for engine, front in self.stitched.items()}
        self.planner = planner
        return planner


def _request(known: Given, allowed: float) -> PlanRequest:
    request = known.request
    return PlanRequest(
        model=request.model,
        device=request.device,
        engines=request.engines,
        kinds=get_args(SiteKind),
        floating=(floating_for(known),),
        objective=request.objective,
        max_drop=allowed,
        goals=steering(request.goals, allowed),
        data=request.data,
        preprocess=request.preprocess,
        samples=known.parts.learn.facts.samples,
        pairs=request.metric is None and request.task in {"auto", "embedding"},
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
        trained=request.recover is not None,
    )


def allowed_drop(max_drop: float, baselines: Sequence[Scored | Missing]) -> float:
    """Return the drop seen on the selection split up to which a candidate may be expected to count.

    Where certificates are within reach, a candidate counts by the upper end that is to be expected of it
    (:class:`hwbench.optimization_pipeline.judging.Eligibility`). How far that lies above the drop seen, the baselines
    tell; a quarter of what is allowed is always tried.
    """
    drops = [each.drop for each in baselines if not isinstance(each, Missing) and not isinstance(each.drop, Missing)]
    if not any(each.expected <= max_drop for each in drops):
        return max_drop
    near = [each.expected - each.drop for each in drops if each.drop <= 2 * max_drop]
    return max(_LEAST_SHARE * max_drop, max_drop - statistics.median(near))


def _seen(each: Feedback) -> float:
    assert not isinstance(each.drop, Missing)
    return each.drop.drop


def _beyond(best: Feedback, found: Found) -> float:
    """Return by how much a design fell further when it was built than when it was run as a whole."""
    joint = found.joint(best.design)
    if isinstance(joint, Missing) or isinstance(joint.drop, Missing) or isinstance(best.drop, Missing):
        return 0.0
    return best.drop.drop - joint.drop


def _neighbours(design: Design, found: Found, measured: str) -> list[Design]:
    """Return designs with one other choice that promise less of what is measured, by the gain for what they lose."""
    space = found.solving.space
    choice, here = choice_of(space, design), found.values(design)[measured]
    ranked: list[tuple[float, Design]] = []
    for site in space.sites:
        for place in range(len(site.options)):
            if place == choice[site.name]:
                continue
            other = design_of(space, {**choice, site.name: place}, floating=design.floating)
            gain = here - found.values(other)[measured]
            if found.keeps(other) and gain > (1 - _GAIN) * here:
                ranked.append(((found.loss(other) - found.loss(design)) / gain, other))
    return [each for _, each in sorted(ranked, key=lambda one: one[0])]
