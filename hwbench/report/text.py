"""A result in the terminal.

Every string that comes from outside becomes a ``rich.text.Text`` (never markup) with its control characters made
visible: a model's name must neither colour the screen nor move the cursor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement as Width
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from hwbench.records.base import Missing
from hwbench.records.measurement import LayerTable, LayerTime, Measurement, ProfileResult
from hwbench.report import words
from hwbench.report.delimited import to_csv
from hwbench.report.mode_words import mode_lines
from hwbench.report.ranking import labels
from hwbench.report.table import COSTS, VALIDITY, Cell, Notes, Row, Table, tabulate
from hwbench.report.transfer_words import TITLE as TRANSFERS
from hwbench.report.transfer_words import transfer_line
from hwbench.units import format_seconds, format_si

__all__ = ["hanging", "indented", "layers_table", "new_grid", "noted", "plain", "render_table", "to_csv"]

_FAILED = "engine_failed"  # the code of what a worker should have brought back
_NARROW = 60  # columns below which a table falls apart
_STATUS_STYLE = {"valid": "green", "suspect": "yellow", "invalid": "bold red"}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def plain(text: str, style: str = "") -> Text:
    """Return ``text`` as it is: no markup, no escape sequences, no text direction tricks; one line a line."""
    lines = (_CONTROL.sub(lambda match: repr(match[0])[1:-1], line) for line in text.split("\n"))
    return Text("\n".join(lines), style=style)


def render_table(result: ProfileResult, *, estimates: bool = True) -> RenderableType:
    """Return what a person wants to see of ``result``, for any width and with or without colour.

    In this order: model, device, the table(s) with the verdict, footnotes, energy estimates, what was built other than
    asked, findings with their cures, engines without numbers. Without ``estimates`` the estimates are left out, for
    whoever shows them elsewhere.
    """
    tables = tabulate(result)
    parts: list[RenderableType] = [
        _fact("model", "; ".join(words.model_facts(result.model))),
        *(_fact("", f"warning: {warning}", "yellow") for warning in result.model.warnings),
        _fact("device", "; ".join(words.device_facts(result))),
    ]
    if status := words.run_status(result):
        parts.append(_fact("run", status, "bold yellow"))
    for table in tables.tables:
        parts.extend([Text(), _Tables(table), plain(table.ranking.sentence, "bold")])
    if tables.tables:
        parts.append(plain(tables.legend, "dim"))
    else:
        parts.extend([Text(), plain("No engine was measured.", "bold")])
    parts.extend(hanging(f"[{number}]", note) for number, note in enumerate(tables.notes, 1))
    parts.extend(_sections(result, estimates=estimates))
    return Group(*parts)


def layers_table(measurement: Measurement, top: int = 15) -> RenderableType:
    """Return the ``top`` layers of a measurement by time, the rest as one line, and what no layer accounts for."""
    layers = measurement.layers
    if isinstance(layers, Missing):
        return plain(f"{measurement.label}: no per-layer times: {layers}")
    notes = Notes()
    grid = new_grid()
    for title in ("op", "layers", "kernel", "precision"):
        grid.add_column(title, overflow="fold", min_width=4)
    for title in ("time", "share", "rate"):
        grid.add_column(title, justify="right", no_wrap=True)
    rows = sorted(layers.rows, key=lambda row: -row.scaled_s)
    for row in rows[:top]:
        grid.add_row(*_layer_cells(row, notes))
    sums = RichTable.grid(padding=(0, 2, 0, 0))
    sides: tuple[Literal["left", "right"], ...] = ("left", "right", "right")
    for justify in sides:
        sums.add_column(justify=justify)
    for name, seconds in _rest(layers, rows[top:]):
        share = f"{seconds / layers.median_s * 100:.1f}%" if layers.median_s > 0 else words.DASH
        sums.add_row(plain(name), format_seconds(seconds), share)
    return Group(
        plain(f"{measurement.label}: layers by time", "bold"),
        grid,
        sums,
        plain(
            f"{layers.method}; {layers.iterations} inferences, {layers.profiling_overhead * 100:+.1f}% against the "
            "timed run, scaled to its median; rate counts a multiply-add as two operations",
            "dim",
        ),
        *(hanging(f"[{number}]", note) for number, note in enumerate(notes.texts, 1)),
    )


class _Tables:
    """One wide table where it fits, else speed above and costs below; in a very narrow terminal a list."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width < _NARROW:
            for row in self.table.rows:
                yield from _listed(self.table, row)
            return
        wide = _columns(self.table, {**self.table.speed, **COSTS, **VALIDITY})
        if Width.get(console, options.update(max_width=1000), wide).maximum <= options.max_width:
            yield wide
        else:
            yield _columns(self.table, {**self.table.speed, **VALIDITY})
            yield _columns(self.table, COSTS)


def _listed(table: Table, row: Row) -> Iterator[RenderableType]:
    yield plain(f"{row.label}: {row.mark}" if row.mark else row.label, "bold")
    cells = [Text.assemble(f"{title} ", _cell(row, key)) for key, title in {**table.speed, **COSTS, **VALIDITY}.items()]
    yield Padding(Text(", ").join(cells), (0, 0, 0, 2), expand=False)


def _columns(table: Table, columns: dict[str, str]) -> RichTable:
    grid = new_grid()
    marked = any(key in columns for key in table.speed)
    if marked:
        grid.add_column("", no_wrap=True)
    grid.add_column(f"{table.mode} of" if marked else "costs of", overflow="fold")
    for key, title in columns.items():
        grid.add_column(title, justify="left" if key in VALIDITY else "right", overflow="fold")
    for row in table.rows:
        mark = [Text(row.mark or "", style="bold green")] if marked else []
        grid.add_row(*mark, plain(row.label, "bold" if row.mark else ""), *(_cell(row, key) for key in columns))
    return grid


def new_grid() -> RichTable:
    """Return an empty table as all tables here are."""
    return RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


def _cell(row: Row, key: str) -> Text:
    style = _STATUS_STYLE[row.status] if key in VALIDITY else ""
    return noted(row.cells[key], style)


def noted(cell: Cell, style: str = "") -> Text:
    """Return a cell with the numbers of its footnotes."""
    text = plain(cell.text, style)
    for number in cell.notes:
        text.append(f" [{number}]", style="dim")
    return text


def _layer_cells(row: LayerTime, notes: Notes) -> list[Text]:
    unit, rate = row.unit, words.achieved_ops_per_s(row)
    return [
        plain(unit.op),
        plain(" + ".join(unit.members) or f"{unit.name} (inserted by the runtime)"),
        *(noted(notes.missing(v)) if isinstance(v, Missing) else plain(v) for v in (unit.kernel, unit.precision)),
        plain(format_seconds(row.scaled_s)),
        plain(f"{row.share * 100:.1f}%"),
        noted(notes.missing(rate) if isinstance(rate, Missing) else Cell(format_si(rate, "op/s"))),
    ]


def _rest(layers: LayerTable, rest: Iterable[LayerTime]) -> list[tuple[str, float]]:
    others = [row.scaled_s for row in rest]
    lines = [(f"{len(others)} other layers", sum(others))] if others else []
    return [*lines, ("no layer (unattributed)", layers.unattributed_s), ("median of the timed run", layers.median_s)]


def _sections(result: ProfileResult, *, estimates: bool) -> list[RenderableType]:
    pairs = list(zip(labels(result.measurements), result.measurements, strict=True))
    parts: list[RenderableType] = []
    lines = [(name, line) for name, m in pairs if estimates and (line := words.estimate_line(m))]
    parts.extend(_section(f"Energy, estimated (no measurement; {words.estimate_basis(result.measurements)}):", lines))
    lines = [(name, line) for name, m in pairs if (line := words.built_difference(m))]
    parts.extend(_section("Built otherwise than asked:", lines))
    lines = [(name, line) for name, m in pairs for line in mode_lines(m)]
    parts.extend(_section("Seen in this mode:", lines))
    lines = [(name, line) for name, m in pairs if (line := transfer_line(m))]
    parts.extend(_section(f"{TRANSFERS}:", lines))
    parts.extend(_findings(pairs))
    lines = [(name, str(m.layers)) for name, m in pairs if isinstance(m.layers, Missing) and m.layers.code == _FAILED]
    parts.extend(_section("Per-layer times failed:", lines, "bold red"))
    absent = [(f"{entry.engine} {entry.precision}", *words.not_measured_line(entry)) for entry in result.not_measured]
    failed = [(name, why) for name, word, why in absent if word == "FAILED"]
    others = [(name, why) for name, word, why in absent if word != "FAILED"]
    return [*parts, *_section("Failed:", failed, "bold red"), *_section("Not measured:", others)]


def _findings(pairs: list[tuple[str, Measurement]]) -> list[RenderableType]:
    """Return the findings, each kind once with all the measurements it speaks against; the invalid ones first."""
    kinds: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for name, measurement in pairs:
        for finding in measurement.validity.findings:
            kinds.setdefault((finding.severity, finding.code, finding.cure), []).append((name, finding.why))
    if not kinds:
        return []
    parts: list[RenderableType] = [Text(), plain("Findings:", "bold")]
    for (severity, code, cure), against in sorted(kinds.items(), key=lambda item: item[0][0] != "invalid"):
        style = _STATUS_STYLE["invalid" if severity == "invalid" else "suspect"]
        if len({why for _, why in against}) == 1:
            names = ", ".join(name for name, _ in against)
            parts.append(indented(f"{severity}: {code}: {against[0][1]} ({names})", 2, style))
        else:
            parts.append(indented(f"{severity}: {code}:", 2, style))
            parts.extend(indented(f"{name}: {why}", 4) for name, why in against)
        parts.append(indented(f"cure: {cure}", 4))
    return parts


def _section(title: str, lines: list[tuple[str, str]], style: str = "bold") -> list[RenderableType]:
    if not lines:
        return []
    body = [indented(f"{name.strip()}: {line}", 2) for name, line in lines]
    return [Text(), plain(title, style), *body]


def indented(text: str, columns: int, style: str = "") -> RenderableType:
    """Return ``text`` with all its lines set in."""
    return Padding(plain(text, style), (0, 0, 0, columns), expand=False)


def _fact(name: str, text: str, style: str = "") -> RenderableType:
    return hanging(f"{name:<6}", text, style)


def hanging(head: str, text: str, style: str = "") -> RenderableType:
    """Return ``text`` to the right of ``head``, its further lines indented."""
    grid = RichTable.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(Text(head), plain(text, style))
    return grid
