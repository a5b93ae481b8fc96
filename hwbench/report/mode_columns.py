"""What single modes add to the CSV: columns of the table ``measurements``, and the table ``series``."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from hwbench.records.base import Missing
from hwbench.records.measurement import Measurement
from hwbench.report.mode_words import COLD_PARTS

Line = dict[str, object]

COLUMNS = (
    "preset", "preset_value", "plateau_reached", "plateau_after_s", "last_over_first",
    "rate_per_s", "arrived_per_s", "completed_per_s", "offered_load", "backlog", "unserved",
    "queueing_median_s", "queueing_p99_s", "service_median_s", "service_p99_s", "timer_error_median_s",
    *(f"cold_{field}" for field in COLD_PARTS.values()),
    "builds", "between_builds_s", "within_build_s", "icc",
)  # fmt: skip
SERIES_COLUMNS = (
    "engine", "precision", "precision_asked", "mode", "index", "start_s", "end_s", "inferences", "median_s", "p90_s",
    "inferences_per_s", "temperature_c", "clock_hz", "throttle_events", "power_w", "missing",
)  # fmt: skip


def mode_columns(m: Measurement) -> Line:
    """Return what this measurement's mode has; the columns of other modes stay empty."""
    line: Line = {}
    if not isinstance(m.preset, Missing):
        line |= {"preset": m.preset.name, "preset_value": m.preset.value}
    if not isinstance(m.steady_state, Missing):
        line |= {"plateau_reached": m.steady_state.reached, "plateau_after_s": m.steady_state.after_s}
    if not isinstance(m.series, Missing):
        line["last_over_first"] = m.series.last_over_first
    if not isinstance(m.server, Missing):
        server = m.server
        names = ("rate_per_s", "arrived_per_s", "completed_per_s", "offered_load", "backlog", "unserved")
        line |= {name: getattr(server, name) for name in names}
        line |= {"queueing_median_s": server.queueing.median_s, "queueing_p99_s": server.queueing.p99_s}
        line |= {"service_median_s": server.service.median_s, "service_p99_s": server.service.p99_s}
        line["timer_error_median_s"] = server.timer if isinstance(server.timer, Missing) else server.timer.median_s
    if not isinstance(m.cold, Missing):
        for field in COLD_PARTS.values():
            values = [value for start in m.cold.starts if not isinstance(value := getattr(start, field), Missing)]
            line[f"cold_{field}"] = statistics.median(values) if values else getattr(m.cold.starts[0], field)
    if not isinstance(m.builds, Missing):
        builds = m.builds
        line |= {"builds": len(builds.medians_s), "between_builds_s": builds.between_s}
        line |= {"within_build_s": builds.within_s, "icc": builds.icc}
    return line


def series_lines(m: Measurement) -> Iterator[Line]:
    """Yield one line a part of the window; one with the reason where the mode has no course."""
    if isinstance(m.series, Missing):
        yield {"mode": m.settings.mode, "missing:series": m.series}
        return
    fields = [name for name in SERIES_COLUMNS if name in m.series.bins[0].__struct_fields__]
    for index, part in enumerate(m.series.bins):
        yield {"mode": m.settings.mode, "index": index, **{name: getattr(part, name) for name in fields}}
