"""tegrastats of NVIDIA Jetson boards: ``tegrastats --interval MS --logfile FILE``, JetPack 4 to 7.

A line holds ``RAIL now/mean`` for each power rail, in mW: ``POM_5V_IN 2545/2547`` on JetPack 4, ``VDD_IN
5608mW/5888mW`` since. The first figure is the reading of the moment and is taken; the second is the mean since
tegrastats began. Lines of JetPack 5 and later begin with the local date in whole seconds. Lines of one second are
spread over it evenly; without dates ``--interval`` is needed. Verified with recorded lines of Nano, TX2, AGX Xavier,
Orin Nano, AGX Orin and AGX Thor.

The total of a board: ``VIN`` (Thor) or ``VDD_IN`` or ``POM_5V_IN``, which have the other rails in them; on AGX Xavier
and AGX Orin, which have none such, the sum of the rails. Whether the memory rail ``VDDQ_VDD2_1V8AO`` of AGX Orin is
within ``VIN_SYS_5V0`` is not documented: it is shown and not added. Rails of other boards are shown, and nothing is
added up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby, pairwise

from hwbench.energy.imports.cells import date_ns
from hwbench.energy.imports.lines import Line, TextFile
from hwbench.energy.imports.series import Column, Described, Reading, make_trace
from hwbench.energy.imports.table import Options
from hwbench.energy.imports.times import check_interval, even_times
from hwbench.energy.trace import Trace
from hwbench.energy.uncertainty import GAIN
from hwbench.errors import StorageError

_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (\d+)(?:mW(?:/\d+mW)*|/\d+)(?!\S)")
_LINE = re.compile(r"(?<!\S)RAM \d+/\d+MB")
_STAMP = re.compile(r"^(\d\d-\d\d-\d{4} \d\d:\d\d:\d\d)\s")
_INPUTS = ("VIN", "VDD_IN", "POM_5V_IN")
_XAVIER = frozenset({"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"})
_ORIN = frozenset({"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"})
_THOR = frozenset({"VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"})  # where VIN is not shown
_SECOND_NS = 1_000_000_000


def is_tegrastats(line: Line) -> bool:
    """Say whether a line is tegrastats'."""
    return bool(_LINE.search(line.text))


def totals(rails: Sequence[str]) -> tuple[str, ...]:
    """Return the rails that add up to what the module draws; none where that is not known."""
    for rail in _INPUTS:
        if rail in rails:
            return (rail,)
    for board in (_XAVIER, _ORIN, _THOR):
        if board <= set(rails):
            return tuple(rail for rail in rails if rail in board)
    return ()


def import_tegrastats(file: TextFile, options: Options) -> Trace:
    """Read every rail.

    Raises:
        StorageError: a line is not tegrastats', lacks a rail, or has no time.
    """
    lines = file.whole()
    for line in lines:
        if not is_tegrastats(line):
            raise file.refusal(line.number, "it is no line of tegrastats", "leave other output out of the log")
    values = [{rail: int(now) for rail, now in _RAIL.findall(line.text)} for line in lines]
    rails = [rail for rail in (values[0] if values else {}) if rail != "NC"]
    if not rails:
        hint = "run tegrastats with sudo: without it some boards leave the power out"
        raise StorageError(f"{file.path} has no power rails", hint=hint)
    for line, found in zip(lines, values, strict=True):
        if set(found) != set(values[0]):
            raise file.refusal(line.number, f"its rails are {', '.join(found)}, before they were {', '.join(rails)}")
    times, how = _times(file, lines, options)
    added = totals(rails) if options.channel is None else _named(file, options.channel, rails)
    columns = [
        Column(
            name=rail,
            quantity="power",
            role="total" if rail in added else "part",
            readings=[
                Reading(line.number, time_ns, found[rail] / 1000)
                for line, time_ns, found in zip(lines, times, values, strict=True)
            ],
            told=rail,
            gain=GAIN["ina3221"].standard,
            gain_basis=GAIN["ina3221"].basis,
        )
        for rail in rails
    ]
    known = Described(
        format="tegrastats",
        boundary="Jetson module" + (f": {' + '.join(added)}" if added else ", rails without a known total"),
        provenance="measured_onboard",
        notes={"times": how, "reading": "the momentary figure, not the mean since tegrastats began"},
    )
    return make_trace(file, columns, known)


def _named(file: TextFile, rail: str, rails: Sequence[str]) -> tuple[str, ...]:
    if rail not in rails:
        raise StorageError(f"{file.path} has no rail '{rail}'", hint=f"it has {', '.join(rails)}")
    return (rail,)


def _times(file: TextFile, lines: Sequence[Line], options: Options) -> tuple[list[int], str]:
    stamps = [_STAMP.match(line.text) for line in lines]
    if not any(stamps):
        if options.interval_s is None:
            hint = "--interval SECONDS, as tegrastats was started with (its own default is 1 s)"
            raise file.refusal(lines[0].number, "the lines have no date", hint)
        return even_times(len(lines), options.interval_s), "so many seconds a line, as --interval says"
    seconds: list[int] = []
    for line, stamp in zip(lines, stamps, strict=True):
        if stamp is None:
            raise file.refusal(line.number, "it has no date, and other lines have")
        seconds.append(_second(file, line, stamp[1]))
    if all(a < b for a, b in pairwise(seconds)):
        if options.interval_s is not None:
            check_interval(file, seconds, options.interval_s)
        return seconds, "the date of each line"
    return _spread(file, lines, seconds), "the dates, with the lines of one second spread over it evenly"


def _second(file: TextFile, line: Line, text: str) -> int:
    try:
        return date_ns(text) or 0
    except ValueError as error:
        raise file.refusal(line.number, str(error)) from error


def _spread(file: TextFile, lines: Sequence[Line], seconds: Sequence[int]) -> list[int]:
    """Spread the lines of each second over it; the first and last second may have been seen in part only."""
    groups = [(second, len(list(group))) for second, group in groupby(seconds)]
    if any(b[0] < a[0] for a, b in pairwise(groups)):
        return list(seconds)  # time goes back: refused with its line further on
    if len(groups) < 3:
        hint = "record for three seconds or more"
        raise file.refusal(lines[0].number, "too few seconds to tell when each line was written", hint)
    inner = sorted(count for _, count in groups[1:-1])
    step = _SECOND_NS // inner[len(inner) // 2]
    first, count = groups[0]
    times = [first + _SECOND_NS - step * (count - i) for i in range(count)]
    for second, count in groups[1:-1]:
        times += [second + _SECOND_NS * i // count for i in range(count)]
    last, count = groups[-1]
    return times + [last + step * i for i in range(count)]
