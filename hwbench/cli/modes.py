"""What each mode of ``hwbench profile`` takes: which options are for it, and its defaults.

An option that a mode has no use for is refused: it would do nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.errors import UsageError
from hwbench.units import parse_seconds

if TYPE_CHECKING:
    from hwbench.measure.mlperf import Preset
    from hwbench.records.measurement import Mode, StopRule

LATENCY_LIKE = ("latency", "steady")
FOR: dict[str, tuple[str, ...]] = {
    "--streams": ("throughput", "server"),
    "--warmup": ("latency", "throughput", "steady", "sustained", "server"),
    "--duration": ("latency", "throughput", "steady", "burst", "sustained", "server"),
    "--max-duration": LATENCY_LIKE,
    "--settle": LATENCY_LIKE,
    "--iterations": ("latency", "throughput", "steady"),
    "--layers": ("latency", "energy"),
    "--rate": ("server",),
    "--latency-bound": ("server",),
    "--rest": ("burst",),
    "--max-warmup": ("steady", "energy"),
    "--energy-repeats": ("energy",),
    "--energy-window": ("energy",),
    "--processes": ("cold",),
    "--repeat-build": LATENCY_LIKE,
}
_DURATION_S = {"throughput": 3.0, "burst": 2.0, "sustained": 600.0, "server": 30.0}
_LATENCY_S, _LONGEST_S, _SETTLE = 3.0, 20.0, 0.01
_LEAST = 20
_PROCESSES, _REST_S, _MAX_WARMUP_S = 10, 5.0, 300.0
_WARM_WINDOW_S, _MEDIAN_CHANGE, _SLOPE_C_PER_10S = 2.5, 0.01, 0.5
_ENERGY_REPEATS, _ENERGY_WARMUP_S = 5, 180.0
_SHORTEST_PLATEAU_S = 13.0  # the temperature must stand still for 10 s, from the end of one of ten windows or more
_PARTS, _MINUTE_S = 10, 60.0
_SPIN_S = 1e-3
_MOST_QUERIES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class StopOptions:
    """What ends a timed run, as typed; None where it was not."""

    duration: str | None = None
    max_duration: str | None = None
    settle: float | None = None
    iterations: int | None = None


@dataclass(frozen=True, kw_only=True)
class ModeOptions:
    """What single modes have for themselves, as typed; None where it was not."""

    rate: float | None = None
    latency_bound: str | None = None
    rest: str | None = None
    max_warmup: str | None = None
    processes: int | None = None
    repeat_build: int | None = None
    preset: str | None = None
    energy_repeats: int | None = None
    energy_window: str | None = None


def chosen_mode(mode: str, preset: str | None) -> Mode:
    """Return the mode, that of the preset where there is one.

    Raises:
        UsageError: there is no such mode or preset, or the two do not agree.
    """
    from typing import get_args

    from hwbench.measure.mlperf import PRESETS
    from hwbench.records.measurement import Mode

    modes: dict[str, Mode] = {name: name for name in get_args(Mode)}
    if mode not in modes:
        raise UsageError(f"--mode '{mode}' is no mode", hint=f"one of {', '.join(modes)}")
    if preset is None:
        return modes[mode]
    if preset not in PRESETS:
        raise UsageError(f"--preset '{preset}' is no preset", hint=f"one of {', '.join(PRESETS)}")
    wanted = PRESETS[preset].mode
    if mode not in {"latency", wanted}:
        raise UsageError(f"--preset {preset} is of mode {wanted}, not {mode}", hint="leave --mode out")
    return wanted


def refuse_unused(mode: Mode, given: dict[str, object], preset: str | None) -> None:
    """Refuse what was typed (not None, not False) and ``mode``, or the preset, has no use for."""
    typed = [name for name, value in given.items() if value is not None and value is not False]
    for name in typed:
        if mode not in FOR[name]:
            *others, last = FOR[name]
            modes = f"{', '.join(others)} or {last}" if others else last
            raise UsageError(f"{name} is for {modes} mode", hint=f"leave it out, or use --mode {last}, not {mode}")
        if preset is not None and name in {"--max-duration", "--settle", "--iterations"}:
            raise UsageError(f"--preset {preset} says itself when to stop", hint=f"leave {name} out")
    if preset is None and "--latency-bound" in typed:
        raise UsageError("--latency-bound is for --preset mlperf-server", hint="leave it out, or add the preset")


def stop_rule(mode: Mode, options: StopOptions, modes: ModeOptions, batch_size: int | None) -> StopRule:
    """Return the rule that ends a timed run.

    Raises:
        UsageError: options that exclude each other, or a value out of range.
    """
    from hwbench.measure.mlperf import PRESETS
    from hwbench.records.measurement import StopRule

    if mode in {"cold", "energy"}:
        count = modes.processes or _PROCESSES if mode == "cold" else modes.energy_repeats or _ENERGY_REPEATS
        return StopRule(name="count" if mode == "cold" else "windows", settings={"count": count})
    if options.iterations is not None:
        typed = {"--duration": options.duration, "--max-duration": options.max_duration, "--settle": options.settle}
        if given := [name for name, value in typed.items() if value is not None]:
            raise UsageError(f"--iterations fixes the length of a run, and so does {given[0]}", hint="give one of them")
        return StopRule(name="count", settings={"count": options.iterations})
    if modes.preset is not None:
        return _preset_rule(PRESETS[modes.preset], options, batch_size)
    if mode in LATENCY_LIKE:
        return _stable_median(options)
    seconds = _DURATION_S[mode] if options.duration is None else _positive("--duration", options.duration)
    if mode in {"burst", "sustained"}:
        return StopRule(name="duration", settings={"seconds": seconds})
    return StopRule(name="duration", settings={"seconds": seconds, "min_count": _LEAST})


def _preset_rule(preset: Preset, options: StopOptions, batch_size: int | None) -> StopRule:
    from hwbench.measure.mlperf import DURATION_S
    from hwbench.records.measurement import StopRule

    if options.duration is not None:  # shorter than the preset's: its least count would make it long all the same
        return StopRule(
            name="duration", settings={"seconds": _positive("--duration", options.duration), "min_count": _LEAST}
        )
    least = math.ceil(preset.least / (batch_size or 1)) if preset.samples_per_query is None else preset.least
    return StopRule(name="duration", settings={"seconds": DURATION_S, "min_count": max(_LEAST, least)})


def _stable_median(options: StopOptions) -> StopRule:
    from hwbench.records.measurement import StopRule

    longest_s = parse_seconds(options.max_duration) if options.max_duration is not None else _LONGEST_S
    duration_s = parse_seconds(options.duration) if options.duration is not None else min(_LATENCY_S, longest_s)
    if options.duration is not None and options.max_duration is not None and duration_s > longest_s:
        raise UsageError(f"--duration {options.duration} is longer than --max-duration {options.max_duration}")
    settle = _SETTLE if options.settle is None else options.settle
    if not 0 < settle < 1:
        raise UsageError(f"--settle {settle:g} is not a share between 0 and 1")
    return StopRule(
        name="stable-median",
        settings={
            "min_seconds": duration_s,
            "min_count": _LEAST,
            "max_seconds": max(duration_s, longest_s),
            "relative": settle,
        },
    )


def mode_settings(mode: Mode, options: ModeOptions, stop: StopRule, streams: int, warmup_s: float) -> dict[str, float]:
    """Return what the mode has beside the stop rules, every default filled in.

    Raises:
        UsageError: a value that is missing or out of range.
    """
    if mode == "burst":
        rest_s = _REST_S if options.rest is None else parse_seconds(options.rest)
        return {"rest_s": rest_s, "bin_s": stop.settings["seconds"] / _PARTS}
    if mode == "sustained":
        seconds = stop.settings["seconds"]
        return {"bin_s": _MINUTE_S if seconds >= _DURATION_S["sustained"] else seconds / _PARTS}
    if mode == "steady":
        return _steady(options, warmup_s)
    if mode == "energy":
        return _energy(options, stop)
    if mode == "server":
        return _server(options, stop, streams)
    return {}


def _steady(options: ModeOptions, warmup_s: float) -> dict[str, float]:
    longest_s = _MAX_WARMUP_S if options.max_warmup is None else _positive("--max-warmup", options.max_warmup)
    if warmup_s > longest_s:
        raise UsageError(f"--warmup ({warmup_s:g} s) is longer than --max-warmup ({longest_s:g} s)")
    if longest_s < _SHORTEST_PLATEAU_S:
        raise UsageError(
            f"--max-warmup {longest_s:g} s is too short to see a plateau: the temperature must stand still for 10 s",
            hint=f"give {_SHORTEST_PLATEAU_S:g}s or more, or use --mode latency",
        )
    return {
        "max_warmup_s": longest_s,
        "window_s": min(_WARM_WINDOW_S, longest_s / _PARTS),
        "median_change": _MEDIAN_CHANGE,
        "temperature_slope_c_per_10s": _SLOPE_C_PER_10S,
    }


def _energy(options: ModeOptions, stop: StopRule) -> dict[str, float]:
    longest_s = _ENERGY_WARMUP_S if options.max_warmup is None else _positive("--max-warmup", options.max_warmup)
    found = {"repeats": stop.settings["count"], "max_warmup_s": longest_s}
    if options.energy_window is not None:
        found["window_s"] = _positive("--energy-window", options.energy_window)
    return found


def _server(options: ModeOptions, stop: StopRule, streams: int) -> dict[str, float]:
    if options.rate is None:
        raise UsageError(
            "--mode server needs --rate: how many queries arrive in a second",
            hint="half of what --mode throughput reports is a start",
        )
    if not 0 < options.rate < math.inf:
        raise UsageError(f"--rate {options.rate:g} is not a number of queries a second")
    if options.rate * stop.settings["seconds"] > _MOST_QUERIES:
        raise UsageError(
            f"--rate {options.rate:g} for {stop.settings['seconds']:g} s is more than {_MOST_QUERIES} queries, "
            "each of which is kept",
            hint="give a shorter --duration",
        )
    found = {"rate_per_s": options.rate, "spin_s": _SPIN_S if streams == 1 else 0.0}
    if options.latency_bound is not None:
        found["latency_bound_s"] = _positive("--latency-bound", options.latency_bound)
    elif options.preset is not None:
        raise UsageError(
            f"--preset {options.preset} needs --latency-bound: what p99 must stay within",
            hint="MLPerf's is 15ms for ResNet-50",
        )
    return found


def _positive(name: str, text: str) -> float:
    seconds = parse_seconds(text)
    if seconds <= 0:
        raise UsageError(f"{name} {text} is no length of time")
    return seconds
