"""RAPL, the energy counters of x86 CPUs, through powercap.

A window reads the counters when it opens and when it closes; between the two it does nothing, unless it outlasts a
quarter of the time in which a counter could go once round: a thread that has slept until then reads them now and again.
Which counters are added up is in :mod:`hwbench.meters.powercap`.

The total is that of the sockets, whoever kept them busy: other processes and the idle power are in it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from types import TracebackType

from hwbench import resources
from hwbench.meters.integrate import counter_step, poll_interval_s, wrap_time_s
from hwbench.meters.powercap import Zone, find_zones, has_hypervisor, read_uj
from hwbench.meters.uncertainty import GAIN, TOO_SHORT_PERIODS, edges, expanded, quantisation
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.measurement import EnergyReading
from hwbench.units import Clock, MonotonicClock

UPDATE_PERIOD_S = 1e-3  # Hähnel et al., "Measuring energy consumption for short code paths using RAPL", 2012
MAX_POWER_W = 1000.0  # no zone draws more: about twice the largest socket sold
_LSB_J = 2.0**-14  # 61 µJ, the coarsest of the usual units; the kernel does not tell
_SMALLEST_RANGE_J = 2.0**16  # 32 bits of the finest usual unit, 2^-16 J; for a zone that does not tell its own
_SLACK_J = 1.0  # an update that arrives late brings the energy of some milliseconds more
_MIRROR_J = 1.0  # the copies are read one after the other, so they differ a little
_MIRROR_RELATIVE = 1e-6
_PROBE_S = 20 * UPDATE_PERIOD_S


class Rapl:
    """The meter.

    Args:
        root: where ``/sys`` and ``/proc`` are; ``resources.sysfs_root()`` when not given.
        clock: tests pass a fake.
    """

    name = "rapl"

    def __init__(self, root: Path | None = None, clock: Clock | None = None) -> None:
        self.root = resources.sysfs_root() if root is None else root
        self.clock = MonotonicClock() if clock is None else clock

    def supports(self, device: Device) -> Support:
        """Say whether the counters are here, readable and moving; takes some 20 ms.

        Codes: ``wrong_device``, ``no_rapl``, ``not_exposed_in_vm``, ``masked_by_container``, ``permission_denied``,
        ``counter_unreadable``, ``counter_constant``.
        """
        if device.kind != "cpu":
            return unsupported("wrong_device", f"rapl measures the CPU of this machine, not {device.name}")
        virtual, container = not isinstance(device.virtual, Missing), not isinstance(device.container, Missing)
        zones = find_zones(self.root, virtual=virtual, container=container)
        if isinstance(zones, Missing):
            return Support(reasons=(zones,))
        before = _read_counted(zones)
        self.clock.sleep(_PROBE_S)
        after = _read_counted(zones)
        for reading in (before, after):
            if isinstance(reading, Missing):
                return Support(reasons=(reading,))
        return Support(reasons=(_constant(_PROBE_S),)) if before == after else Support()

    def window(self) -> RaplWindow:
        return RaplWindow(self.root, self.clock, virtual=self._virtual)

    @cached_property
    def _virtual(self) -> bool:
        return has_hypervisor(self.root)


class _Counter:
    """One zone within a window, in microjoules."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.first_uj: int | None = None
        self.last_uj = 0
        self.last_s = 0.0
        self.total_uj = 0
        self.fault: Missing | None = None

    def update(self, value: int | Missing, now_s: float) -> None:
        """Take a reading; the first one is the start, an impossible one ends this counter."""
        if self.fault is not None:
            return
        if isinstance(value, Missing):
            self.fault = value
        elif self.first_uj is None:
            self.first_uj = value
        else:
            self._advance(value, now_s - self.last_s)
        if not isinstance(value, Missing):
            self.last_uj, self.last_s = value, now_s

    def _advance(self, value: int, elapsed_s: float) -> None:
        zone = self.zone
        step = counter_step(self.last_uj, value, zone.range_uj)
        if step is None:
            why = f"the counter of {zone.domain} went backwards, and the kernel does not say where it wraps"
            self.fault = Missing(code="counter_backwards", why=why, cure="measure again")
        elif elapsed_s > wrap_time_s(_range_j(zone), MAX_POWER_W):
            why = f"{zone.domain} was not read for {elapsed_s:.0f} s, in which it may have gone round"
            self.fault = Missing(code="wrap_ambiguous", why=why, cure="measure over a shorter time")
        elif step > (MAX_POWER_W * elapsed_s + _SLACK_J) * 1e6:
            why = f"the counter of {zone.domain} jumped by {step / 1e6:.3g} J in {elapsed_s:.3g} s"
            self.fault = Missing(code="counter_jumped", why=why, cure="a suspended machine does this; measure again")
        else:
            self.total_uj += step

    def mirrors(self, other: _Counter) -> bool:
        """Whether both show the same register: equal at the start of the window and at its end."""
        if self.first_uj is None or other.first_uj is None:
            return False
        return _close(self.first_uj, other.first_uj, self.zone) and _close(self.last_uj, other.last_uj, self.zone)


class RaplWindow:
    """One window of :class:`Rapl`: enter, work, leave, then ask for the reading."""

    def __init__(self, root: Path, clock: Clock, *, virtual: bool) -> None:
        self._root = root
        self._clock = clock
        self._virtual = virtual
        self._outcome: EnergyReading | Missing = Missing(code="window_open", why="the window has not been closed")

    def __enter__(self) -> RaplWindow:
        zones = find_zones(self._root, virtual=self._virtual, container=False)
        self._absent = zones if isinstance(zones, Missing) else None
        self._counters = [] if isinstance(zones, Missing) else [_Counter(zone) for zone in zones]
        self._lock, self._stop = threading.Lock(), threading.Event()
        with self._lock:
            self._thread = self._start_polling()
            self._start_s = self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        with self._lock:
            end_s = self._read()
        if self._thread is not None:
            self._thread.join()
        window_s = end_s - self._start_s
        self._outcome = self._absent or _reading(self._counters, window_s, self._clock, virtual=self._virtual)

    def reading(self) -> EnergyReading | Missing:
        """Return the energy of packages and DRAM.

        Missing, besides the codes of :meth:`Rapl.supports`: ``window_open``, ``window_too_short``,
        ``counter_backwards``, ``counter_jumped``, ``wrap_ambiguous``.
        """
        return self._outcome

    def _read(self) -> float:
        """Read every counter, with the lock held; return the time in the middle of the readings."""
        before_ns = self._clock.now_ns()
        values = [read_uj(counter.zone) for counter in self._counters]
        now_s = (before_ns + self._clock.now_ns()) / 2e9
        for counter, value in zip(self._counters, values, strict=True):
            counter.update(value, now_s)
        return now_s

    def _start_polling(self) -> threading.Thread | None:
        """Start the thread, before the window: it sleeps through any window that cannot wrap."""
        if not self._counters:
            return None
        interval_s = poll_interval_s(min(_range_j(counter.zone) for counter in self._counters), MAX_POWER_W)
        thread = threading.Thread(target=self._keep_polling, args=(interval_s,), daemon=True, name="hwbench-rapl")
        thread.start()
        return thread

    def _keep_polling(self, interval_s: float) -> None:
        while not self._stop.wait(interval_s):
            with self._lock:
                if not self._stop.is_set():
                    self._read()


def _reading(counters: list[_Counter], window_s: float, clock: Clock, *, virtual: bool) -> EnergyReading | Missing:
    counted = [counter for counter in counters if counter.zone.counted]
    for counter in counted:
        if counter.fault is not None:
            return counter.fault
    mirrored = _mirrored(counted)
    moved = [counter for counter in counted if counter not in mirrored and counter.total_uj > 0]
    still = [counter for counter in counted if counter not in mirrored and counter.total_uj == 0]
    short = window_s < TOO_SHORT_PERIODS * UPDATE_PERIOD_S
    if not any(counter.zone.kind == "package" for counter in moved):
        return _too_short(window_s) if short else _constant(window_s)
    energy_j = sum(counter.total_uj for counter in moved) / 1e6
    parts = [counter for counter in counters if not counter.zone.counted]
    flags = {
        "window_too_short": short,
        "vm": virtual,
        "mirrored_dies": bool(mirrored),
        "breakdown_incomplete": any(counter.fault is not None for counter in parts),
        **{f"counter_constant:{counter.zone.domain}": True for counter in still},
    }
    return EnergyReading(
        meter=Rapl.name,
        boundary=_boundary([counter.zone for counter in moved]),
        provenance="vendor_modelled",
        energy_j=energy_j,
        window_s=window_s,
        relative_uncertainty=expanded(
            GAIN["rapl"].standard,
            edges(UPDATE_PERIOD_S, window_s),
            quantisation(_LSB_J, 2 * len(moved), energy_j),
        ),
        domains_j={c.zone.domain: c.total_uj / 1e6 for c in [*moved, *parts] if c.fault is None},
        update_period_s=UPDATE_PERIOD_S,
        clock=type(clock).__name__,
        flags=tuple(flag for flag, on in flags.items() if on),
    )


def _boundary(zones: list[Zone]) -> str:
    memory = "and DRAM" if any(zone.kind == "dram" for zone in zones) else "without DRAM"
    return f"CPU packages {memory}, all that runs on them (RAPL: {' + '.join(zone.domain for zone in zones)})"


def _mirrored(counters: list[_Counter]) -> list[_Counter]:
    """Return the packages that repeat an earlier one: some AMD sockets show one register under every die."""
    packages = [counter for counter in counters if counter.zone.kind == "package"]
    return [c for i, c in enumerate(packages) if any(c.mirrors(earlier) for earlier in packages[:i])]


def _close(a_uj: int, b_uj: int, zone: Zone) -> bool:
    apart = abs(a_uj - b_uj)
    if zone.range_uj is not None:
        apart = min(apart, abs(zone.range_uj - apart))  # one of the two may just have wrapped
    return apart <= max(_MIRROR_J * 1e6, _MIRROR_RELATIVE * max(a_uj, b_uj))


def _range_j(zone: Zone) -> float:
    return _SMALLEST_RANGE_J if zone.range_uj is None else zone.range_uj / 1e6


def _read_counted(zones: Iterable[Zone]) -> list[int] | Missing:
    values: list[int] = []
    for zone in zones:
        if zone.counted:
            value = read_uj(zone)
            if isinstance(value, Missing):
                return value
            values.append(value)
    return values


def _constant(window_s: float) -> Missing:
    return Missing(
        code="counter_constant",
        why=f"the RAPL counters did not move in {window_s:.3g} s",
        cure="some hypervisors answer reads with a constant; measure on the physical machine",
    )


def _too_short(window_s: float) -> Missing:
    return Missing(
        code="window_too_short",
        why=f"the window of {window_s:.2g} s is shorter than what RAPL resolves ({UPDATE_PERIOD_S:g} s)",
        cure=f"measure for at least {100 * UPDATE_PERIOD_S:g} s",
    )
