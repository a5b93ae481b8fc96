"""``hwbench energy sweep``: items per second and per joule over batch sizes, power limits and clocks.

Each point is a run of ``hwbench profile --mode energy`` with a result folder of its own. For a power limit or a clock
the GPU is set as ``hwbench doctor --apply`` sets it, with the same journal, and is as before when the points of that
setting are done, however they end: by themselves, by an error, by Ctrl-C or SIGTERM; after ``kill -9`` by ``hwbench
doctor --restore``. Settings come in a random order, and so do the points of one setting, so that a machine that warms
up does not look like a large batch or a high limit.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

import hwbench
from hwbench.doctor.change import changed, refuse_another, refuse_early
from hwbench.doctor.interrupts import Interrupts
from hwbench.doctor.settings import plan
from hwbench.doctor.subject import look
from hwbench.energy.choose import require
from hwbench.energy.sweep_points import figures_of, with_front
from hwbench.errors import EngineError, HwbenchError, Interrupted, PluginError, StorageError, UsageError
from hwbench.files import read_record, write_record
from hwbench.graph.spec import parse_spec
from hwbench.inventory import Target, find_target
from hwbench.pipeline import Watcher, profile
from hwbench.records.base import Missing
from hwbench.records.changes import Change
from hwbench.records.measurement import Measurement, NotMeasured, ProfileRequest
from hwbench.records.sweep import SWEEP_SCHEMA, PowerAsked, SweepFigures, SweepPoint, SweepResult
from hwbench.results import earlier_result

SWEEP = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What a sweep goes over; an axis that is empty stays as it is."""

    batch_sizes: tuple[int, ...]
    power_limits_w: tuple[float, ...] = ()
    clocks_hz: tuple[tuple[float, float], ...] = ()  # the lowest and the highest

    @property
    def settings(self) -> list[PowerAsked]:
        """Every combination of power limit and clock."""
        limits: tuple[float | None, ...] = self.power_limits_w or (None,)
        clocks: tuple[tuple[float, float] | None, ...] = self.clocks_hz or (None,)
        return [PowerAsked(power_limit_w=limit, clocks_hz=clock) for limit, clock in itertools.product(limits, clocks)]

    def order(self, seed: int) -> list[tuple[PowerAsked, list[int]]]:
        """Return the settings and the batch sizes of each in the order to measure them, drawn from one generator."""
        chance = random.Random(seed)
        settings = chance.sample(self.settings, len(self.settings))
        return [(setting, chance.sample(self.batch_sizes, len(self.batch_sizes))) for setting in settings]


def sweep(
    request: ProfileRequest, axes: Axes, folder: Path, *, resume: bool = False, watcher: Watcher | None = None
) -> SweepResult:
    """Measure every point and save what they say together.

    Args:
        request: of mode ``energy``, one engine and one precision; its batch size is put in for each point.
        axes: what to go over.
        folder: gets a result folder for each point, and ``sweep.json``, which is written after each point.
        resume: keep points that an earlier sweep in this folder has finished, those beside these axes too.
        watcher: told what is going on.

    Raises:
        UsageError: several engines or precisions, or a value that the GPU does not take: nothing was measured; no
            point could be as it was asked for.
        DeviceError: settings cannot be changed here; nothing was measured.
        EngineError: no point gave numbers.
        Interrupted: Ctrl-C; finished points are kept.
    """
    if len(request.engines) != 1 or len(request.precisions) != 1 or request.mode != "energy":
        msg = "a sweep measures the energy of one engine in one precision"
        raise UsageError(msg, hint="give one --engine and one --precision")
    parse_spec(request.model)
    target = find_target(request.device)
    if target.device.kind != "nvidia" and axes.settings != [PowerAsked()]:
        raise _no_limits(request, target)
    require(request.meter, target.device)
    run = _Sweep(request, axes, folder, target, watcher or Watcher(), resume=resume)
    run.check()
    try:
        return run.run()
    except (KeyboardInterrupt, Interrupted) as error:
        raise Interrupted("stopped by Ctrl-C", hint=run.left()) from error


def read_sweep(folder: Path) -> SweepResult:
    """Read the sweep that lies in ``folder``."""
    return read_record(folder / SWEEP, SweepResult, schema=SWEEP_SCHEMA)


class _Sweep:
    """One run of :func:`sweep`."""

    def __init__(
        self, request: ProfileRequest, axes: Axes, folder: Path, target: Target, watcher: Watcher, *, resume: bool
    ) -> None:
        self.request, self.axes, self.folder, self.target = request, axes, folder, target
        self.watcher, self.resume = watcher, resume
        self.total = len(axes.settings) * len(axes.batch_sizes)
        self.points: dict[tuple[PowerAsked, int], SweepPoint] = self._earlier() if resume else {}
        self.refused: list[UsageError] = []

    def check(self) -> None:
        """Refuse, before anything is measured, what any of the settings would be refused for."""
        if self.axes.settings == [PowerAsked()]:
            return
        subject = look(gpu=self.target.device)
        refuse_another(subject.tree.root)
        refuse_early(subject.tree.root, [change for setting in self.axes.settings for change in self.changes(setting)])

    def run(self) -> SweepResult:
        number = 0
        for setting, sizes in self.axes.order(self.request.seed):
            with self.set_to(setting) as target:
                for size in sizes:
                    watcher = _PointWatcher(self.watcher, _words(setting, size), number, self.total)
                    self.points[setting, size] = self.point(setting, size, target, watcher)
                    self.save()
                    number += 1
        result = self.save()
        if all(isinstance(point.figures, Missing) for point in result.points):
            if len(self.refused) == self.total:
                raise self.refused[0]
            reasons = "\n".join(f"{point.folder}: {point.figures}" for point in result.points)
            raise EngineError(f"no point of the sweep of '{self.request.model}' gave numbers", hint=reasons)
        return result

    def left(self) -> str:
        asked = itertools.product(self.axes.settings, self.axes.batch_sizes)
        found = [self.points[key].figures for key in asked if key in self.points]
        done = sum(not isinstance(figures, Missing) for figures in found)
        again = f"the same command with --resume --output {shlex.quote(str(self.folder))} goes on"
        return f"{done} of {self.total} points are in {self.folder}; {again}"

    def changes(self, setting: PowerAsked) -> tuple[Change, ...]:
        """Return what a setting takes, as the machine is now."""
        return plan(look(gpu=self.target.device), setting.applied) if setting != PowerAsked() else ()

    @contextlib.contextmanager
    def set_to(self, setting: PowerAsked) -> Iterator[Target]:
        """Set the GPU, put it back afterwards; yield the device as it is meanwhile."""
        if setting == PowerAsked():
            yield self.target
            return
        subject = look(gpu=self.target.device)
        refuse_another(subject.tree.root)
        command = ["hwbench", "energy", "sweep", self.request.model]
        with (
            Interrupts() as interrupts,
            changed(subject.tree.root, self.changes(setting), command),
            interrupts.let_in(),
        ):
            yield find_target(self.request.device)

    def point(self, setting: PowerAsked, size: int, target: Target, watcher: Watcher) -> SweepPoint:
        name = _folder_name(setting, size)
        request = msgspec.structs.replace(self.request, batch_size=size)
        earlier = earlier_result(self.folder / name, request, target) if self.resume else None  # another's: refused
        figures: SweepFigures | Missing
        try:
            if earlier is not None and earlier.status == "complete":
                watcher.step("measured earlier", 0, 1)
                result = earlier
            else:
                result = profile(request, self.folder / name, target=target, resume=self.resume, watcher=watcher)
            figures = figures_of(result, size)
        except (StorageError, PluginError, Interrupted):
            raise
        except HwbenchError as error:  # a batch that does not fit must not take the others along
            figures = Missing(code="failed", why=error.message, cure=error.hint)
            self.refused += [error] if isinstance(error, UsageError) else []
        return SweepPoint(batch_size=size, setting=setting, folder=name, figures=figures)

    def save(self) -> SweepResult:
        result = SweepResult(
            schema_version=SWEEP_SCHEMA,
            hwbench=hwbench.__version__,
            created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            model=self.request.model,
            device=self.target.device.title,
            engine=self.request.engines[0],
            precision=self.request.precisions[0],
            points=with_front([self.points[key] for key in sorted(self.points, key=_place)]),
        )
        write_record(self.folder / SWEEP, result)
        return result

    def _earlier(self) -> dict[tuple[PowerAsked, int], SweepPoint]:
        """Return the points of an earlier sweep in the folder, which must have asked for the same."""
        if not (self.folder / SWEEP).exists():
            return {}
        found = read_sweep(self.folder)
        asked = (self.request.model, self.target.device.title, self.request.engines[0], self.request.precisions[0])
        before = (found.model, found.device, found.engine, found.precision)
        if before != asked:
            msg = f"'{self.folder}' holds a sweep of {' '.join(before)}, and this one is of {' '.join(asked)}"
            raise UsageError(msg, hint="ask for the same, or measure into another folder")
        return {(point.setting, point.batch_size): point for point in found.points}


class _PointWatcher(Watcher):
    """Tells which point it is that something is told of."""

    def __init__(self, watcher: Watcher, words: str, done: int, total: int) -> None:
        self._watcher, self._words, self._done, self._total = watcher, words, done, total

    def step(self, label: str, done: int, total: int) -> None:  # noqa: ARG002 - steps of points are counted
        self._watcher.step(f"{self._words}: {label}", self._done, self._total)

    def phase(self, label: str, phase: str, fraction: float | None) -> None:
        self._watcher.phase(f"{self._words}: {label}", phase, fraction)

    def measured(self, measurement: Measurement) -> None:
        self._watcher.measured(measurement)

    def not_measured(self, reason: NotMeasured) -> None:
        self._watcher.not_measured(reason)


def _no_limits(request: ProfileRequest, target: Target) -> UsageError:
    if target.device.kind != "jetson":
        msg = f"power limits and clocks are set on NVIDIA GPUs, and '{request.device}' is none"
        return UsageError(msg, hint="name one (--device cuda:0), or sweep the batch size alone")
    again = f"hwbench energy sweep {shlex.quote(request.model)} --device {request.device} --batch-size ... --output ..."
    return UsageError(
        "a Jetson has power modes, and no power limit or clocks that a sweep could set",
        hint=f"sweep the batch size in each mode, into a folder of its own: "
        f"hwbench doctor --apply power_mode=15W -- {again}",
    )


def _place(key: tuple[PowerAsked, int]) -> tuple[float, tuple[float, float], int]:
    """Return what points are ordered by in the file: limit, clock, batch size."""
    setting, size = key
    return setting.power_limit_w or 0.0, setting.clocks_hz or (0.0, 0.0), size


def _words(setting: PowerAsked, size: int) -> str:
    return f"batch {size}" + (f", {setting.words}" if setting != PowerAsked() else "")


def _folder_name(setting: PowerAsked, size: int) -> str:
    limit, clocks = setting.limit_words, setting.clock_words
    parts = [f"batch-{size}", f"limit-{limit}" if limit else "", f"clocks-{clocks}" if clocks else ""]
    return "-".join(part for part in parts if part).replace(" ", "")
