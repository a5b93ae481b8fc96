"""Queries at moments that were fixed beforehand: a schedule, and workers that answer by it.

Each worker draws the next query in order of arrival and waits for its moment; a worker that comes late begins at once.
That is a first-come-first-served queue with as many servers as workers, without a dispatcher whose own time would have
to be explained. Latency is counted from the scheduled moment, so a stall delays every query that arrived meanwhile, as
it would in earnest (Tene's «coordinated omission» is what counting from the actual start would be).
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hwbench.measure.loop import Call, Tick
from hwbench.units import Clock

_POLL_S = 0.05
_TOLD_S = 1.0  # a parent takes silence for a hang


def poisson(rate_per_s: float, seconds: float, least: int, seed: int) -> list[int]:
    """Return arrivals of a Poisson process, in nanoseconds: those of ``seconds``, and at least ``least``."""
    chance, found, t_s = random.Random(seed), list[int](), 0.0
    while True:
        t_s += chance.expovariate(rate_per_s)
        if t_s > seconds and len(found) >= least:
            return found
        found.append(round(t_s * 1e9))


@dataclass(frozen=True, slots=True)
class Served:
    """One query; times in nanoseconds since the start. ``waited``: a worker was there before it."""

    index: int
    began_ns: int
    ended_ns: int
    waited: bool


def serve(
    calls: Sequence[Call], clock: Clock, arrivals_ns: Sequence[int], *, spin_s: float, give_up_s: float, tick: Tick
) -> list[Served]:
    """Answer the queries, one worker a call, and return those that were, in order of arrival.

    Args:
        calls: one a worker; a single one runs in this thread.
        clock: monotonic.
        arrivals_ns: ascending, since the start.
        spin_s: how long before a query its worker stops sleeping and watches the clock; 0 sleeps until it is due.
        give_up_s: no query is begun later than this after the start.
        tick: told the share of queries that have arrived, before each and while one is waited for; it throttles itself.

    Raises:
        BaseException: what a call raised in its thread, raised again here.
    """
    queries = iter(range(len(arrivals_ns)))  # drawing from it is atomic: each query goes to exactly one worker
    started = clock.now_ns()
    workers = [_Worker(call, clock, queries, arrivals_ns, started, spin_s, give_up_s) for call in calls]
    if len(workers) == 1:
        workers[0].work(tick)
    else:
        _in_threads(workers, clock, tick, len(arrivals_ns))
    for worker in workers:
        if worker.error is not None:
            raise worker.error
    return sorted(itertools.chain.from_iterable(worker.served for worker in workers), key=lambda one: one.index)


def _in_threads(workers: Sequence[_Worker], clock: Clock, tick: Tick, queries: int) -> None:
    threads = [threading.Thread(target=worker.work, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            clock.sleep(_POLL_S)
            tick(sum(len(worker.served) for worker in workers) / queries)
    finally:
        for worker in workers:
            worker.stop = True
        for thread in threads:
            thread.join()


class _Worker:
    """Answers one query at a time."""

    def __init__(
        self,
        call: Call,
        clock: Clock,
        queries: Iterator[int],
        arrivals_ns: Sequence[int],
        started: int,
        spin_s: float,
        give_up_s: float,
    ) -> None:
        self.call = call
        self.clock = clock
        self.queries = queries
        self.arrivals_ns = arrivals_ns
        self.started = started
        self.spin_s = spin_s
        self.last_ns = started + round(give_up_s * 1e9)
        self.served: list[Served] = []
        self.error: BaseException | None = None
        self.stop = False

    def work(self, tick: Tick | None = None) -> None:
        try:
            self._work(tick)
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread, which raises it
            self.error = error

    def _work(self, tick: Tick | None) -> None:
        now, call, started = self.clock.now_ns, self.call, self.started
        for index in self.queries:
            due, share = started + self.arrivals_ns[index], index / len(self.arrivals_ns)
            if tick is not None:
                tick(share)
            waited = now() < due
            if waited:
                self._wait(due, share, tick)
            began = now()
            if self.stop or began > self.last_ns:
                return
            call()
            self.served.append(Served(index, began - started, now() - started, waited))

    def _wait(self, due: int, share: float, tick: Tick | None) -> None:
        """Sleep, then watch the clock for the last ``spin_s``: a sleep alone overshoots by tens of microseconds."""
        now = self.clock.now_ns
        while (left_s := (due - now()) / 1e9 - self.spin_s) > 0:
            self.clock.sleep(min(left_s, _TOLD_S))
            if tick is not None and left_s > _TOLD_S:
                tick(share)
        while now() < due:
            pass
