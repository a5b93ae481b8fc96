"""One cold start: from the start of this process to its first answer, which lies behind it when this is called.

The parent starts several such processes and puts them together (:mod:`hwbench.measure.cold`).
"""

from __future__ import annotations

import time
from array import array

from hwbench.measure.session import Seen, Session
from hwbench.records.modes import ColdRun, ColdStart

PAGE_CACHE = "warm: a process before these, which is not counted, read the same files"


def run(session: Session) -> Seen:
    """Take stock; nothing is called."""
    opening = session.opening
    assert opening is not None, "a cold start is told by the worker"
    total_ns = opening.ready_ns - opening.spawned_ns
    interpreter_s = (opening.began_ns - opening.spawned_ns) / 1e9
    phases = opening.phases
    told = [part for part in (phases.load_s, phases.compile_s) if isinstance(part, float)]
    known_s = interpreter_s + opening.runtime_s + sum(told) + phases.first_inference_s
    start = ColdStart(
        total_s=total_ns / 1e9,
        interpreter_s=interpreter_s,
        runtime_s=opening.runtime_s,
        load_s=phases.load_s,
        compile_s=phases.compile_s,
        first_inference_s=phases.first_inference_s,
        other_s=max(0.0, total_ns / 1e9 - known_s),
    )
    with session.window() as edges:
        pass
    edges.process_cpu_s = time.process_time()  # since the process began: the start is what is measured
    edges.window_s = start.total_s
    parts = {"cold": ColdRun(starts=(start,), page_cache=PAGE_CACHE)}
    return Seen(samples_ns=array("q", [total_ns]), edges=edges, target_reached=True, parts=parts)
