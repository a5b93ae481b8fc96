"""A layer difference in the terminal (80 columns do) and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hwbench.records.base import Missing
from hwbench.records.difference import DifferenceRow, LayerDifference, Residual, RowKind, Side
from hwbench.records.measurement import LayerTime
from hwbench.report.delimited import Line, safe
from hwbench.report.text import plain
from hwbench.report.words import DASH
from hwbench.units import format_seconds

_MOST_NAMES = 3  # layers or units listed in one row of the terminal
_KIND: dict[RowKind, str] = {
    "both": "",
    "only_in_a": "only in A",
    "only_in_b": "only in B",
    "unseen_in_a": "no unit of A is known to stand for it",
    "unseen_in_b": "no unit of B is known to stand for it",
    "inserted_in_a": "inserted by the runtime in A (reorder, convert)",
    "inserted_in_b": "inserted by the runtime in B (reorder, convert)",
}
_LEGEND = (
    "Differences are B minus A: negative where B is faster. Units stand in one row when they are tied by the source "
    "layers they stand for. The column adds up to the difference of the end-to-end medians; «in no unit» is what the "
    "runtime's own clock gives to no unit. The end-to-end interval is B's 95% interval less A's, end against "
    "opposite end, and says nothing about what changes from one process to the next. A layer's time is the median "
    "of one profiling run, scaled to the timed median, and has no interval: do not read much into small rows."
)
_COLUMNS = ("kind", "group", "layers", "ops", "a_s", "b_s", "difference_s", "share",
            *(f"{side}_{what}" for side in "ab" for what in ("units", "ops", "kernels", "precisions")),
            "missing")  # fmt: skip


def render_difference(difference: LayerDifference, top: int | None = 20) -> RenderableType:
    """Return the two sides, the end-to-end difference, the ``top`` rows (None: all), and what the rest adds up to."""
    parts: list[RenderableType] = [_side(difference.a), _side(difference.b), _end_to_end(difference)]
    parts.extend(plain(f"note: {note}", "yellow") for note in difference.notes)
    return Group(*parts, Text(), _table(difference, top), plain(_methods(difference), "dim"), plain(_LEGEND, "dim"))


def difference_csv(difference: LayerDifference) -> str:
    """Return one line a row and one for the residual (RFC 4180, SI units): ``difference_s`` adds up to end to end."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, _COLUMNS, restval="")
    writer.writeheader()
    for line in _lines(difference):
        share = line["share"]
        if isinstance(share, Missing):
            line = {**line, "share": "", "missing": f"share: {share}"}  # noqa: PLW2901 - the same line, as CSV
        writer.writerow({name: safe(value) for name, value in line.items()})
    return out.getvalue()


def _lines(difference: LayerDifference) -> Iterator[Line]:
    for row in difference.rows:
        yield {
            "kind": " + ".join(row.kinds),
            "group": row.group or "",
            "layers": " + ".join(row.layers),
            "ops": " + ".join(row.ops),
            "a_s": row.a_s,
            "b_s": row.b_s,
            "difference_s": row.difference_s,
            "share": row.share,
            **_units("a", row.a),
            **_units("b", row.b),
        }
    rest = difference.residual
    yield {
        "kind": "unattributed",
        "a_s": rest.a_s,
        "b_s": rest.b_s,
        "difference_s": rest.difference_s,
        "share": rest.share,
    }


def _units(side: str, rows: Sequence[LayerTime]) -> Line:
    units = [row.unit for row in rows]
    return {
        f"{side}_units": " + ".join(unit.name for unit in units),
        f"{side}_ops": " + ".join(unit.op for unit in units),
        f"{side}_kernels": " + ".join("?" if isinstance(unit.kernel, Missing) else unit.kernel for unit in units),
        f"{side}_precisions": " + ".join(
            "?" if isinstance(unit.precision, Missing) else unit.precision for unit in units
        ),
    }


def _side(side: Side) -> Text:
    asked = f" (asked {side.precision_asked})" if side.precision_asked != side.precision else ""
    low, high = format_seconds(side.median_low_s, 4), format_seconds(side.median_high_s, 4)
    status = "" if side.status == "valid" else f", {side.status.upper()}"
    return plain(
        f"{side.name}: {side.label}{asked}, {side.model}, {side.threads} threads: median "
        f"{format_seconds(side.median_s, 4)} (95% interval {low} to {high}){status}"
    )


def _end_to_end(difference: LayerDifference) -> Text:
    low, high = (_signed(value) for value in (difference.low_s, difference.high_s))
    text = f"B minus A: {_signed(difference.difference_s)} ({low} to {high})"
    if difference.a.median_s > 0:
        text += f", {difference.difference_s / difference.a.median_s * 100:+.1f}% of A"
    if not difference.resolved:
        text += ". The intervals overlap: which is faster cannot be told, and the rows below may be noise"
    return plain(text, "bold")


def _table(difference: LayerDifference, top: int | None) -> Table:
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    titles = {"unit": "layers", "module": "module", "op": "op"}
    grid.add_column(titles[difference.grouping], overflow="fold", ratio=1)
    for title in ("A", "B", "B-A", "share"):
        grid.add_column(title, justify="right", no_wrap=True)
    shown = difference.rows if top is None else difference.rows[:top]
    for row in shown:
        grid.add_row(_what(row), *_cells(row.a_s if row.a else None, row.b_s if row.b else None, row))
    if rest := difference.rows[len(shown) :]:
        grid.add_row(f"{len(rest)} other rows", *_summed(rest, difference))
    left = difference.residual
    grid.add_row("in no unit (unattributed)", *_cells(left.a_s, left.b_s, left))
    grid.add_section()
    medians = (format_seconds(difference.a.median_s), format_seconds(difference.b.median_s))
    grid.add_row("end to end", *medians, _signed(difference.difference_s), "")
    return grid


def _cells(a_s: float | None, b_s: float | None, part: DifferenceRow | Residual) -> tuple[str, str, str, str]:
    """Return the numbers of a row or the residual; a side without units has a dash."""
    return (
        DASH if a_s is None else format_seconds(a_s),
        DASH if b_s is None else format_seconds(b_s),
        _signed(part.difference_s),
        DASH if isinstance(part.share, Missing) else f"{part.share * 100:.1f}%",
    )


def _summed(rows: Sequence[DifferenceRow], difference: LayerDifference) -> tuple[str, str, str, str]:
    change = sum(row.difference_s for row in rows)
    share = f"{change / difference.difference_s * 100:.1f}%" if difference.difference_s else DASH
    return (
        format_seconds(sum(row.a_s for row in rows)),
        format_seconds(sum(row.b_s for row in rows)),
        _signed(change),
        share,
    )


def _what(row: DifferenceRow) -> Text:
    """Return the layers (or the group) and, below them, what each side runs for them."""
    if row.group is not None:
        return plain(f"{row.group} (layers: {len(row.layers)}, units: {len(row.a)} in A, {len(row.b)} in B)")
    kinds = "; ".join(words for kind in row.kinds if (words := _KIND[kind]))
    text = plain(_some(row.layers) or kinds)
    if row.layers and kinds:
        text.append(f" ({kinds})", style="yellow")
    for name, units in (("A", row.a), ("B", row.b)):
        if units:
            text.append("\n")
            text.append_text(plain(f"{name}: {_some(_alike(units))}", "dim"))
    return text


def _alike(rows: Sequence[LayerTime]) -> list[str]:
    """Return what was run, units alike together with their number; with their times where they are not all alike."""
    times: dict[str, list[float]] = {}
    for row in rows:
        unit = row.unit
        told = [unit.op, *(DASH if isinstance(v, Missing) else v for v in (unit.kernel, unit.precision))]
        times.setdefault(" ".join(told), []).append(row.scaled_s)
    return [
        (f"{len(found)} x " if len(found) > 1 else "")
        + name
        + (f" {format_seconds(sum(found))}" if len(times) > 1 else "")
        for name, found in sorted(times.items(), key=lambda item: -sum(item[1]))
    ]


def _some(names: Sequence[str]) -> str:
    """Join names; of many, the first ones and the last."""
    if len(names) <= _MOST_NAMES + 1:
        return " + ".join(names)
    return f"{' + '.join(names[: _MOST_NAMES - 1])} + … + {names[-1]} ({len(names)} in all)"


def _methods(difference: LayerDifference) -> str:
    told = (
        f"{side.name}: {side.method}; {side.iterations} inferences, {side.profiling_overhead * 100:+.1f}% against the "
        "timed run"
        for side in (difference.a, difference.b)
    )
    return "\n".join(told)


def _signed(seconds: float) -> str:
    return f"+{format_seconds(seconds)}" if seconds > 0 else format_seconds(seconds)
