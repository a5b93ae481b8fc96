"""Qoitech Otii Arc and Ace: the CSV export of the Otii desktop app.

**Not verified**: no exported file and no description of its columns could be had. What is read is any table whose
header tells the units; where several channels are exported (main, ADC, expansion port), the main one is taken. A header
without units, or of another shape, is refused, not guessed at.
"""

from __future__ import annotations

from dataclasses import replace

from hwbench.energy.imports.lines import TextFile
from hwbench.energy.imports.series import Described
from hwbench.energy.imports.table import Options, read_table
from hwbench.energy.trace import Trace


def import_otii(file: TextFile, options: Options) -> Trace:
    """Read the main channel: its power, or its current times its voltage.

    Raises:
        StorageError: the header does not tell the units, or the file cannot be believed.
    """
    known = Described(format="otii", boundary="everything behind the Otii's main output")
    return read_table(file, replace(options, prefer="main"), known)
