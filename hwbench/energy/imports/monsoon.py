"""Monsoon power monitors: CSV of the Python library ``monsoon`` and of the PowerTool program.

The Python library writes ``Time(ms),Main(mA),Main Voltage(V),`` and, where they are on, USB and Aux. **Its times are in
seconds**, whatever the heading says (``sampleEngine.py``: ``time.time() - startTime``), and the readings of one USB
packet share one time. Some copies of it were corrected. So the unit is told by the steps: below 0.01 they must be
seconds; else ``--interval`` has to say how far apart the readings are.

PowerTool's names (``Time (s)``, ``Main Avg Current (mA)``, ``Main Avg Voltage (V)``, ``Main Max Current (mA)``) are
known from programs that read them; no file of either program could be had to try.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

from hwbench.energy.imports.cells import number
from hwbench.energy.imports.lines import TextFile, split
from hwbench.energy.imports.series import Described
from hwbench.energy.imports.table import Options, read_table
from hwbench.energy.imports.times import MOST_OFF
from hwbench.energy.trace import Trace

_FASTEST_STEP_MS = 0.01  # the monitor takes a reading every 0.2 ms
_PYTHON = re.compile(r"^Time\(ms\),.*(?:Main|USB|Aux)\(mA\)")
_POWERTOOL = re.compile(r"^Time \(s\),.*Main Avg")


def is_monsoon(header: str) -> bool:
    """Say whether a header is that of one of the two programs."""
    return bool(_PYTHON.match(header) or _POWERTOOL.match(header))


def import_monsoon(file: TextFile, options: Options) -> Trace:
    """Read the main channel: its power, or its current times its voltage.

    Raises:
        StorageError: the file cannot be believed, or the unit of its times cannot be told.
    """
    options = replace(options, prefer="main")
    notes = {}
    if _PYTHON.match(file.lines[0].text):
        factor = _seconds_per_unit(file, options.interval_s)
        notes = {"time_unit": "s, though the heading says ms" if factor == 1.0 else "ms"}
        options = replace(options, time_factor=factor, interval_s=None)
    known = Described(format="monsoon", boundary="everything behind the Monsoon's main output", notes=notes)
    return read_table(file, options, known)


def _seconds_per_unit(file: TextFile, interval_s: float | None) -> float:
    try:
        times = sorted({number(split(file, line, ",")[0]) for line in file.whole()[1:]})
    except ValueError as error:
        raise file.refusal(file.lines[1].number, str(error)) from error
    steps = sorted(b - a for a, b in pairwise(times))
    if not steps:
        raise file.refusal(file.lines[-1].number, "all readings have one time")
    step = steps[len(steps) // 2]
    if step < _FASTEST_STEP_MS:
        return 1.0
    for factor in (1.0, 1e-3):
        if interval_s is not None and abs(step * factor - interval_s) <= MOST_OFF * interval_s:
            return factor
    why = f"the times are {step:g} apart, and 'Time(ms)' may be milliseconds or seconds"
    raise file.refusal(file.lines[0].number, why, f"--interval {step:g} or --interval {step / 1000:g}, in seconds")
