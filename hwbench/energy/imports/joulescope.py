"""Joulescope JS110 and JS220: the statistics that the Joulescope UI and ``downsample_logging.py`` write.

A line holds ``time,current,voltage,power,charge,energy`` in SI: power is the mean since the line before, charge and
energy are sums. The header is that list with or without ``#``, or comments (``#= header=...``). Verified with a
recorded sample of the UI, and with the source of pyjoulescope_ui (``statistics_record.py``) and pyjoulescope_examples.
Waveforms exported from a ``.jls`` file have other columns: give them a header with units and import them as ``csv``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from hwbench.energy.imports.cells import number, scaled_ns
from hwbench.energy.imports.lines import Line, TextFile, rows_of
from hwbench.energy.imports.series import Column, Described, Reading, make_trace
from hwbench.energy.integrate import Sample, update_period_s
from hwbench.energy.trace import Trace
from hwbench.records.base import Missing

HEADER = "time,current,voltage,power,charge,energy"
_DIGITS = 6  # of %g


def is_joulescope(line: Line) -> bool:
    """Say whether a first line is one of these files'."""
    return line.text.lstrip("#= ").removeprefix("header=") == HEADER


def import_joulescope(file: TextFile) -> Trace:
    """Read Joulescope statistics; power is the total, the energy counter its check.

    Raises:
        StorageError: the file has another header, or cannot be believed.
    """
    if not is_joulescope(file.lines[0]):
        hint = "a waveform export comes in with --format csv, once its header tells the units"
        raise file.refusal(file.lines[0].number, f"the header is not '{HEADER}'", hint)
    body = [line for line in file.whole() if not line.text.startswith("#") and not is_joulescope(line)]
    times, powers, energies = _columns(file, rows_of(file, body, ",", HEADER.count(",") + 1))
    samples = [Sample(reading.time_ns / 1e9, reading.value) for reading in powers]
    period_s = update_period_s(samples, counter=False) if len(times) > 1 else None
    columns = [
        Column(
            name="power",
            quantity="power",
            role="total",
            readings=powers,
            told="power",
            averaging_s=period_s or Missing(code="not_known", why="the file has fewer than two readings"),
        )
    ]
    values = [reading.value for reading in energies]
    if len(values) > 1 and values[0] >= 0 and all(a <= b for a, b in pairwise(values)):
        columns.append(
            Column(
                name="energy", quantity="energy", role="check", readings=energies, told="energy", lsb=_step(values[-1])
            )
        )
    known = Described(format="joulescope", boundary="everything behind the Joulescope's output")
    return make_trace(file, columns, known)


def _columns(file: TextFile, rows: Sequence[tuple[int, list[str]]]) -> tuple[list[int], list[Reading], list[Reading]]:
    times: list[int] = []
    powers: list[Reading] = []
    energies: list[Reading] = []
    for line, cells in rows:
        try:
            time_ns = scaled_ns(cells[0], 1.0)
            powers.append(Reading(line, time_ns, number(cells[3])))
            energies.append(Reading(line, time_ns, number(cells[5])))
        except ValueError as error:
            raise file.refusal(line, str(error)) from error
        times.append(time_ns)
    return times, powers, energies


def _step(largest_j: float) -> float | Missing:
    """Return the last place of the largest energy: six digits are printed, whatever its size."""
    if largest_j <= 0:
        return Missing(code="not_known", why="the energy is zero")
    return 10.0 ** (math.floor(math.log10(largest_j)) - _DIGITS + 1)
