"""Many requests in flight, one a stream: how many are completed in a second."""

from __future__ import annotations

from hwbench.measure.loop import Concurrent, sample_streams, sub_window_rates
from hwbench.measure.session import Seen, Session
from hwbench.measure.stop import make_stopper, refuse_too_many
from hwbench.records.base import Missing
from hwbench.records.measurement import Throughput
from hwbench.stats import mean_interval


def run(session: Session) -> Seen:
    """Warm every stream up, then keep all of them busy."""
    calls, clock, settings = session.calls, session.clock, session.settings
    warmup = sample_streams(calls, clock, make_stopper(settings.warmup), session.tick("warm-up"))
    stopper = make_stopper(settings.stop)
    refuse_too_many(settings.stop, len(warmup.completions_s) / warmup.window_s)
    with session.window() as edges:
        streams = sample_streams(calls, clock, stopper, session.tick("measure"))
    return Seen(
        warmup_ns=warmup.samples,
        samples_ns=streams.samples,
        edges=edges,
        target_reached=stopper.reached(streams.samples, edges.window_s),
        parts={"throughput": throughput(streams, settings.streams, session.batch_size)},
    )


def throughput(streams: Concurrent, count: int, batch: int | Missing) -> Throughput:
    """Return the rate over the window and its interval, by Student's t over ten equal parts of it."""
    inferences, rates = len(streams.completions_s), sub_window_rates(streams)
    low, high = mean_interval(rates)
    per_s = inferences / streams.window_s
    return Throughput(
        streams=count,
        batch_size=batch,
        inferences=inferences,
        window_s=streams.window_s,
        inferences_per_s=per_s,
        low_per_s=max(0.0, low),
        high_per_s=high,
        items_per_s=batch if isinstance(batch, Missing) else per_s * batch,
        sub_window_per_s=rates,
    )
