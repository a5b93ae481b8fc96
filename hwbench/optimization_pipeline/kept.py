"""What a run keeps of itself: a record a stage, so that one that was ended goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from hwbench.errors import UsageError
from hwbench.files import decode, read_bytes, write_record
from hwbench.intake import Watch
from hwbench.records.base import Record
from hwbench.records.optimization import OptimizeRequest, Progress, Stage
from hwbench.units import Clock, format_seconds

R = TypeVar("R", bound=Record)

PROGRESS = "progress.json"
_RUN_ONLY = (
    "resume",
    "replace",
    "time_budget_s",
    "timeout_s",
    "memory_limit_bytes",
)  # what may differ in the run that goes on


class Kept:
    """The records of a run, in ``folder``; and its budget of time, over all the runs that it took."""

    def __init__(
        self, folder: Path, request: OptimizeRequest, names: tuple[str, ...], clock: Clock, watch: Watch
    ) -> None:
        self.folder, self.request, self._clock, self._watch = folder, request, clock, watch
        self._begun_ns = clock.now_ns()
        self._before_s = 0.0
        self.best = "nothing yet"
        self.stages = {name: Stage(name=name, state="left", took_s=0.0) for name in names}
        path = folder / PROGRESS
        if path.exists():
            earlier = decode(read_bytes(path), Progress, what=str(path))
            _require_same(earlier.request, request)
            self._before_s = earlier.spent_s
            self.stages |= {each.name: each for each in earlier.stages if each.name in self.stages}
        self.save()

    @property
    def spent_s(self) -> float:
        """What has been spent, in this run and in those before it."""
        return self._before_s + (self._clock.now_ns() - self._begun_ns) / 1e9

    @property
    def left_s(self) -> float:
        """What is left of the budget."""
        return max(0.0, self.request.time_budget_s - self.spent_s)

    def stage(self, name: str, kind: type[R], make: Callable[[], R], record: str | None = None) -> R:
        """Return what a stage left, under the name of the stage or of ``record``; carry it out if it has not been."""
        place = list(self.stages).index(name) + 1
        began_s = self.spent_s
        left = f"{format_seconds(self.left_s)} left" if self.left_s else "budget spent"
        self._watch(f"[{place}/{len(self.stages)}] {name}; {left}; best so far: {self.best}", None)
        found = self.once(record or name, kind, make)
        took_s = self.stages[name].took_s + self.spent_s - began_s
        self.stages[name] = Stage(name=name, state="done", took_s=took_s)
        self.save()
        return found

    def skip(self, *names: str) -> None:
        """Say of stages that there is nothing to do in them."""
        for name in names:
            if self.stages[name].state == "left":
                self.stages[name] = Stage(name=name, state="skipped", took_s=0.0)
        self.save()

    def once(self, name: str, kind: type[R], make: Callable[[], R]) -> R:
        """Return the record called ``name``; make and keep it if it is not there."""
        path = self.folder / f"{name}.json"
        if path.exists():
            return decode(read_bytes(path), kind, what=str(path))
        found = make()
        write_record(path, found)
        return found

    def has(self, name: str) -> bool:
        """Say whether the record called ``name`` is there."""
        return (self.folder / f"{name}.json").exists()

    def save(self) -> None:
        """Write down how far the run is."""
        progress = Progress(request=self.request, stages=tuple(self.stages.values()), spent_s=self.spent_s)
        write_record(self.folder / PROGRESS, progress)


def _require_same(earlier: OptimizeRequest, now: OptimizeRequest) -> None:
    before, after = (msgspec.to_builtins(each) for each in (earlier, now))
    other = [name for name in after if name not in _RUN_ONLY and before[name] != after[name]]
    if other:
        told = ", ".join(f"{name}: {before[name]} then, {after[name]} now" for name in other)
        raise UsageError(f"the run that is to go on was asked for something else ({told})", hint="--force begins anew")


def plain(name: str) -> str:
    """Return a candidate's name as that of a folder."""
    return name.replace(" ", "-").replace("/", "-")
