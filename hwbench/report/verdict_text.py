"""A comparison in the terminal; made for 80 columns."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hwbench.records.comparison import Comparison, Pair, Side
from hwbench.report import verdict_words as words
from hwbench.report.text import plain

_STYLES = {
    "SAME": "green", "FASTER": "bold green", "LESS": "bold green", "SLOWER": "bold red", "MORE": "bold red",
    "INCONCLUSIVE": "yellow",
}  # fmt: skip
_GOAL_STYLES = {"missed": "bold red", "holds": "green", "unknown": "yellow"}


def render_comparison(comparison: Comparison) -> RenderableType:
    """Return the verdicts with what they rest on."""
    parts: list[RenderableType] = []
    for pair in comparison.pairs:
        parts += [*_pair(pair), Text()]
    parts.append(plain(f"{words.how(comparison)}; {comparison.device.title}", "dim"))
    parts.extend(plain(f"note: {warning}", "yellow") for warning in comparison.warnings)
    return Group(*parts)


def _pair(pair: Pair) -> list[RenderableType]:
    word = pair.headline.word if pair.headline is not None else "INCONCLUSIVE"
    parts: list[RenderableType] = [plain(words.headline(pair), _STYLES[word])]
    parts += [_side("A", pair.a), _side("B", pair.b)]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in words.HEADINGS:
        right = heading in {"A", "B", "B/A", "interval"}
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for verdict in pair.verdicts:
        *values, name = words.cells(verdict)
        table.add_row(*(plain(value) for value in values), plain(name, _STYLES[verdict.word]))
    if pair.verdicts:
        parts += [table, plain(words.confidence(pair), "dim")]
    parts.extend(_hanging(words.goal(outcome), _GOAL_STYLES[outcome.status]) for outcome in pair.goals)
    parts.extend(_hanging(line) for line in words.remarks(pair))
    return parts


def _side(letter: str, side: Side) -> RenderableType:
    engine = f"{side.engine} {side.built.version} {side.built.precision}"
    return _hanging(f"{letter}: {side.given}: {side.model}, {engine}, {side.created_at}")


def _hanging(line: str, style: str = "") -> RenderableType:
    return Padding(plain(line, style), (0, 0, 0, 2))
