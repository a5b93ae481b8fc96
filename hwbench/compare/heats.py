"""Heats: sets of processes alive beside each other, as memory has room for, asked for blocks in random order."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Sequence

from hwbench.compare.blocks import MIN_INFERENCES, Talk
from hwbench.records.base import Missing
from hwbench.records.comparison import Block, BlockQuestion, ProcessRun, Ready
from hwbench.records.contest import ContestPlan, Seat
from hwbench.units import format_bytes

Start = Callable[[int, int, str, bool], contextlib.AbstractContextManager[Talk]]

CONTROL = "the reference again"  # the key of the reference's second process; no entrant is called so


class Live:
    """The processes of one heat, by entrant; the reference's second has the key ``CONTROL``."""

    def __init__(
        self,
        place: tuple[int, int],
        reference: str | None,
        plan: ContestPlan,
        chance: random.Random,
        spent_s: Callable[[str], float],
    ) -> None:
        self.restart, self.heat = place
        self.reference = reference
        self._plan, self._chance, self._spent_s = plan, chance, spent_s
        self.talks: dict[str, Talk] = {}
        self.ready: dict[str, Ready] = {}

    @property
    def resident_bytes(self) -> int:
        """What they hold, as far as they told."""
        known = [each.resident_bytes for each in self.ready.values()]
        return sum(size for size in known if not isinstance(size, Missing))

    def name_of(self, key: str) -> str:
        """Return the entrant behind a key."""
        return self.reference if key == CONTROL and self.reference is not None else key

    def measure(self, least: int, until_s: float) -> dict[str, Seat]:
        """Ask for blocks until the time is there, ``least`` rounds at least; then let the processes go."""
        counts = self._counts()
        blocks: dict[str, list[Block]] = {key: [] for key in self.talks}
        label = f"{label_of(self.restart)}: measuring"
        begun_s = self._spent_s(label)
        for done in range(1, 1_000_000):
            for key in self._chance.sample(list(self.talks), len(self.talks)):
                blocks[key].append(self.talks[key].ask(BlockQuestion(count=counts[key]), Block))
            now_s = self._spent_s(label)
            if done >= least and (least == 1 or now_s + (now_s - begun_s) / done > until_s):
                break
        return {
            key: Seat(
                entrant=self.name_of(key),
                control=key == CONTROL,
                restart=self.restart,
                heat=self.heat,
                resident_bytes=self.ready[key].resident_bytes,
                run=talk.finish(ProcessRun),
                blocks=tuple(blocks[key]),
            )
            for key, talk in self.talks.items()
        }

    def _counts(self) -> dict[str, int]:
        """Return the inferences of a block; the reference and its control get the same number."""
        latency_s = {key: ready.latency_s for key, ready in self.ready.items()}
        if self.reference is not None:
            latency_s[self.reference] = latency_s[CONTROL] = min(latency_s[self.reference], latency_s[CONTROL])
        block_s = self._plan.block_s
        return {key: max(MIN_INFERENCES, math.ceil(block_s / max(value, 1e-9))) for key, value in latency_s.items()}


class Room:
    """Fills heats: starts processes as long as memory has room; remembers how large they become."""

    def __init__(self, start: Start, plan: ContestPlan, chance: random.Random, spent_s: Callable[[str], float]) -> None:
        self._start, self._plan, self._chance, self._spent_s = start, plan, chance, spent_s
        self._largest_bytes = 0  # resident set of the largest process so far
        self.most_alive = 0
        self.notes: list[str] = []

    def fill(
        self, stack: contextlib.ExitStack, restart: int, heat: int, names: Sequence[str], reference: str | None
    ) -> Live:
        """Start the reference twice, in an order of chance, and as many of the others as there is room for."""
        live = Live((restart, heat), reference, self._plan, self._chance, self._spent_s)
        pair = [] if reference is None else self._chance.sample([reference, CONTROL], 2)
        for key in (*pair, *names):
            if len(live.talks) > len(pair) and not self._another(live):
                break
            name = live.name_of(key)
            self._spent_s(f"{label_of(restart)}: starting {name}")
            live.talks[key] = stack.enter_context(self._start(restart, heat, name, key == CONTROL))
            live.ready[key] = live.talks[key].hear(Ready)
            size = live.ready[key].resident_bytes
            self._largest_bytes = max(self._largest_bytes, 0 if isinstance(size, Missing) else size)
        self.most_alive = max(self.most_alive, len(live.talks))
        if live.resident_bytes > self._plan.memory_limit_bytes:
            self.note(
                f"{len(live.talks)} processes held {format_bytes(live.resident_bytes)}, more than the limit of "
                f"{format_bytes(self._plan.memory_limit_bytes)}: fewer cannot be timed beside each other"
            )
        return live

    def _another(self, live: Live) -> bool:
        with_it = live.resident_bytes + self._largest_bytes
        return len(live.talks) < self._plan.most_live and with_it <= self._plan.memory_limit_bytes

    def note(self, text: str) -> None:
        """Keep a note, once."""
        if text not in self.notes:
            self.notes.append(text)


def label_of(restart: int) -> str:
    """Name a restart."""
    return "trial" if restart == 0 else f"restart {restart}"
