"""What ``hwbench plan`` has found: the front of every runtime, and each decision of the design that was chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from hwbench.records.base import Missing
from hwbench.records.plan import EnginePlan, Planned, PlanResult
from hwbench.records.planning import Decision, Design, Interval, SparseCost, name_of
from hwbench.report.text import plain
from hwbench.report.words import DASH
from hwbench.units import format_bytes, format_seconds, format_si

_RESIDUALS = {"A": "networks", "B": "anchors of a probe", "C": "runtimes"}
_MOST_REASONS = 4
_MOST_DECISIONS = 12


def render_plan(found: PlanResult) -> RenderableType:
    """Return what a person wants to see of ``found``."""
    took = ", ".join(f"{stage} {format_seconds(value)}" for stage, value in found.took_s.items())
    return Group(
        plain(f"{found.model.name}: {len(found.engines)} plans; {took}", "bold"),
        *(plain(f"warning: {warning}", "yellow") for warning in found.warnings),
        plain(
            f"{len(found.space.sites)} sites; losses from N = {found.sensitivity.n} samples of {found.data.source}",
            "dim",
        ),
        *(plain(f"done first, exact: {each}", "dim") for each in found.exact),
        *(plain(f"  {note}", "dim") for note in found.sensitivity.notes),
        *_left_alone(found),
        *(part for engine in found.engines for part in _engine(engine)),
        *(plain(f"{each.engine}: no plan: {each.reason}") for each in found.not_planned),
    )


def _left_alone(found: PlanResult) -> Iterator[RenderableType]:
    reasons = Counter((each.kind, each.reason.why) for each in found.space.left_alone)
    for (kind, why), count in reasons.most_common(_MOST_REASONS):
        yield plain(f"  no choice of {kind} at {count}: {why}", "dim")
    if len(reasons) > _MOST_REASONS:
        yield plain(f"  and {len(reasons) - _MOST_REASONS} more reasons in plan.json", "dim")


def _engine(engine: EnginePlan) -> Iterator[RenderableType]:
    platform = engine.platform
    costs = (
        f"costs from {engine.samples} networks timed here, {engine.sampled_now} of them now"
        if engine.samples
        else "costs predicted, not measured"
    )
    version = platform.version if engine.samples else f"(version {platform.version})"
    yield plain(f"\n{platform.engine} {version}, {platform.threads} threads, {platform.title}: {costs}", "bold")
    yield from (plain(f"  {note}", "dim") for note in engine.notes)
    yield from _offers(engine)
    yield _front(engine)
    if engine.front:
        yield plain(_intervals(engine), "dim")
    if isinstance(engine.chosen, Missing):
        yield plain(f"nothing chosen: {engine.chosen}", "bold")
        return
    for each in engine.goals:
        met = "met" if each.met else "MISSED"
        yield plain(f"goal '{each.goal.text}' {met}; {each.why}", "" if each.met else "yellow")
    chosen = engine.front[engine.chosen]
    if chosen.solved.decisions:
        yield plain("why, by site (the runner-up's difference to the plan), what moves most time first:", "bold")
        yield from _decisions(chosen.solved.decisions)
    if engine.commands:
        yield plain("to build it:" if engine.here else "to build it, on the device itself:", "bold")
        yield from (plain(f"  {each}") for each in engine.commands)


def _offers(engine: EnginePlan) -> Iterator[RenderableType]:
    """Say what layers were offered for zeros, and what they were not, each reason once."""
    best: dict[str, SparseCost] = {}
    for each in sorted((one for one in engine.sparse if one.gains), key=lambda one: one.ratio):
        best.setdefault(each.cluster, each)
    if best:
        yield plain(f"  zeros for kernels are offered at {len(best)} layers; what gains most:", "dim")
    for each in list(best.values())[:_MOST_REASONS]:
        name = name_of(each.zeros, each.scheme)
        yield plain(f"    {each.cluster}: {name} takes {each.ratio:.2f} of the dense layer: {each.why}", "dim")
    reasons = Counter((each.way, each.reason.why) for each in engine.not_offered)
    ranked = reasons.most_common()
    zeros = [one for one in ranked if one[0][0] == "zeros"]
    others = [one for one in ranked if one[0][0] != "zeros"]
    for (way, why), count in (*zeros[:_MOST_REASONS], *others[:_MOST_REASONS]):
        yield plain(f"  no {way} at {count}: {why}", "dim")
    left = max(0, len(zeros) - _MOST_REASONS) + max(0, len(others) - _MOST_REASONS)
    if left:
        yield plain(f"  and {left} more reasons in plan.json", "dim")


def _front(engine: EnginePlan) -> Table:
    joules = any(isinstance(each.energy, Interval) for each in engine.front)
    named = ("energy",) if joules else ()
    grid = _grid("", "latency", "of best", *named, "loss", "as a whole", "drop", "weights", "changed")
    for name, interval in engine.baselines.items():
        blank = [DASH] * (5 + len(named))
        uniform = (f"uniform {name}", format_seconds(interval.value), *blank, "precision alone")
        grid.add_row(*(plain(cell) for cell in uniform))
    best = min((interval.value for interval in engine.baselines.values()), default=None)
    for number, planned in enumerate(engine.front):
        style = "bold" if number == engine.chosen else ""
        name = f"plan {number + 1}{' *' if number == engine.chosen else ''}"
        grid.add_row(plain(name, style), *(plain(cell, style) for cell in _planned(planned, best, joules)))
    return grid


def _planned(planned: Planned, best: float | None, joules: bool) -> tuple[str, ...]:
    joint, solved, energy = planned.joint, planned.solved, planned.energy
    taken = DASH if isinstance(energy, Missing) else format_si(energy.value, "J")
    drop = joint if isinstance(joint, Missing) else joint.drop
    return (
        format_seconds(planned.latency.value),
        DASH if best is None else f"{planned.latency.value / best:.3f}",
        *((taken,) if joules else ()),
        f"{solved.loss:.3g}",
        DASH if isinstance(joint, Missing) else f"{joint.divergence:.3g}",
        DASH if isinstance(drop, Missing) else f"{100 * drop:+.2f} pp",
        format_bytes(solved.weight_bytes),
        changed(solved.design),
    )


def changed(design: Design) -> str:
    """Say what a design changes, in numbers."""
    schemes = Counter(design.schemes.values())
    parts = [
        *(f"{count} {scheme}" for scheme, count in schemes.items()),
        *(f"{count} {form}" for form, count in Counter(each.format for each in design.zeros.values()).items()),
        *([f"{len(design.widths)} narrower"] if design.widths else []),
        *([f"{len(design.dropped)} blocks dropped"] if design.dropped else []),
        *([f"{len(design.replaced)} blocks as one layer each"] if design.replaced else []),
        *([f"{len(design.ranks)} of low rank"] if design.ranks else []),
    ]
    return ", ".join(parts) or "nothing"


def _intervals(engine: EnginePlan) -> str:
    """Say once how sure the predictions are: the interval is as wide for each, in the logarithm."""
    one = engine.front[0].latency
    low, high = 100 * (one.low / one.value - 1), 100 * (one.high / one.value - 1)
    energy = engine.front[0].energy
    more = ""
    if isinstance(energy, Interval):
        low_j, high_j = 100 * (energy.low / energy.value - 1), 100 * (energy.high / energy.value - 1)
        more = f"; energies {low_j:+.0f} to {high_j:+.0f} %"
    star = (
        "is the best whose drop is allowed"
        if engine.drop_kept
        else "loses more than is allowed: other goals come first"
    )
    return (
        f"  latencies are predictions, tier {one.tier}: {one.coverage:.0%} interval {low:+.0f} to {high:+.0f} % from "
        f"{one.n} {_RESIDUALS[one.tier]}{more}; * {star}"
    )


def _decisions(decisions: tuple[Decision, ...]) -> Iterator[RenderableType]:
    """Show the decisions that move most time: what was changed first, then what was not."""
    ranked = sorted(decisions, key=lambda each: -abs(each.latency_s) if isinstance(each.latency_s, float) else 0.0)
    for each in ranked[:_MOST_DECISIONS]:
        latency = DASH if isinstance(each.latency_s, Missing) else _signed(each.latency_s)
        loss = DASH if isinstance(each.loss, Missing) else f"{each.loss:+.3g}"
        second = "" if isinstance(each.runner_up, Missing) else f"; {each.runner_up}: {latency}, loss {loss}"
        yield plain(f"  {each.site}: {each.option}{second}. {each.why}")
    if len(ranked) > _MOST_DECISIONS:
        yield plain(f"  and {len(ranked) - _MOST_DECISIONS} more sites in plan.json", "dim")


def _signed(seconds: float) -> str:
    return f"{'-' if seconds < 0 else '+'}{format_seconds(abs(seconds))}"


def _grid(*titles: str) -> Table:
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title in titles:
        grid.add_column(title, overflow="fold")
    return grid
