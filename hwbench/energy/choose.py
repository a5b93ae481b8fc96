"""Which instrument measures: the one that was named, or the best of those that can.

``none`` measures nothing. ``external`` reads nothing either: the run keeps its marks, and the recording of a meter of
the user's own is brought in afterwards (``hwbench energy import``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hwbench import plugins
from hwbench.energy.uncertainty import TOO_SHORT_PERIODS
from hwbench.errors import DeviceError, PluginError, UsageError
from hwbench.protocols import Instrument, Meter
from hwbench.records.base import Missing
from hwbench.records.device import Device

NONE, AUTO, EXTERNAL = "none", "auto", "external"
_EXTERNALLY = "--meter external records marks and load pulses for a meter of your own"
_LATER = Missing(
    code="external",
    why="the energy comes from the recording of an external meter, which is not here yet",
    cure="hwbench energy import RUN_FOLDER FILE",
)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The instrument, opened, or why there is none; and why the others were not taken.

    ``reasons``: by meter, why it cannot be used here; of those only that were asked.
    """

    instrument: Instrument | Missing
    not_used: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, Missing] = field(default_factory=dict)


def choose(name: str, device: Device) -> Chosen:
    """Open the meter called ``name`` for ``device``; ``auto``: the one of highest priority that works.

    Raises:
        UsageError: no meter has that name.
        PluginError: the named meter does not import.
    """
    if name == NONE:
        return Chosen(instrument=Missing(code="not_asked", why="energy was not asked for", cure="--meter auto"))
    if name == EXTERNAL:
        return Chosen(instrument=_LATER)
    if name == AUTO:
        return _best(device)
    meter: Meter = plugins.load("meters", name)
    support = meter.supports(device)
    opened = meter.open(device) if support.usable else support.reasons[0]
    return Chosen(instrument=opened, reasons={name: opened} if isinstance(opened, Missing) else {})


def shortest_window_s(name: str, device: Device) -> float:
    """Return how long windows have to be for the instrument to tell anything, as it says; 0 where it does not say."""
    instrument = choose(name, device).instrument
    if isinstance(instrument, Missing):
        return 0.0
    channels = [channel for source in instrument.sources for channel in source.channels if channel.role == "total"]
    instrument.close()
    periods = [channel.period_s for channel in channels if not isinstance(channel.period_s, Missing)]
    return TOO_SHORT_PERIODS * max(periods, default=0.0)


def require(name: str, device: Device, otherwise: str = _EXTERNALLY) -> None:
    """Check that ``name`` gives an instrument for ``device``, or is ``external``, before minutes are spent on a run.

    ``otherwise``: what can be done without one.

    Raises:
        UsageError: ``none``, or no meter has that name.
        DeviceError: none can be read; the message says why of each, the hint what to do.
    """
    if name == NONE:
        raise UsageError("an energy run needs a meter", hint="--meter auto, or --meter external for one of your own")
    chosen = choose(name, device)
    if isinstance(chosen.instrument, Missing):
        refuse(name, device.name, chosen, otherwise)
    else:
        chosen.instrument.close()


def refuse(name: str, device: str, chosen: Chosen, otherwise: str = _EXTERNALLY) -> None:
    """Raise unless there is an instrument or one is not needed; see :func:`require`."""
    missing = chosen.instrument
    if not isinstance(missing, Missing) or name == EXTERNAL:
        return
    reasons = {meter: why for meter, why in chosen.reasons.items() if why.code != "wrong_device"} or {name: missing}
    told = "; ".join(f"{meter}: {reason.why}" for meter, reason in reasons.items())
    cures = [f"{meter}: {reason.cure}" for meter, reason in reasons.items() if reason.cure]
    raise DeviceError(f"no energy can be measured on {device}: {told}", hint="\n".join([*cures, otherwise]))


def _best(device: Device) -> Chosen:
    not_used: dict[str, str] = {}
    reasons: dict[str, Missing] = {}
    taken: tuple[str, Instrument] | None = None
    for meter in _ranked(not_used, reasons):
        if taken is not None:
            not_used[meter.name] = f"{taken[0]} comes first"
            continue
        support = meter.supports(device)
        opened = meter.open(device) if support.usable else support.reasons[0]
        if isinstance(opened, Missing):
            not_used[meter.name] = opened.why
            reasons[meter.name] = opened
        else:
            taken = (meter.name, opened)
    if taken is not None:
        return Chosen(instrument=taken[1], not_used=not_used, reasons=reasons)
    return Chosen(instrument=_nothing(device, reasons), not_used=not_used, reasons=reasons)


def _ranked(not_used: dict[str, str], reasons: dict[str, Missing]) -> list[Meter]:
    """Return the meters that may be taken unasked, best first; note those that do not import."""
    found: list[Meter] = []
    for name in plugins.available("meters"):
        try:
            meter: Meter = plugins.load("meters", name)
        except PluginError as error:
            not_used[name] = error.message
            reasons[name] = Missing(code="plugin_broken", why=error.message, cure=error.hint)
            continue
        if meter.priority > 0:
            found.append(meter)
    return sorted(found, key=lambda meter: (-meter.priority, meter.name))


def _nothing(device: Device, reasons: dict[str, Missing]) -> Missing:
    """Say why there is no instrument: of those for this kind of device where there are such, else of all."""
    fitting = {name: reason for name, reason in reasons.items() if reason.code != "wrong_device"}
    if not fitting:
        return Missing(code="no_meter", why=f"no energy meter here measures a {device.kind}")
    by_code: dict[str, list[str]] = {}
    for name, reason in fitting.items():
        by_code.setdefault(reason.code, []).append(name)
    told = "; ".join(f"{', '.join(names)}: {fitting[names[0]].why}" for names in by_code.values())
    first = next(iter(fitting.values()))
    return Missing(code=first.code, why=told, cure=first.cure)
