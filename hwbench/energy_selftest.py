"""``hwbench energy selftest``: put the machine through a known course of load and see what the meter makes of it.

Finds the device and its meter, makes a load for it, and lets :mod:`hwbench.energy.selftest` do the rest. A CPU is
loaded with matrix products on its cores; any other device with a small built-in model on the first engine that runs
there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

import hwbench
from hwbench import plugins
from hwbench.children import run_child
from hwbench.energy.choose import AUTO, EXTERNAL, NONE, Chosen, choose
from hwbench.energy.selftest.checks import all_checks
from hwbench.energy.selftest.course import Course, go
from hwbench.energy.trace import Trace
from hwbench.errors import HwbenchError, ModelError, UsageError
from hwbench.inventory import Target, default_threads, find_target, pinned_cpus
from hwbench.protocols import BuildRequest, Engine
from hwbench.records.base import Missing
from hwbench.records.device import Device
from hwbench.records.model import ImportJob, ImportResult
from hwbench.records.selftest import SELFTEST_SCHEMA, SelfTest, SelfTestCheck, verdict
from hwbench.units import Clock, MonotonicClock

Say = Callable[[str], None]
_SIZE = 384  # of the matrices: a few milliseconds a product
_MODEL = "resnet8"  # for devices that an engine must be asked to load
_PROBE_BYTES = 2**20
_WAVE_S = 0.2
_FIND_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """Work for a device: one call, finished when it returns; and a steadier one to time."""

    call: Callable[[], object]
    probe: Callable[[], object]
    told: str


@runtime_checkable
class FindsPeriod(Protocol):
    """A meter that can detect how often its sensor changes, while the load varies."""

    def find_period(self, device: Device, seconds: float) -> object:
        """Detect and keep it."""
        ...


def self_test(
    device: str, meter: str = AUTO, *, say: Say = lambda _: None, clock: Clock | None = None
) -> tuple[SelfTest, Trace | None]:
    """Test the meter of a device; return what came out and the raw trace. Without a meter the test is skipped.

    Raises:
        UsageError: no meter has that name, or it is none that can be tested.
        DeviceError: the device is not here.
    """
    if meter in {NONE, EXTERNAL}:
        raise UsageError(f"'{meter}' is no meter that can be tested", hint="--meter auto, or the name of one")
    target = find_target(device)
    chosen = choose(meter, target.device)
    if isinstance(chosen.instrument, Missing):
        return _result(target, chosen.instrument, None, None, ()), None
    name, boundary = chosen.instrument.meter, chosen.instrument.boundary
    cpus = pinned_cpus(target, default_threads(target))
    with _pinned(cpus), tempfile.TemporaryDirectory() as folder:
        load = make_load(target, Path(folder))
        if isinstance(load, Missing):
            chosen.instrument.close()
            return _result(target, load, boundary, None, ()), None
        course = Course(work=load.call, probe=load.probe, clock=clock or MonotonicClock(), cpus=cpus, say=say)
        chosen = _with_period(chosen, target, course)
        if isinstance(chosen.instrument, Missing):
            return _result(target, chosen.instrument, boundary, load.told, ()), None
        trace = go(course, lambda: choose(name, target.device), chosen.instrument)
    return _result(target, name, boundary, load.told, all_checks(trace)), trace


def _result(
    target: Target, meter: str | Missing, boundary: str | None, load: str | None, checks: tuple[SelfTestCheck, ...]
) -> SelfTest:
    untried = Missing(code="skipped", why="nothing was tested")
    return SelfTest(
        schema_version=SELFTEST_SCHEMA,
        hwbench=hwbench.__version__,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        device=target.device.title,
        meter=meter,
        boundary=boundary or untried,
        load=load or untried,
        status=verdict(meter, checks),
        checks=checks,
    )


def _with_period(chosen: Chosen, target: Target, course: Course) -> Chosen:
    """Let the meter detect its update period under a varying load, and open it again with what was found."""
    instrument = chosen.instrument
    assert not isinstance(instrument, Missing)
    meter = plugins.load("meters", instrument.meter)
    if not isinstance(meter, FindsPeriod):
        return chosen
    instrument.close()
    course.say(f"how often {instrument.meter} changes, {_FIND_S:.0f} s")
    finder = threading.Thread(target=meter.find_period, args=(target.device, _FIND_S), daemon=True)
    finder.start()
    while finder.is_alive():
        until_ns = course.clock.now_ns() + _WAVE_S * 1e9
        while course.clock.now_ns() < until_ns:
            course.work()
        course.clock.sleep(_WAVE_S)
    return choose(instrument.meter, target.device)


def make_load(target: Target, folder: Path) -> Load | Missing:
    """Return work for a device: matrix products on a CPU, a small model on anything else."""
    if target.device.kind == "cpu":
        return _matmul()
    return _model(target.device, folder)


def _matmul() -> Load:
    a = np.random.default_rng(0).standard_normal((_SIZE, _SIZE), dtype=np.float32)
    out = np.empty_like(a)
    data = bytes(_PROBE_BYTES)  # one core's work, not in step with any other thread
    return Load(
        call=lambda: np.matmul(a, a, out=out),
        probe=lambda: hashlib.sha256(data),
        told=f"products of {_SIZE} x {_SIZE} matrices in fp32 (numpy)",
    )


def _model(device: Device, folder: Path) -> Load | Missing:
    """Load a small built-in model into the first engine that runs it on the device."""
    job = ImportJob(model=_MODEL, batch_size=None, shapes={}, input_data=None, seed=0)
    imported = run_child(
        "hwbench.graph.importer", job, ImportResult, folder=folder / "model", what=f"reading '{_MODEL}'",
        failure=ModelError, timeout_s=300.0,
    )  # fmt: skip
    reasons: list[str] = []
    for name in plugins.available("engines"):
        try:
            engine: Engine = plugins.load("engines", name)
            support = engine.supports(imported.model, imported.files, device)
            if not support.usable:
                reasons.append(f"{name}: {support.reasons[0].why}")
                continue
            call = _bind(engine, imported, device, folder)
            return Load(call=call, probe=call, told=f"{_MODEL} on {name}")
        except HwbenchError as error:
            reasons.append(f"{name}: {error.message}")
    return Missing(code="no_engine", why=f"nothing here can load {device.name}: {'; '.join(reasons)}")


def _bind(engine: Engine, imported: ImportResult, device: Device, folder: Path) -> Callable[[], object]:
    engine.start()
    request = BuildRequest(
        model=imported.model, files=imported.files, device=device, precision=engine.precisions(device)[0],
        threads=1, streams=1,
        profile_layers=False, workdir=folder,
    )  # fmt: skip
    with np.load(Path(imported.files.folder) / imported.files.inputs, allow_pickle=False) as archive:
        inputs = {name: archive[name] for name in archive.files}
    return engine.load(request).compile().bind(inputs).run


@contextlib.contextmanager
def _pinned(cpus: tuple[int, ...]) -> Iterator[None]:
    """Run the body on these CPUs, where the OS can pin."""
    if not cpus or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
