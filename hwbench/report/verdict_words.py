"""A comparison as short sentences and cells, the same in the terminal, in Markdown and in JUnit's XML."""

from __future__ import annotations

import statistics

from hwbench.records.base import Missing
from hwbench.records.comparison import (
    AccuracyChange,
    Comparison,
    Difference,
    GoalOutcome,
    Interleaved,
    OneOff,
    Pair,
    Ratio,
    Verdict,
)
from hwbench.units import format_bytes, format_seconds, format_si

HEADINGS = ("metric", "A", "B", "B/A", "interval", "verdict")
GOALS = {"missed": "MISSED", "holds": "holds", "unknown": "cannot tell"}
_PHASES = {"load": "load", "compile": "compile", "first_inference": "first inference"}
_WIDE, _WIDEST = 10.0, 1000.0


def headline(pair: Pair) -> str:
    """Return the verdict on speed as a sentence."""
    verdict = pair.headline
    if verdict is None:
        return f"{pair.label}: there is no speed to compare"
    change = signed(verdict.ratio.value)
    sentence = {
        "SAME": f"B is the SAME as A within {verdict.min_ratio - 1:.2g}",
        "FASTER": f"B is FASTER than A: {verdict.metric} {change}",
        "SLOWER": f"B is SLOWER than A: {verdict.metric} {change}",
    }.get(verdict.word, "INCONCLUSIVE")
    return f"{pair.label}: {sentence}"


def how(comparison: Comparison) -> str:
    """Return how the two sides were measured."""
    source = comparison.source
    if not isinstance(source, Interleaved):
        return "two saved results, not interleaved"
    plan = source.plan
    restarts = 1 + max(item.restart for item in source.processes)
    rounds = sum(len(item.blocks) for item in source.processes if item.process == "a")
    return (
        f"measured in {source.elapsed_s:.0f} s; A, A again and B, each started {_times(restarts)}; {rounds} rounds in "
        f"random order; threads: {plan.threads}; look {source.looked} of {len(plan.looks)}"
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def cells(verdict: Verdict) -> tuple[str, ...]:
    """Return one metric as the cells of a row, in the order of ``HEADINGS``."""
    return (
        verdict.metric,
        amount(verdict.a, verdict.unit),
        amount(verdict.b, verdict.unit),
        signed(verdict.ratio.value),
        interval(verdict.ratio),
        verdict.word,
    )


def amount(value: float, unit: str) -> str:
    """Return a value of a metric for people."""
    if unit == "s":
        return format_seconds(value, 4)
    return format_bytes(value) if unit == "B" else format_si(value, unit, 4)


def signed(ratio: float) -> str:
    """``1.031`` -> ``+3.1%``."""
    if ratio < _WIDE:
        return f"{ratio - 1:+.1%}"
    return f"x{ratio:.3g}" if ratio < _WIDEST else f">x{_WIDEST:g}"


def interval(ratio: Ratio) -> str:
    """Return the interval of a ratio as changes."""
    return f"{signed(ratio.low)} to {signed(ratio.high)}"


def confidence(pair: Pair) -> str:
    """Return what the intervals of a pair hold."""
    levels = sorted({verdict.ratio.confidence for verdict in pair.verdicts})
    words = " and ".join(f"{100 * level:.3g}%" for level in levels)
    kept = "; all looks together hold with 95%" if levels and levels[-1] > 0.95 else ""
    return f"intervals hold with {words}{kept}" if levels else "no intervals"


def remarks(pair: Pair) -> list[str]:
    """Return everything else that is to be said about a pair, a line each."""
    lines = [f"{v.metric}: {v.why}" for v in pair.verdicts if v.why is not None]
    controls = [(v.metric, v.control) for v in pair.verdicts if isinstance(v.control, Ratio)]
    if controls:
        told = ", ".join(f"{metric} {interval(control)}" for metric, control in controls)
        lines.append(f"control, A against A in another process ({controls[0][1].confidence:.0%}): {told}")
    lines += [f"no {name}: {reason}" for name, reason in pair.absent.items()]
    lines += [f"{_PHASES[item.name]} (no verdict): {_one_off(item)}" for item in pair.one_off]
    lines += [accuracy(pair.accuracy)] if isinstance(pair.accuracy, AccuracyChange) else []
    lines += outputs(pair)
    lines += [f"A: {note}" for note in pair.a.notes] + [f"B: {note}" for note in pair.b.notes]
    lines += [difference(item) for item in pair.differences]
    return lines


def accuracy(found: AccuracyChange) -> str:
    """Return how the accuracy of B is to that of A."""
    return (
        f"accuracy: A {found.a:.2%}, B {found.b:.2%}: {100 * found.difference:+.2f} pp ({100 * found.low:+.2f} pp to "
        f"{100 * found.high:+.2f} pp; n = {found.n}, {found.lost} lost and {found.won} won; each end holds with 95%)"
    )


def outputs(pair: Pair) -> list[str]:
    """Return how far B's outputs are from A's, where both were there to be compared."""
    found = pair.outputs.b
    if isinstance(found, Missing):
        return [] if found.code == "not_kept" else [f"outputs (no verdict): {found}"]
    if not found.finite:
        return ["outputs (no verdict): those of B hold NaN or infinity"]
    if found.max_absolute == 0:
        return ["outputs (no verdict): B's equal A's"]
    return [
        f"outputs (no verdict): B's differ from A's by {found.max_absolute:.2g} at most, "
        f"{found.max_relative:.2g} of the largest value"
    ]


def difference(item: Difference) -> str:
    """Return one thing that is not the same on both sides."""
    if item.hinders:
        return f"NOT COMPARABLE, waved through: {item.name}: {item.a} in A, {item.b} in B"
    return f"differs: {item.name}: {item.a} in A, {item.b} in B"


def goal(outcome: GoalOutcome) -> str:
    """Return what became of a goal."""
    return f"--fail-if {outcome.goal.text}: {GOALS[outcome.status]}: {outcome.why}"


def _one_off(item: OneOff) -> str:
    if isinstance(item.a_s, Missing) and isinstance(item.b_s, Missing) and item.a_s == item.b_s:
        return item.a_s.why
    return f"A {_seconds(item.a_s)}, B {_seconds(item.b_s)}"


def _seconds(values: tuple[float, ...] | Missing) -> str:
    return values.why if isinstance(values, Missing) else format_seconds(statistics.median(values))
