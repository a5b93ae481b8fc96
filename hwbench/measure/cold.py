"""Cold starts of several processes, put together."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hwbench.measure.modes.cold import PAGE_CACHE
from hwbench.records.base import Missing
from hwbench.records.measurement import NOT_THIS_MODE, TimedRun
from hwbench.records.modes import ColdRun

REGION = "from the start of a process to the end of its first inference"


def together(primer: TimedRun, runs: Sequence[TimedRun]) -> TimedRun:
    """Return one run whose samples are the totals of ``runs``; of ``primer`` only what it left the machine in."""
    starts = tuple(start for run in runs if not isinstance(run.cold, Missing) for start in run.cold.starts)
    return msgspec.structs.replace(
        runs[0],
        samples_ns=tuple(sample for run in runs for sample in run.samples_ns),
        timed_region=REGION,
        window_s=sum(run.window_s for run in runs),
        process_cpu_s=sum(run.process_cpu_s for run in runs),
        outputs_finite=all(run.outputs_finite for run in runs),
        cold=ColdRun(starts=starts, page_cache=PAGE_CACHE),
        energy=Missing(code=NOT_THIS_MODE, why="a cold start is no window of inferences", cure="--mode latency"),
        host_before=primer.host_after,
        host_after=runs[-1].host_after,
    )
