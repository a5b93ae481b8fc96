"""One request at a time: warm up, then sample until the stop rule says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwbench.measure.loop import sample
from hwbench.measure.session import Seen, Session
from hwbench.measure.stop import make_stopper, refuse_too_many
from hwbench.records.base import Record
from hwbench.stats import quantile


def run(session: Session) -> Seen:
    """Warm up and sample."""
    warmup = sample(session.calls[0], session.clock, make_stopper(session.settings.warmup), session.tick("warm-up"))
    return measure(session, warmup)


def measure(session: Session, warmup_ns: Sequence[int], parts: Mapping[str, Record] | None = None) -> Seen:
    """Sample one warm stream in the timed window."""
    stopper = make_stopper(session.settings.stop)
    refuse_too_many(session.settings.stop, 1e9 / max(1.0, quantile(sorted(warmup_ns), 0.5)))
    with session.window() as edges:
        samples = sample(session.calls[0], session.clock, stopper, session.tick("measure"))
    return Seen(
        warmup_ns=warmup_ns,
        samples_ns=samples,
        edges=edges,
        target_reached=stopper.reached(samples, edges.window_s),
        parts=parts or {},
    )
