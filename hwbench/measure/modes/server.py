"""Open-loop load: Poisson arrivals at a given rate, latency from the scheduled arrival, workers with one queue."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Sequence

from hwbench.measure.arrivals import Served, poisson, serve
from hwbench.measure.loop import sample, sample_streams
from hwbench.measure.session import Seen, Session
from hwbench.measure.stop import make_stopper
from hwbench.records.base import Missing
from hwbench.records.modes import ServerRun, Spread, TimerError
from hwbench.stats import quantile, supported_percentile

_BEHIND_SHARE, _BEHIND_EACH = 0.1, 10  # a backlog beyond both, of all arrivals and a worker, did not come by chance


def run(session: Session) -> Seen:
    """Warm every worker up, then let queries arrive."""
    settings, clock = session.settings, session.clock
    rate, stop = settings.mode_settings["rate_per_s"], settings.stop.settings
    stopper, tick = make_stopper(settings.warmup), session.tick("warm-up")
    if len(session.calls) == 1:
        warmup = sample(session.calls[0], clock, stopper, tick)
    else:
        warmup = sample_streams(session.calls, clock, stopper, tick).samples
    arrivals = poisson(rate, stop["seconds"], int(stop["min_count"]), settings.seed)
    spin_s = settings.mode_settings["spin_s"]
    with session.window() as edges:
        served = serve(
            session.calls,
            clock,
            arrivals,
            spin_s=spin_s,
            give_up_s=2 * max(stop["seconds"], arrivals[-1] / 1e9),
            tick=session.tick("measure"),
        )
    samples = array("q", (one.ended_ns - arrivals[one.index] for one in served))
    seen = account(served, arrivals, rate_per_s=rate, workers=len(session.calls), seed=settings.seed, spin_s=spin_s)
    return Seen(warmup_ns=warmup, samples_ns=samples, edges=edges, target_reached=True, parts={"server": seen})


def account(
    served: Sequence[Served], arrivals_ns: Sequence[int], *, rate_per_s: float, workers: int, seed: int, spin_s: float
) -> ServerRun:
    """Return what happened: a pure function of the schedule and the answers, of which there is at least one."""
    last_arrival, service = arrivals_ns[-1], [one.ended_ns - one.began_ns for one in served]
    waiting = [max(0, one.began_ns - arrivals_ns[one.index]) for one in served]
    arrived_per_s = len(arrivals_ns) / (last_arrival / 1e9)
    load = arrived_per_s * statistics.fmean(service) / 1e9 / workers
    backlog = len(arrivals_ns) - sum(1 for one in served if one.ended_ns <= last_arrival)
    unserved = len(arrivals_ns) - len(served)
    behind = backlog > max(_BEHIND_SHARE * len(arrivals_ns), _BEHIND_EACH * workers)
    return ServerRun(
        rate_per_s=rate_per_s,
        seed=seed,
        workers=workers,
        arrivals=len(arrivals_ns),
        unserved=unserved,
        arrived_per_s=arrived_per_s,
        completed_per_s=len(served) / (max(one.ended_ns for one in served) / 1e9),
        offered_load=load,
        backlog=backlog,
        backlog_grew=load >= 1 or unserved > 0 or behind,
        queueing=spread(waiting),
        service=spread(service),
        timer=_timer(served, arrivals_ns, spin_s),
        arrivals_ns=tuple(arrivals_ns[one.index] for one in served),
        service_ns=tuple(service),
    )


def _timer(served: Sequence[Served], arrivals_ns: Sequence[int], spin_s: float) -> TimerError | Missing:
    late = sorted((one.began_ns - arrivals_ns[one.index]) / 1e9 for one in served if one.waited)
    if not late:
        return Missing(code="never_idle", why="no worker was ever waiting for a query: the load is too high for that")
    method = f"slept, then watched the clock for the last {spin_s * 1e3:g} ms" if spin_s else "slept until it was due"
    return TimerError(
        method=method,
        waits=len(late),
        median_s=quantile(late, 0.5),
        p99_s=supported_percentile(late, 0.99),
        max_s=late[-1],
    )


def spread(times_ns: Sequence[int]) -> Spread:
    """Return a few statistics of times in nanoseconds."""
    ordered = [time_ns / 1e9 for time_ns in sorted(times_ns)]
    return Spread(
        mean_s=statistics.fmean(ordered),
        median_s=quantile(ordered, 0.5),
        p90_s=supported_percentile(ordered, 0.9),
        p99_s=supported_percentile(ordered, 0.99),
        max_s=ordered[-1],
    )
