"""How fast the CPU may run and who decides: ``/sys/devices/system/cpu/{cpufreq,intel_pstate}``."""

from __future__ import annotations

from hwbench.devices.tree import Tree, not_shown
from hwbench.records.base import Missing

_CPU = "sys/devices/system/cpu"


def max_hz(tree: Tree, *, virtual: bool) -> float | Missing:
    """Return the highest clock of the fastest core, boost included, in hertz."""
    values = [tree.integer(f"{policy}/cpuinfo_max_freq") for policy in _policies(tree)]
    known = [value for value in values if value]
    if known:
        return max(known) * 1e3  # the files are in kHz
    return not_shown("the maximum clock", virtual=virtual, where=f"/{_CPU}/cpufreq")


def governor(tree: Tree, *, virtual: bool) -> str | Missing:
    """Return the frequency governor; several, joined by ``+``, where CPUs differ."""
    names = {tree.text(f"{policy}/scaling_governor") for policy in _policies(tree)} - {None, ""}
    if names:
        return "+".join(sorted(name for name in names if name))
    return not_shown("the frequency governor", virtual=virtual, where=f"/{_CPU}/cpufreq")


def turbo(tree: Tree, *, virtual: bool) -> bool | Missing:
    """Tell whether clocks above the nominal one are allowed."""
    forbidden = tree.integer(f"{_CPU}/intel_pstate/no_turbo")
    if forbidden is not None:
        return forbidden == 0
    boosts = [tree.integer(f"{_CPU}/cpufreq/boost")]
    boosts += [tree.integer(f"{policy}/boost") for policy in _policies(tree)]
    known = [value for value in boosts if value is not None]
    if known:
        return any(known)
    return not_shown("whether turbo is on", virtual=virtual, where=f"/{_CPU}/cpufreq/boost")


def _policies(tree: Tree) -> list[str]:
    return tree.glob(f"{_CPU}/cpufreq", "policy*")
