"""What ``hwbench doctor --apply`` can change of a Jetson: its power mode, and whether its clocks are held."""

from __future__ import annotations

from hwbench.devices.jetson import is_jetson, power_mode
from hwbench.devices.jetson_clocks import held, power_modes
from hwbench.doctor.subject import Subject
from hwbench.errors import DeviceError, UsageError
from hwbench.records.base import Missing
from hwbench.records.changes import Change

_STORE = "run/hwbench/jetson_clocks.conf"


def mode(subject: Subject, value: str) -> tuple[Change, ...]:
    """Set the power mode, by its number or its name."""
    _check_jetson(subject, "power_mode")
    modes = power_modes(subject.tree.text("etc/nvpmodel.conf") or "")
    now = power_mode(subject.tree)
    if not modes:
        raise _cannot("power_mode", "/etc/nvpmodel.conf names no modes", "in a container: run it on the board itself")
    if isinstance(now, Missing):
        raise _cannot("power_mode", now.why, now.cure)
    chosen = [one for one in modes if value in {str(one.number), one.name}]
    if len(chosen) != 1:
        listed = "; ".join(one.words for one in modes)
        raise UsageError(f"power_mode cannot be set to {value!r}", hint=f"this board has {listed}")
    before, after = now.partition(":")[0], str(chosen[0].number)
    if before == after:
        return ()
    if held(subject.tree) is True:
        why = "the clocks are held (jetson_clocks), and another mode would let go of them for good"
        raise _cannot("power_mode", why, "sudo jetson_clocks --restore, or reboot; then both can be asked for at once")
    return (Change(setting="power_mode", path="nvpmodel", kind="nvpmodel", before=before, after=after),)


def clocks(subject: Subject, value: str) -> tuple[Change, ...]:
    """Hold the clocks at what the power mode allows."""
    _check_jetson(subject, "jetson_clocks")
    if value != "on":
        raise UsageError(f"jetson_clocks cannot be set to {value!r}", hint="it can be: on (it is off again afterwards)")
    now = held(subject.tree)
    if isinstance(now, Missing):
        raise _cannot("jetson_clocks", now.why, now.cure)
    if now:
        return ()
    return (Change(setting="jetson_clocks", path=_STORE, kind="jetson_clocks", before="off", after="on"),)


def _check_jetson(subject: Subject, setting: str) -> None:
    if not is_jetson(subject.tree):
        raise _cannot(setting, "this is no Jetson", None)


def _cannot(setting: str, why: str, cure: str | None) -> DeviceError:
    return DeviceError(f"{setting} cannot be set here: {why}; nothing has been changed", hint=cure)
