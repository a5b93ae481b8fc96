"""Whether a machine under load has settled: its temperature and the running median of the latency stand still.

The load is cut into windows. The machine has settled when the median changed by less than a share between successive
windows, twice in a row, and the temperature, where one can be read, rose or fell by less than a limit in ten seconds:
the slope of a least-squares line through the windows of at least the last ten seconds.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from hwbench.records.base import Missing
from hwbench.records.modes import WarmWindow
from hwbench.stats import slope

TEN_S = 10.0
_SUCCESSIVE = 2  # changes in a row that must be small: one may be by chance


@dataclass
class PlateauDetector:
    """Told of one window after the other.

    Args:
        median_change: of successive medians, as a share; below it the median stands still.
        slope_c_per_10s: of the temperature; below it, up or down, the temperature stands still.
    """

    median_change: float
    slope_c_per_10s: float
    windows: list[WarmWindow] = field(default_factory=list)

    def add(self, end_s: float, median_s: float, temperature_c: float | Missing) -> bool:
        """Take one window, which ended at ``end_s``, and say whether the machine has settled."""
        self.windows.append(WarmWindow(end_s=end_s, median_s=median_s, temperature_c=temperature_c))
        return self.settled

    @property
    def settled(self) -> bool:
        """Whether the last windows are a plateau."""
        return self._median_still and self._temperature_still

    @property
    def change(self) -> float | Missing:
        """The larger of the last two changes of the median, as a share."""
        last = [window.median_s for window in self.windows[-_SUCCESSIVE - 1 :]]
        if len(last) <= _SUCCESSIVE or min(last) <= 0:
            return Missing(code="too_few_windows", why=f"{len(last)} windows do not show {_SUCCESSIVE} changes")
        return max(abs(b / a - 1) for a, b in itertools.pairwise(last))

    @property
    def slope(self) -> float | Missing:
        """The slope of the temperature over the last ten seconds or more, in °C per 10 s.

        Windows without a temperature are passed over: a thermometer that fails once is a thermometer all the same.
        """
        points: list[tuple[float, float]] = []
        unread: Missing | None = None
        for window in reversed(self.windows):
            if isinstance(window.temperature_c, Missing):
                unread = unread or window.temperature_c
                continue
            points.append((window.end_s, window.temperature_c))
            if points[0][0] - points[-1][0] >= TEN_S:
                return TEN_S * slope(points)
        if not points and unread is not None:
            return unread
        return Missing(code="too_few_windows", why="the windows so far do not span 10 s")

    @property
    def _median_still(self) -> bool:
        change = self.change
        return not isinstance(change, Missing) and change < self.median_change

    @property
    def _temperature_still(self) -> bool:
        value = self.slope
        if isinstance(value, Missing):
            return value.code != "too_few_windows"  # no thermometer: the median alone decides, and the result says so
        return abs(value) < self.slope_c_per_10s
