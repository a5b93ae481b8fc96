"""The tables of energy as data, in the order in which a hardware team reads them.

Identity, operating point, performance, energy, power, quality: each is a few columns, because all in one would fit no
screen. The terminal and the page show the same cells. A value that is missing is a dash with its reason as a footnote.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwbench.report import energy_cells as cells
from hwbench.report import energy_words as say
from hwbench.report.energy_rank import EnergyVerdict, verdicts
from hwbench.report.energy_rows import EnergyRow, EstimateRow, Group
from hwbench.report.table import Cell, Notes
from hwbench.units import format_seconds, format_si


@dataclass(frozen=True, kw_only=True)
class Block:
    """A few columns: their heads, and for each row of the group its name and cells."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, kw_only=True)
class GroupTable:
    """All blocks of a group with common footnotes (number 1 first), and what may be said over its rows."""

    group: Group
    title: str
    sentences: tuple[str, ...]
    glances: tuple[tuple[str, str], ...]
    marks: tuple[str, ...]  # best, tied or nothing, a row
    blocks: tuple[Block, ...]
    flags: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


Column = tuple[str, cells.Make]


def group_table(group: Group) -> GroupTable:
    """Return the tables of a group."""
    notes, said = Notes(), verdicts(group)
    return GroupTable(
        group=group,
        title=say.heading(group),
        sentences=tuple(say.verdict_lines(group, said)),
        glances=tuple((row.name, say.glance(row)) for row in group.rows),
        marks=tuple(_mark(row, said) for row in group.rows),
        blocks=tuple(_block(title, columns, group, notes) for title, columns in BLOCKS.items()),
        flags=tuple(dict.fromkeys(line for row in group.rows for line in say.flag_lines(row))),
        notes=tuple(notes.texts),
    )


def _mark(row: EnergyRow, said: tuple[EnergyVerdict, ...]) -> str:
    if any(verdict.best is row for verdict in said):
        return "best"
    return "tied" if any(row is other for verdict in said for other in verdict.tied) else ""


def _block(title: str, columns: tuple[Column, ...], group: Group, notes: Notes) -> Block:
    rows = tuple((Cell(row.name), *(make(row, notes) for _, make in columns)) for row in group.rows)
    return Block(title=title, head=("", *(head for head, _ in columns)), rows=rows)


BLOCKS: dict[str, tuple[Column, ...]] = {
    "What was measured": (
        ("model", lambda row, _: Cell(row.subject.model)),
        ("runtime", lambda row, _: Cell(f"{row.subject.engine} {row.subject.version}")),
        ("precision", lambda row, _: Cell(row.subject.precision)),
        ("batch", lambda row, notes: cells.shown(row.subject.batch_size, notes, str)),
        ("device", lambda row, _: Cell(row.subject.device)),
        ("power setting", cells.setting),
        ("source", cells.source),
    ),
    "Operating point": (
        ("load", cells.load),
        ("settled", cells.settled),
        ("temperature", cells.temperature),
        ("held back (throttled)", cells.throttled),
    ),
    "Performance": (
        ("time/inference", lambda row, notes: cells.shown(row.time_per_inference_s, notes, format_seconds)),
        ("inferences", cells.rate),
        ("p50 latency", cells.latency("median_s")),
        ("p90", cells.latency("p90_s")),
        ("p99", cells.latency("p99_s")),
        ("counted", lambda row, notes: cells.shown(row.inferences, notes, lambda count: f"{count} inferences")),
        ("windows", cells.windows),
    ),
    "Energy": (
        ("J/inference, total", cells.value("total")),
        ("repeatability (Type A, 95%)", cells.type_a("total")),
        ("interval (Type A)", cells.interval("total")),
        ("instrument (Type B, k=2)", cells.type_b("total")),
        ("inferences/J", lambda row, notes: cells.shown(row.inferences_per_j, notes, lambda v: format_si(v, "/J", 4))),
        ("energy × delay", lambda row, notes: cells.shown(row.energy_delay_js, notes, lambda v: format_si(v, "J·s"))),
        ("J/operation", lambda row, notes: cells.shown(row.j_per_op, notes, lambda v: format_si(v, "J"))),
    ),
    "Energy less idle": (
        ("J/inference, less idle", cells.value("dynamic")),
        ("repeatability (Type A, 95%)", cells.type_a("dynamic")),
        ("interval (Type A)", cells.interval("dynamic")),
        ("instrument (Type B, k=2)", cells.type_b("dynamic")),
        ("what was idle", lambda row, notes: cells.shown(row.idle, notes, lambda idle: say.IDLE[idle.state])),
    ),
    "Power": (
        ("mean", cells.level("average_w")),
        ("p95", cells.level("p95_w")),
        ("peak", cells.level("peak_w")),
        ("p95 and peak are of means over", cells.level("averaging_s")),
        ("idle", cells.idle),
        ("idle before → after", cells.idle_sides),
        ("idle share", cells.idle_share),
    ),
    "Quality": (
        ("covered", lambda row, notes: cells.shown(row.coverage, notes, cells.percentage)),
        ("crosscheck", cells.crosscheck),
        ("recorder, of a core", lambda row, notes: cells.shown(row.recorder_cpu_share, notes, cells.percentage)),
        ("validity", lambda row, _: Cell(row.subject.validity)),
        ("flags", cells.flags),
    ),
}
LEGEND = (
    "total: everything inside the boundary; less idle: without the idle power under Power; idle share: of the "
    "mean power; inferences/J = inferences per second per watt; energy × delay: total times the time per inference; "
    "J/operation: total over the operations of the model, a multiply-add being two, uncounted ops left out; "
    "crosscheck: this energy over that of a second channel"
)

ESTIMATE_HEAD = ("", "J/inference", "band", "method", "boundary", "from")


def estimate_rows(estimates: tuple[EstimateRow, ...]) -> tuple[tuple[Cell, ...], ...]:
    """Return the cells of the table of estimates; every number with its ``~``."""
    return tuple(
        (
            Cell(row.name),
            Cell(f"{say.estimate_value(row)} per inference"),
            Cell(say.estimate_band(row)),
            Cell(row.estimate.method),
            Cell(row.estimate.boundary),
            Cell(say.estimate_inputs(row)),
        )
        for row in estimates
    )
