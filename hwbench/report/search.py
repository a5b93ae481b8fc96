"""What ``hwbench search`` has found, in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table

from hwbench.records.base import Missing
from hwbench.records.search import UNITS, Quantity, SearchResult, Trial
from hwbench.report.text import new_grid, plain
from hwbench.report.words import DASH
from hwbench.units import format_bytes, format_seconds, format_si

_MOST_ROWS = 12
_MOST_REASONS = 5


def render_search(found: SearchResult, folder: Path) -> RenderableType:
    """Return what a person wants to see of ``found``, which lies in ``folder``."""
    return Group(
        plain(f"{found.request.model}: {headline(found)}", "bold"),
        plain(f"ended because {found.stopped}; {counted(found)}; everything is in {folder}"),
        *(plain(f"warning: {warning}", "yellow") for warning in found.warnings),
        _points(found),
        *(plain(line) for line in caveats(found)),
        *_decided(found),
        *(plain(f"  {count} failed: {why}", "dim") for why, count in failures(found)[:_MOST_REASONS]),
    )


def headline(found: SearchResult) -> str:
    """Return the best point in one line, or what stands in the way of having one."""
    best = next((trial for trial in found.trials if trial.number == found.best), None)
    if best is None:
        return f"{len(found.trials)} trials, none of them complete"
    values = ", ".join(f"{each.metric} {amount(each.metric, each.value)}" for each in _wanted(found, best))
    if not found.feasible:
        broken = ", ".join(text for text, by in best.violations.items() if by > 0)
        return f"no point meets the constraints; trial {best.number} comes nearest ({values}) and breaks {broken}"
    return f"after {len(found.trials)} trials the best is trial {best.number}: {values}; {settings(best)}"


def settings(trial: Trial) -> str:
    """Return what a trial has chosen, in one line."""
    return ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items()) or "the only point"


def counted(found: SearchResult) -> str:
    """Say how many trials there were of each kind."""
    states = [trial.state for trial in found.trials if trial.same_as is None]
    told = [f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed") if state in states]
    copies = len(found.trials) - len(states)
    return ", ".join([*told, *([f"{copies} of a point tried before"] if copies else [])]) or "no trials"


def amount(metric: str, value: float) -> str:
    """Return a quantity with its unit."""
    unit = UNITS[metric]
    if unit == "s":
        return format_seconds(value)
    if unit == "B":
        return format_bytes(value)
    return format_si(value, unit) if unit else f"{value:.4f}"


def quantity(each: Quantity | None) -> str:
    """Return a quantity with its interval."""
    if each is None:
        return DASH
    if each.low is None or each.high is None:
        return amount(each.metric, each.value)
    ends = f"{amount(each.metric, each.low)} to {amount(each.metric, each.high)}"
    return f"{amount(each.metric, each.value)} ({ends})"


def shown_metrics(found: SearchResult) -> list[str]:
    """Return the objectives, and what is constrained beside them."""
    names = [one.metric for one in found.request.objectives] + [one.quantity for one in found.request.constraints]
    return list(dict.fromkeys(str(name) for name in names))


def caveats(found: SearchResult) -> list[str]:
    """Return what must be known before two points are held against each other."""
    lines = []
    times = [name for name in shown_metrics(found) if UNITS[name] == "s"]
    if times and found.controls:
        ratios = [one.ratio for one in found.controls]
        again = "once more" if len(ratios) == 1 else f"{len(ratios)} times more"
        took = f"{min(ratios):.3f}" if len(ratios) == 1 else f"{min(ratios):.3f} to {max(ratios):.3f}"
        lines.append(
            f"trials were timed one after another; trial {found.controls[0].trial}, timed {again} between them, took "
            f"{took} times as long as at first: differences as small as that say nothing"
        )
    elif times:
        lines.append("trials were timed one after another, and nothing shows how far the machine has drifted")
    lines += _final_lines(found)
    if "accuracy" in shown_metrics(found):
        lines.append("points were chosen on these data: their accuracy on other data tends to be lower")
    if not isinstance(found.rank_check, Missing):
        lines.append(
            f"candidates: Kendall's tau between the score without training and the accuracy reached is "
            f"{found.rank_check.tau:.2f} over {found.rank_check.n}"
        )
    elif found.candidates:
        lines.append(f"candidates: {found.rank_check.why}")
    return lines


def _final_lines(found: SearchResult) -> Iterator[str]:
    if isinstance(found.finals, Missing):
        return
    contest = found.finals.contest
    told = []
    for one in contest.standings:
        ratio = one.joint
        if isinstance(ratio, Missing):
            told.append(f"{one.entrant}: {ratio.why}")
        else:
            told.append(f"{one.entrant} {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})")
    yield (
        f"the best timed again beside each other, {contest.restarts} restarts, latency over that of "
        f"{contest.best_uniform}: {'; '.join(told)}"
    )
    control = contest.control
    if not isinstance(control, Missing):
        yield f"the same point twice in that run: {control.value:.3f} ({control.low:.3f} to {control.high:.3f})"


def failures(found: SearchResult) -> list[tuple[str, int]]:
    """Return why trials failed, and how often, the most frequent first."""
    counts: dict[str, int] = {}
    for trial in found.trials:
        if trial.state == "failed" and trial.reason is not None and trial.same_as is None:
            counts[str(trial.reason)] = counts.get(str(trial.reason), 0) + 1
    return sorted(counts.items(), key=lambda item: -item[1])


def _points(found: SearchResult) -> Table:
    """Return the Pareto set, or the point that comes nearest."""
    metrics = shown_metrics(found)
    grid = new_grid()
    for title in ("trial", *metrics, "settings"):
        grid.add_column(title, overflow="fold")
    numbers = found.pareto or (() if found.best is None else (found.best,))
    chosen = [trial for trial in found.trials if trial.number in numbers]
    first = found.request.objectives[0].metric
    chosen.sort(key=lambda trial: trial.value(first) or 0.0, reverse=first == "accuracy")
    for trial in chosen[:_MOST_ROWS]:
        by_name = {each.metric: each for each in trial.quantities}
        cells = [quantity(by_name.get(name)) for name in metrics]
        grid.add_row(plain(str(trial.number)), *(plain(cell) for cell in cells), plain(settings(trial)))
    return grid


def _decided(found: SearchResult) -> Iterator[RenderableType]:
    for one in found.importances:
        shares = sorted(one.shares.items(), key=lambda item: -item[1])[:4]
        told = ", ".join(f"{name} {share:.0%}" for name, share in shares)
        yield plain(f"{one.metric} is decided by {told}")


def _wanted(found: SearchResult, trial: Trial) -> list[Quantity]:
    return [each for each in trial.quantities if each.metric in shown_metrics(found)]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
