"""Which instrument measures: the one that was named, or the best of those that can."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwbench import plugins
from hwbench.errors import PluginError
from hwbench.protocols import Instrument, Meter
from hwbench.records.base import Missing
from hwbench.records.device import Device


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The instrument, opened, or why there is none; and why the others were not taken."""

    instrument: Instrument | Missing
    not_used: dict[str, str] = field(default_factory=dict)


def choose(name: str, device: Device) -> Chosen:
    """Open the meter called ``name`` for ``device``; ``none``: none; ``auto``: the one of highest priority that works.

    Raises:
        UsageError: no meter has that name.
        PluginError: the named meter does not import.
    """
    if name == "none":
        return Chosen(instrument=Missing(code="not_asked", why="energy was not asked for", cure="--meter auto"))
    if name != "auto":
        meter: Meter = plugins.load("meters", name)
        support = meter.supports(device)
        return Chosen(instrument=meter.open(device) if support.usable else support.reasons[0])
    return _best(device)


def _best(device: Device) -> Chosen:
    not_used: dict[str, str] = {}
    reasons: list[Missing] = []
    taken: tuple[str, Instrument] | None = None
    for meter in _ranked(not_used, reasons):
        if taken is not None:
            not_used[meter.name] = f"{taken[0]} comes first"
            continue
        support = meter.supports(device)
        opened = meter.open(device) if support.usable else support.reasons[0]
        if isinstance(opened, Missing):
            not_used[meter.name] = opened.why
            reasons.append(opened)
        else:
            taken = (meter.name, opened)
    if taken is not None:
        return Chosen(instrument=taken[1], not_used=not_used)
    return Chosen(instrument=_nothing(device, reasons, not_used), not_used=not_used)


def _ranked(not_used: dict[str, str], reasons: list[Missing]) -> list[Meter]:
    """Return the meters that may be taken unasked, best first; note those that do not import."""
    found: list[Meter] = []
    for name in plugins.available("meters"):
        try:
            meter: Meter = plugins.load("meters", name)
        except PluginError as error:
            not_used[name] = error.message
            reasons.append(Missing(code="plugin_broken", why=error.message, cure=error.hint))
            continue
        if meter.priority > 0:
            found.append(meter)
    return sorted(found, key=lambda meter: (-meter.priority, meter.name))


def _nothing(device: Device, reasons: list[Missing], not_used: dict[str, str]) -> Missing:
    """Say why there is no instrument: of those for this kind of device where there are such, else of all."""
    fitting = [reason for reason in reasons if reason.code != "wrong_device"]
    if not fitting:
        return Missing(code="no_meter", why=f"no energy meter here measures a {device.kind}")
    told = "; ".join(f"{name}: {why}" for name, why in not_used.items() if why in {r.why for r in fitting})
    return Missing(code=fitting[0].code, why=told, cure=fitting[0].cure)
