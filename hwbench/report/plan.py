"""What ``hwbench plan`` has found: the front of every runtime, and each decision of the design that was chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from hwbench.records.base import Missing
from hwbench.records.plan import EnginePlan, Planned, PlanResult
from hwbench.records.planning import Decision, Design
from hwbench.report.text import plain
from hwbench.report.words import DASH
from hwbench.units import format_bytes, format_seconds

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
    yield _front(engine)
    if engine.front:
        yield plain(_intervals(engine), "dim")
    if isinstance(engine.chosen, Missing):
        yield plain(f"nothing chosen: {engine.chosen}", "bold")
        return
    chosen = engine.front[engine.chosen]
    if chosen.solved.decisions:
        yield plain("why, by site (the runner-up's difference to the plan), what moves most time first:", "bold")
        yield from _decisions(chosen.solved.decisions)


def _front(engine: EnginePlan) -> Table:
    grid = _grid("", "latency", "of best", "loss", "as a whole", "drop", "weights", "changed")
    for name, interval in engine.baselines.items():
        uniform = (f"uniform {name}", format_seconds(interval.value), *[DASH] * 5, "precision alone")
        grid.add_row(*(plain(cell) for cell in uniform))
    best = min((interval.value for interval in engine.baselines.values()), default=None)
    for number, planned in enumerate(engine.front):
        style = "bold" if number == engine.chosen else ""
        name = f"plan {number + 1}{' *' if number == engine.chosen else ''}"
        grid.add_row(plain(name, style), *(plain(cell, style) for cell in _planned(planned, best)))
    return grid


def _planned(planned: Planned, best: float | None) -> tuple[str, ...]:
    joint, solved = planned.joint, planned.solved
    drop = joint if isinstance(joint, Missing) else joint.drop
    return (
        format_seconds(planned.latency.value),
        DASH if best is None else f"{planned.latency.value / best:.3f}",
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
        *([f"{len(design.widths)} narrower"] if design.widths else []),
        *([f"{len(design.dropped)} blocks dropped"] if design.dropped else []),
        *([f"{len(design.ranks)} of low rank"] if design.ranks else []),
    ]
    return ", ".join(parts) or "nothing"


def _intervals(engine: EnginePlan) -> str:
    """Say once how sure the predictions are: the interval is as wide for each, in the logarithm."""
    one = engine.front[0].latency
    low, high = 100 * (one.low / one.value - 1), 100 * (one.high / one.value - 1)
    return (
        f"  latencies are predictions, tier {one.tier}: {one.coverage:.0%} interval {low:+.0f} to {high:+.0f} % from "
        f"{one.n} {_RESIDUALS[one.tier]}; * is the best whose drop is allowed"
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
