"""What the device gives right after rest: no warm-up beyond the first inference, a short window, its course kept."""

from __future__ import annotations

from hwbench.measure.binned import sample_in_bins
from hwbench.measure.session import Seen, Session


def run(session: Session) -> Seen:
    """Rest with the model loaded, then sample at once."""
    given, stop = session.settings.mode_settings, session.settings.stop.settings
    session.rest(given["rest_s"])
    samples, edges, series = sample_in_bins(session, stop["seconds"], given["bin_s"], given["rest_s"])
    return Seen(samples_ns=samples, edges=edges, target_reached=True, parts={"series": series})
