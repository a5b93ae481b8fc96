"""Progress while a profile runs: a bar in a terminal, a line a step elsewhere.

The bar is drawn only when the worker reports, twice a second at most: a thread of ours that wakes more often would
run on the cores being measured.
"""

from __future__ import annotations

import sys
from types import TracebackType

from hwbench.cli.terminal import Terminal
from hwbench.pipeline import Watcher
from hwbench.records.base import Missing
from hwbench.records.measurement import Measurement, NotMeasured
from hwbench.units import format_seconds


class ProgressWatcher(Watcher):
    """Shows each step on standard error."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.said = ""
        self.animated = sys.stderr.isatty() and not terminal.quiet
        if self.animated:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[phase]}"),
                TimeElapsedColumn(),
                console=terminal.console(stderr=True),
                auto_refresh=False,
                transient=True,
            )
            self.task = self.progress.add_task("starting", total=1.0, phase="")

    def __enter__(self) -> ProgressWatcher:
        if self.animated:
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.animated:
            self.progress.stop()

    def step(self, label: str, done: int, total: int) -> None:
        text = f"[{done + 1}/{total}] {label}"
        if self.animated:
            self.progress.reset(self.task, description=text.replace("[", "\\["), total=None, phase="")
            self.progress.refresh()
        else:
            self.terminal.say(text)

    def phase(self, label: str, phase: str, fraction: float | None) -> None:
        if self.animated:
            total = 1.0 if fraction is not None else None
            self.progress.update(self.task, total=total, completed=fraction or 0.0, phase=phase)
            self.progress.refresh()
        elif self.terminal.verbose and self.said != f"{label}: {phase}":
            self.said = f"{label}: {phase}"
            self.terminal.say(f"  {self.said}")

    def measured(self, measurement: Measurement) -> None:
        self._line(f"  {measurement.label}: {_headline(measurement)} ({measurement.validity.status})")

    def not_measured(self, reason: NotMeasured) -> None:
        word = "FAILED" if reason.failed else "not measured"
        self._line(f"  {reason.engine} {reason.precision}".rstrip() + f": {word}: {reason.reason.why}")

    def _line(self, text: str) -> None:
        if self.animated:
            self.progress.console.print(text, markup=False)
        else:
            self.terminal.say(text)


def _headline(measurement: Measurement) -> str:
    if not isinstance(measurement.latency, Missing):
        return f"median {format_seconds(measurement.latency.median_s)}, n={measurement.latency.n}"
    if not isinstance(measurement.throughput, Missing):
        return f"{measurement.throughput.inferences_per_s:.4g} inferences/s"
    return ""
