"""From the options of ``hwbench profile`` to a request with nothing left open."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.cli.modes import ModeOptions, StopOptions, chosen_mode, mode_settings, refuse_unused, stop_rule
from hwbench.errors import UsageError
from hwbench.units import parse_seconds

if TYPE_CHECKING:
    from hwbench.inventory import Target
    from hwbench.records.measurement import Mode, ProfileRequest

_SHAPE = re.compile(r"(?P<name>[^,]+):(?P<sizes>[0-9]{1,10}(?:x[0-9]{1,10})*)")  # a name may hold colons: input:0
_WARMUP_S = 1.0
_PRECISIONS = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "fp4", "int8", "int4", "auto")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was typed, as far as it has to be resolved."""

    model: str
    device: str
    engines: Sequence[str]
    precisions: Sequence[str]
    mode: str
    batch_size: int | None
    shapes: Sequence[str]
    input_data: str | None
    threads: int | None
    streams: int | None
    warmup: str | None
    stop: StopOptions
    modes: ModeOptions
    layers: bool | None
    meter: str
    seed: int
    timeout: str
    require_device: str | None = None
    require_precision: str | None = None
    require_delegate: str | None = None


def resolve(options: Options, target: Target) -> ProfileRequest:
    """Return the request, every default filled in for ``target``.

    Raises:
        UsageError: an unknown name, a value that is not one, or an option that would do nothing.
    """
    from hwbench.inventory import default_threads
    from hwbench.records.measurement import STREAMING, ProfileRequest, StopRule
    from hwbench.records.placement import Requirements

    preset = options.modes.preset
    mode = chosen_mode(options.mode, preset)
    _check_names(options, target)
    refuse_unused(mode, _given(options), preset)
    _check_meter(mode, options.meter)
    threads = options.threads or default_threads(target)
    _check_streams(options.streams, threads)
    streams = (options.streams or threads) if mode in STREAMING else 1
    warmup_s = parse_seconds(options.warmup) if options.warmup is not None else _WARMUP_S
    stop = stop_rule(mode, options.stop, options.modes, options.batch_size)
    return ProfileRequest(
        model=options.model,
        device=options.device,
        engines=_unique(options.engines),
        precisions=_unique(options.precisions),
        mode=mode,
        batch_size=_batch_size(options),
        shapes=parse_shapes(options.shapes),
        input_data=options.input_data,
        threads=threads,
        streams=streams,
        warmup=StopRule(name="duration", settings={"seconds": warmup_s, "min_count": 10}),
        stop=stop,
        layers=options.layers is True or (mode == "latency" and options.layers is not False),
        meter=options.meter,
        seed=options.seed,
        timeout_s=parse_seconds(options.timeout),
        mode_settings=mode_settings(mode, options.modes, stop, streams, warmup_s),
        repeat_build=options.modes.repeat_build or 1,
        preset=preset,
        required=Requirements(
            device=options.require_device, precision=options.require_precision, delegate=options.require_delegate
        ),
    )


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read ``name:1x3x224x224`` items, comma-separated or one each.

    Raises:
        UsageError: an item is not of that form, or names an input twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for item in (part.strip() for text in texts for part in text.split(",") if part.strip()):
        match = _SHAPE.fullmatch(item)
        if match is None:
            raise UsageError(f"--shapes '{item}' is not an input's name and its sizes", hint="write name:1x3x224x224")
        if match["name"] in shapes:
            raise UsageError(f"--shapes names '{match['name']}' twice")
        sizes = tuple(int(size) for size in match["sizes"].split("x"))
        if any(not 0 < size < 2**31 for size in sizes):
            raise UsageError(f"--shapes '{item}': every size must be between 1 and 2**31 - 1")
        shapes[match["name"]] = sizes
    return shapes


def _check_names(options: Options, target: Target) -> None:
    from hwbench import plugins
    from hwbench.errors import PluginError

    if options.meter not in {"auto", "none", "external"}:
        plugins.find("meters", options.meter)
    for engine in options.engines:
        plugins.find("engines", engine)
    known = set(_PRECISIONS)
    if known.issuperset(options.precisions):
        return
    for engine in plugins.available("engines"):  # a plugin may have precisions of its own
        with contextlib.suppress(PluginError):  # it is listed among those not measured
            known.update(plugins.load("engines", engine).precisions(target.device))
    for precision in options.precisions:
        if precision not in known:
            listed = ", ".join((*_PRECISIONS, *sorted(known.difference(_PRECISIONS))))
            raise UsageError(f"no precision is called '{precision}'", hint=f"known: {listed}")


def _given(options: Options) -> dict[str, object]:
    """Return what belongs to some modes only, as typed."""
    stop, modes = options.stop, options.modes
    return {
        "--streams": options.streams,
        "--warmup": options.warmup,
        "--duration": stop.duration,
        "--max-duration": stop.max_duration,
        "--settle": stop.settle,
        "--iterations": stop.iterations,
        "--layers": options.layers,
        "--rate": modes.rate,
        "--latency-bound": modes.latency_bound,
        "--rest": modes.rest,
        "--max-warmup": modes.max_warmup,
        "--processes": modes.processes,
        "--repeat-build": modes.repeat_build,
        "--energy-repeats": modes.energy_repeats,
        "--energy-window": modes.energy_window,
    }


def _check_meter(mode: Mode, meter: str) -> None:
    if mode == "cold" and meter not in {"auto", "none"}:
        raise UsageError(f"--meter {meter}: a cold start is no window of inferences", hint="leave --meter out")
    if mode != "energy" and meter == "external":
        raise UsageError("--meter external is for energy mode: it needs its marks and pulses", hint="--mode energy")


def _batch_size(options: Options) -> int | None:
    """Return the batch size, that of the preset's queries where it has one.

    Raises:
        UsageError: another was asked for.
    """
    from hwbench.measure.mlperf import PRESETS

    if options.modes.preset is None:
        return options.batch_size
    wanted = PRESETS[options.modes.preset].samples_per_query
    if wanted is not None and options.batch_size not in {None, wanted}:
        raise UsageError(
            f"--preset {options.modes.preset} has {wanted} samples in a query", hint="leave --batch-size out"
        )
    return wanted or options.batch_size


def _check_streams(streams: int | None, threads: int) -> None:
    """Refuse more requests in flight than threads: the runtimes would run more threads than were asked for."""
    if streams is not None and streams > threads:
        raise UsageError(
            f"--streams {streams} is more than the {threads} threads there are for them",
            hint=f"give --streams {threads} or fewer, or more --threads",
        )


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
