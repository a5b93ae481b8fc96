"""What may be wrong with an energy value, one word each, and what to do about it.

A flag stays on the value: it is never cleared by averaging. ``word:detail`` (``throttled:sw_thermal``) is explained by
its ``word``. docs/energy.md shows this table; a test holds the two together. Meters may add words of their own through
``settings["flags"]``; those are theirs to explain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Flag(NamedTuple):
    """When a flag is set, and what to do."""

    when: str
    cure: str


FLAGS: dict[str, Flag] = {
    "window_too_short": Flag(
        "a window is shorter than 10 s or 100 update periods of the instrument (a single reading: 10 periods)",
        "let --energy-window be, or make it longer",
    ),
    "few_repeats": Flag("fewer than 5 windows count", "--energy-repeats 5 or more"),
    "windows_lost": Flag("at least one window has no energy; the mean is over the others", "see the window's reason"),
    "no_plateau": Flag(
        "temperature, power or latency still moved when the warm-up ended",
        "--energy-warmup longer, or better cooling; the mean is of a machine on its way",
    ),
    "edges_not_settled": Flag(
        "an averaging sensor, and less than one averaging time of the same load on both sides of a window",
        "record with --mode energy, which puts the load there",
    ),
    "averaging_blurs_edges": Flag(
        "the sensor averages over more than a tenth of the window", "longer windows, or another meter"
    ),
    "sensor_stale": Flag("twenty or more readings of a sensor in a window are all the same", "another meter"),
    "low_coverage": Flag(
        "part of the window has no reading; the mean of the rest stands in for it", "stop what keeps the recorder away"
    ),
    "late_readings": Flag(
        "a counter was not read for twenty times as long as usual; what it counted meanwhile is in the energy",
        "stop what keeps the recorder away",
    ),
    "aliasing_risk": Flag(
        "the sensor looks at a part of the time, and its period fits the load's nearly a whole number of times",
        "`hwbench energy selftest` (it detects the period of NVML's sensor), another batch size, or another meter",
    ),
    "dephased": Flag(
        "the loop paused on purpose so that a part-time sensor saw all of the load (or, with `aliasing_risk`, chance "
        "parts of it); the idle energy of the pauses is taken off",
        "nothing to do: the pauses and their uncertainty are stated",
    ),
    "throttled": Flag("the device held itself back in a window; by reason", "cool it, or raise its limit"),
    "clocks_not_locked": Flag(
        "the clocks may change (governor, turbo), or did by more than 2 %",
        "fix the clocks for comparisons (`hwbench doctor`); leave them for realistic figures, and say so",
    ),
    "clocks_unknown": Flag("nobody tells whether the clocks are fixed", "measure on the physical machine"),
    "idle_drift": Flag(
        "idle power before and after differ by more than 5 % or 2 W", "warm up longer; look for other programs"
    ),
    "idle_one_sided": Flag("idle power could be read on one side only", "see the other side's reason"),
    "dynamic_not_resolved": Flag(
        "energy above idle is smaller than its uncertainty", "use the total, or a meter with finer steps"
    ),
    "counter_power_mismatch": Flag(
        "counter and power of one instrument differ by more than 5 % over 10 s or more: the power integral is shown, "
        "unless it stood still or has gaps; not ranked",
        "hold it against an external meter; `hwbench energy selftest`",
    ),
    "counter_backwards": Flag("a counter fell unexplained; the steps beside it are left out", "measure again"),
    "counter_constant": Flag("a counter that adds to the total stood still, others did not", "look at the meter"),
    "negative_power": Flag("a power sensor read below zero", "the sensor's sign or wiring is wrong"),
    "mirrored_dies": Flag("several counters show one register: it is counted once", "nothing to do"),
    "breakdown_incomplete": Flag("a part of the breakdown cannot be read; the total is not affected", "nothing to do"),
    "foreign_load": Flag(
        "other programs used more than 10 % of the CPUs in a window or while idle", "stop them; measure again"
    ),
    "permission_fallback": Flag(
        "a meter that comes first is here and may not be read: another was taken", "give the permission it names"
    ),
    "unit_guess": Flag("the unit of a reading was guessed from its size", "hold it against an external meter"),
    "gain_unknown": Flag("nothing is known of the instrument's absolute scale", "compare on this instrument only"),
    "offset_unknown": Flag("how far a sensor's zero may be off is not known", "hold it against an external meter"),
    "mig_whole_gpu": Flag(
        "the GPU is split (MIG), and its sensors see all of it", "leave the other instances idle, or switch MIG off"
    ),
    "skew_unknown": Flag(
        "an external meter was aligned at one end only: how fast its clock goes is not known",
        "record until after the last load pulses",
    ),
    "unreadable_readings": Flag("lines of an imported file hold no number; they are left out", "look at the file"),
    "duplicate_times": Flag("an imported file has one time twice; the mean of the readings counts", "look at the file"),
    "frozen_readings": Flag("an imported file holds one value for a long time", "look at the meter"),
    "gaps": Flag("an imported file lacks readings in between", "record without other work on the meter's computer"),
    "last_line_dropped": Flag("an imported file ends within a line, which is left out", "copy the whole file"),
    "sign_reversed": Flag("the gauge counts discharge as positive; its sign was turned", "nothing to do"),
    "vm": Flag("a virtual machine: the counters may be shares that the hypervisor makes up", "the physical machine"),
}


DOUBTFUL = ("low_coverage", "sensor_stale", "aliasing_risk")  # whatever else a reading is, it may not be of the load


def doubt(flags: Sequence[str]) -> str | None:
    """Return the first flag by which a reading is not taken for the energy of the load; None where there is none."""
    return next((flag for flag in DOUBTFUL if flag in flags), None)


def explain(flag: str) -> Flag | None:
    """Return what is known of a flag; None for a word that a plugin brought."""
    return FLAGS.get(flag.partition(":")[0])
