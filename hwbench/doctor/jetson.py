"""What is particular to a Jetson: clocks that are held or not, its fan, over-current events, one memory for all.

Each check is left out on any other machine.
"""

from __future__ import annotations

from hwbench.devices.jetson import is_jetson
from hwbench.devices.jetson_clocks import held, limits
from hwbench.doctor.answers import cannot_tell, info, ok, warning
from hwbench.doctor.subject import Subject
from hwbench.measure.jetson_state import nvmap_bytes, over_current_events
from hwbench.records.base import Missing
from hwbench.records.health import HealthCheck
from hwbench.units import format_bytes, format_si

_FANS = frozenset({"pwmfan", "pwm_fan", "pwm-fan", "tegra_pwmfan"})


def clocks(subject: Subject) -> HealthCheck | None:
    """Check whether the clocks are held, as ``jetson_clocks`` does."""
    if not is_jetson(subject.tree):
        return None
    name, answer = "jetson_clocks", held(subject.tree)
    if isinstance(answer, Missing):
        return cannot_tell(name, answer)
    told = ", ".join(
        f"{what} {format_si(low, 'Hz')}" + ("" if low == high else f" to {format_si(high, 'Hz')}")
        for what, (low, high) in limits(subject.tree).items()
    )
    if answer:
        return ok(name, f"clocks are held: {told}")
    return warning(
        name,
        f"clocks follow the load: {told}",
        "the first inferences run slower, and pauses between inferences slow them again",
        "hwbench doctor --apply jetson_clocks -- COMMAND, as root; or sudo jetson_clocks; leave it if you deploy so",
    )


def fan(subject: Subject) -> HealthCheck | None:
    """Tell how the fan runs."""
    tree = subject.tree
    if not is_jetson(tree):
        return None
    name = "jetson_fan"
    for chip in tree.glob("sys/class/hwmon", "hwmon*"):
        drive = tree.integer(f"{chip}/pwm1")
        if tree.text(f"{chip}/name") in _FANS and drive is not None:
            return info(name, f"the fan is driven at {drive / 255:.0%}", None, pwm=drive)
    return cannot_tell(name, subject.not_shown("a fan", "/sys/class/hwmon/*/pwm1"))


def over_current(subject: Subject) -> HealthCheck | None:
    """Check that over-current protection has not throttled the board."""
    if not is_jetson(subject.tree):
        return None
    name, events = "jetson_over_current", over_current_events(subject.tree.root)
    if isinstance(events, Missing):
        return cannot_tell(name, events)
    if not events:
        return ok(name, "no over-current event since boot")
    return warning(
        name,
        f"{events} over-current events since boot",
        "the board drew more than its supply or its mode allows, and slowed CPU or GPU for a moment each time",
        "use the supply that came with it, or a power mode that draws less (hwbench doctor --apply power_mode=...)",
        events=events,
    )


def memory(subject: Subject) -> HealthCheck | None:
    """Tell what the GPU's programs hold of the memory that it shares with the CPU."""
    if not is_jetson(subject.tree):
        return None
    name, used = "jetson_memory", nvmap_bytes(subject.tree.root)
    if isinstance(used, Missing):
        return cannot_tell(name, used)
    return info(
        name, f"CPU and GPU share the memory; programs hold {format_bytes(used)} for the GPU", None, nvmap_bytes=used
    )
