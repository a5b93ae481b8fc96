"""What ``hwbench plan`` has found: the front of every runtime, and each decision of the design that was chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from hwbench.records.base import Missing
from hwbench.records.plan import EnginePlan, Planned, PlanResult
from hwbench.records.planning import Decision, Design, Interval
from hwbench.report.text import plain
from hwbench.report.words import DASH
from hwbench.units import format_bytes, format_seconds

_MOST_REASONS = 4


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
    yield plain(
        f"\n{platform.engine} {platform.version}, {platform.threads} threads, {platform.title}: costs from "
        f"{engine.samples} networks timed here, {engine.sampled_now} of them now",
        "bold",
    )
    yield from (plain(f"  {note}", "dim") for note in engine.notes)
    yield _front(engine)
    if isinstance(engine.chosen, Missing):
        yield plain(f"nothing chosen: {engine.chosen}", "bold")
        return
    chosen = engine.front[engine.chosen]
    if chosen.solved.decisions:
        yield plain("why, by site (the runner-up's difference to the plan):", "bold")
        yield _decisions(chosen.solved.decisions)


def _front(engine: EnginePlan) -> Table:
    grid = _grid("", "predicted latency", "of the best uniform", "predicted loss", "loss as a whole", "drop", "weights",
                 "what is changed")  # fmt: skip
    for name, interval in engine.baselines.items():
        uniform = (f"uniform {name}", _interval(interval), DASH, DASH, DASH, DASH, DASH, "precision alone")
        grid.add_row(*(plain(cell) for cell in uniform))
    best = min((interval.value for interval in engine.baselines.values()), default=None)
    for number, planned in enumerate(engine.front):
        cells = _planned(planned, best)
        style = "bold" if number == engine.chosen else ""
        grid.add_row(plain(f"plan {number + 1}", style), *(plain(cell, style) for cell in cells))
    return grid


def _planned(planned: Planned, best: float | None) -> tuple[str, ...]:
    joint, solved = planned.joint, planned.solved
    drop = joint if isinstance(joint, Missing) else joint.drop
    return (
        _interval(planned.latency),
        DASH if best is None else f"{planned.latency.value / best:.3f}",
        f"{solved.loss:.4g}",
        DASH if isinstance(joint, Missing) else f"{joint.divergence:.4g} (N {joint.n})",
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


def _interval(interval: Interval) -> str:
    low, high = format_seconds(interval.low), format_seconds(interval.high)
    return f"{format_seconds(interval.value)} [{low}, {high}] tier {interval.tier}"


def _decisions(decisions: tuple[Decision, ...]) -> Table:
    grid = _grid("site", "chosen", "runner-up", "latency", "loss", "why")
    for each in decisions:
        latency = DASH if isinstance(each.latency_s, Missing) else _signed(each.latency_s)
        loss = DASH if isinstance(each.loss, Missing) else f"{each.loss:+.3g}"
        runner_up = DASH if isinstance(each.runner_up, Missing) else each.runner_up
        grid.add_row(*(plain(cell) for cell in (each.site, each.option, runner_up, latency, loss, each.why)))
    return grid


def _signed(seconds: float) -> str:
    return f"{'-' if seconds < 0 else '+'}{format_seconds(abs(seconds))}"


def _grid(*titles: str) -> Table:
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title in titles:
        grid.add_column(title, overflow="fold")
    return grid
