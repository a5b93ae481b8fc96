"""What ``hwbench optimize`` has found: tables for the terminal, and a page that says how it is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from hwbench.records.base import Missing
from hwbench.records.comparison import Ratio
from hwbench.records.contest import Standing
from hwbench.records.measurement import Built
from hwbench.records.optimization import Candidate, Certified, Drop, Made, OptimizationResult, PredictedMeasured
from hwbench.records.verification import Certificate
from hwbench.report.html import asset, template
from hwbench.report.scatter import Point, scatter
from hwbench.report.text import plain
from hwbench.report.verification import certificate_text, score_text
from hwbench.report.words import DASH
from hwbench.units import format_bytes, format_seconds, format_si

Row = tuple[str, str, str, str, str, str]
TITLES: Row = ("candidate", "{objective}", "of the best uniform one", "on the selection split", "size", "")
_MOST_REASONS = 8
_WORDS = {
    "MET": "the goal is met and certified",
    "MISSED": "the goal is missed",
    "UNSETTLED": "there is not enough data to certify the goal",
}


def render_optimization(found: OptimizationResult, folder: Path) -> RenderableType:
    """Return what a person wants to see of ``found``, which lies in ``folder``."""
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title in titles(found):
        grid.add_column(
            title, overflow="fold", justify="right" if title in {found.request.measured, "size"} else "left"
        )
    for row in rows(found):
        grid.add_row(*(plain(cell) for cell in row))
    return Group(
        plain(f"{found.model.name}: {_WORDS[found.word]}: {found.winner.name} in {folder / found.bundle}", "bold"),
        *(plain(f"warning: {warning}", "yellow") for warning in found.warnings),
        grid,
        *(plain(line) for line in evidence(found)),
        *(plain(f"goal '{each.goal.text}': {each.why}", "" if each.met else "yellow") for each in found.goals),
        *(plain(f"{each.constraint} binds: {each.why}; what would relax it: {each.relax}") for each in found.binding),
        *(plain(f"not built: {line}", "dim") for line in not_built(found)[:_MOST_REASONS]),
        plain(f"check it where it is deployed: python {folder / found.bundle}/run_example.py", "dim"),
    )


def titles(found: OptimizationResult) -> tuple[str, ...]:
    """Return the heads of the columns."""
    return tuple(title.format(objective=found.request.measured) for title in TITLES)


def rows(found: OptimizationResult) -> list[Row]:
    """Return a row a candidate: those of the last contest, the best first; then what was left on the way."""
    last = [each.entrant for each in found.contest.standings]
    others = [each.name for each in found.candidates if each.name not in last]
    return [_row(found, found.candidate(name)) for name in (*last, *others)]


def _row(found: OptimizationResult, each: Candidate) -> Row:
    standing = found.contest.standing(each.name)
    ratio = DASH
    if standing is not None:
        ratio = "1 (the best uniform one)" if each.name == found.contest.best_uniform else ratio_text(standing.ratio)
    size = format_bytes(each.made.engine.size_bytes) if isinstance(each.made, Made) else DASH
    value = DASH if standing is None else value_text(found, standing.value)
    return each.name, value, ratio, drop_text(each), size, _remark(found, each, standing)


def _remark(found: OptimizationResult, each: Candidate, standing: Standing | None) -> str:
    choice = found.verdicts.choice
    if each.name == choice.entrant:
        return "chosen"
    if isinstance(each.made, Missing):
        return f"not built: {each.made}"
    if not each.counts:
        drop = each.selected if isinstance(each.selected, Missing) else each.selected.drop
        within = not isinstance(drop, Missing) and drop.drop <= found.request.max_drop
        return "too few samples to expect a certificate" if within else "falls by too much"
    if standing is None:
        return "not in the last contest: far slower, or of an earlier round"
    if each.uniform:
        return ""
    return choice.refused.get(each.name, "slower than what was chosen")


def ratio_text(ratio: Ratio | Missing) -> str:
    """Return a ratio with its interval."""
    return DASH if isinstance(ratio, Missing) else f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def value_text(found: OptimizationResult, value: float) -> str:
    """Return a value of the objective."""
    if found.request.measured == "latency":
        return format_seconds(value)
    return format_bytes(value) if found.request.measured == "memory" else format_si(value, "J")


def drop_text(each: Candidate) -> str:
    """Return how far a candidate falls on the selection split."""
    if isinstance(each.selected, Missing):
        return DASH
    drop = each.selected.drop
    score = next((score_text(score) for score in each.selected.scores[:1]), "")
    return score if isinstance(drop, Missing) else f"{score}; {_fall(drop)}".removeprefix("; ")


def _fall(drop: Drop) -> str:
    return f"falls by {100 * drop.drop:+.2f} pp" if drop.metric in _SHARES else f"falls by {drop.drop:+.4g}"


_SHARES = {"accuracy", "other decisions", "top-5", "macro F1"}


def evidence(found: OptimizationResult) -> Iterator[str]:
    """Say how it is known: the choice, the floor, the certificate."""
    contest, choice = found.contest, found.verdicts.choice
    yield f"{choice.entrant}: {choice.word}: {choice.why}"
    floor = DASH if isinstance(contest.floor, Missing) else f"{contest.floor:.1%}"
    yield (
        f"timed in one interleaved run of {contest.restarts} restarts, up to {contest.most_alive} processes beside "
        f"each other; A/A: {contest.reference} to itself {ratio_text(contest.control)}, floor {floor}"
    )
    yield from (certified_text(each, found.request.max_drop) for each in found.verdicts.certified)
    if len(found.verdicts.certified) > 1:
        tried = len(found.verdicts.certified)
        yield f"{tried} were tried on the certification split: each word holds with 95 %, all: {1 - 0.05 * tried:.0%}"
    parts = found.parts
    yield (
        f"learned from {parts.learn.facts.samples} samples, selected on {parts.select.facts.samples}, certified on "
        f"{parts.certify.facts.samples}; seed {parts.seed}"
    )


def certified_text(each: Certified, max_drop: float) -> str:
    """Return what the certification split says of a candidate."""
    if isinstance(each.found.certificate, Certificate):
        return f"{each.entrant}: {certificate_text(each.found.certificate)}"
    drop = each.found.drop
    if isinstance(drop, Missing):
        return f"{each.entrant}: {each.word}: {drop}"
    return (
        f"{each.entrant}: {each.word}: {drop.drop:.2%} of {drop.n} decisions differ (at most {drop.high:.2%}); "
        f"accuracy cannot fall by more; allowed: {max_drop:.2%}"
    )


def not_built(found: OptimizationResult) -> list[str]:
    """Return what could not be built, and why."""
    return [f"{each.engine} {each.precision}".rstrip() + f": {each.reason}" for each in found.not_built]


def render_optimization_page(found: OptimizationResult, predictions: tuple[PredictedMeasured, ...]) -> str:
    """Return one HTML file that needs no network.

    Args:
        found: the result.
        predictions: what was expected of each proposal beside what was measured.
    """
    return template("optimization.html.j2").render(
        found=found,
        headline=f"{_WORDS[found.word]}: {found.winner.name}",
        titles=titles(found),
        rows=rows(found),
        evidence=list(evidence(found)),
        not_built=not_built(found),
        chart=scatter(
            _points(found), f"{found.request.measured} [{found.contest.unit}]", "drop on the selection split"
        ),
        decisions=found.winner.decisions,
        layers=_layers(found.winner),
        predictions=[_prediction(found, each) for each in predictions],
        versions=_versions(found),
        style=Markup(asset("templates/style.css")),
    )


def _points(found: OptimizationResult) -> list[Point]:
    """Return every candidate with its objective and its drop; values of rounds stand in where it was timed no later."""
    front = {each.entrant for each in found.pareto}
    points = []
    for each in found.candidates:
        held = [found.contest, *(r.contest for r in reversed(found.rounds) if not isinstance(r.contest, Missing))]
        standing = next((s for contest in held if (s := contest.standing(each.name)) is not None), None)
        if standing is None or isinstance(each.selected, Missing) or isinstance(each.selected.drop, Missing):
            continue
        points.append(
            Point(
                label=each.name,
                x=standing.value,
                y=each.selected.drop.drop,
                kind="chosen" if each.name == found.winner.name else "uniform" if each.uniform else "planned",
                front=each.name in front,
            )
        )
    return points


def _layers(winner: Candidate) -> list[tuple[str, str, str, str]]:
    """Return what became of each layer that was to be quantised."""
    if isinstance(winner.made, Missing):
        return []
    return [(each.layer, each.asked, each.got, each.why or "") for each in winner.made.engine.lowered.layers]


def _prediction(found: OptimizationResult, each: PredictedMeasured) -> tuple[str, str, str, str]:
    expected = each.predicted
    interval = f"{value_text(found, expected.low)} to {value_text(found, expected.high)}"
    told = f"{value_text(found, expected.value)} ({interval}; {expected.coverage:.0%}, tier {expected.tier})"
    if isinstance(each.measured, Missing):
        return each.name, told, DASH, ""
    inside = "inside" if each.inside is True else "outside"
    return each.name, told, value_text(found, each.measured), inside


def _versions(found: OptimizationResult) -> list[tuple[str, str]]:
    made = [(each.engine, each.made.engine.built) for each in found.candidates if isinstance(each.made, Made)]
    built = {engine: each.version for engine, each in made if isinstance(each, Built)}
    return [("hwbench", found.environment.hwbench), ("device", found.device.title), *sorted(built.items())]
