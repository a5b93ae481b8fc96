"""What the device gives for minutes on end: medians, throughput, temperature, clock and throttling minute by minute."""

from __future__ import annotations

from hwbench.measure.binned import sample_in_bins
from hwbench.measure.loop import sample
from hwbench.measure.session import Seen, Session
from hwbench.measure.stop import make_stopper


def run(session: Session) -> Seen:
    """Warm up as for latency, so that the first part is of a warm runtime on a machine that has not heated up yet."""
    settings = session.settings
    warmup = sample(session.calls[0], session.clock, make_stopper(settings.warmup), session.tick("warm-up"))
    samples, edges, series = sample_in_bins(
        session, settings.stop.settings["seconds"], settings.mode_settings["bin_s"], rest_s=0.0
    )
    return Seen(warmup_ns=warmup, samples_ns=samples, edges=edges, target_reached=True, parts={"series": series})
