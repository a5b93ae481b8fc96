"""From the options of ``hwbench profile`` to a request with nothing left open."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.errors import UsageError
from hwbench.units import parse_seconds

if TYPE_CHECKING:
    from hwbench.inventory import Target
    from hwbench.records.measurement import Mode, ProfileRequest, StopRule

_SHAPE = re.compile(r"(?P<name>[^,]+):(?P<sizes>[0-9]{1,10}(?:x[0-9]{1,10})*)")  # a name may hold colons: input:0
_DURATION_S = 3.0
_MAX_DURATION_S = 20.0
_SETTLE = 0.01
_PRECISIONS = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "fp4", "int8", "int4", "auto")


@dataclass(frozen=True, kw_only=True)
class StopOptions:
    """What ends a timed run, as typed; None where it was not."""

    duration: str | None
    max_duration: str | None
    settle: float | None
    iterations: int | None

    def given(self) -> list[str]:
        """Return the options about time that were typed."""
        options = {"--duration": self.duration, "--max-duration": self.max_duration, "--settle": self.settle}
        return [name for name, value in options.items() if value is not None]


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
    warmup: str
    stop: StopOptions
    layers: bool | None
    meter: str
    seed: int
    timeout: str


def resolve(options: Options, target: Target) -> ProfileRequest:
    """Return the request, every default filled in for ``target``.

    Raises:
        UsageError: an unknown name, a value that is not one, or an option that would do nothing.
    """
    from hwbench.inventory import default_threads
    from hwbench.records.measurement import ProfileRequest, StopRule

    modes: dict[str, Mode] = {"latency": "latency", "throughput": "throughput"}
    if options.mode not in modes:
        raise UsageError(f"--mode '{options.mode}' is neither latency nor throughput")
    mode = modes[options.mode]
    _check_names(options, target)
    _check_mode(options)
    threads = options.threads or default_threads(target)
    _check_streams(options.streams, threads)
    return ProfileRequest(
        model=options.model,
        device=options.device,
        engines=_unique(options.engines),
        precisions=_unique(options.precisions),
        mode=mode,
        batch_size=options.batch_size,
        shapes=parse_shapes(options.shapes),
        input_data=options.input_data,
        threads=threads,
        streams=(options.streams or threads) if mode == "throughput" else 1,
        warmup=StopRule(name="duration", settings={"seconds": parse_seconds(options.warmup), "min_count": 10}),
        stop=stop_rule(mode, options.stop),
        layers=mode == "latency" and options.layers is not False,
        meter=options.meter,
        seed=options.seed,
        timeout_s=parse_seconds(options.timeout),
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


def stop_rule(mode: str, options: StopOptions) -> StopRule:
    """Return the rule that ends a timed run.

    Raises:
        UsageError: options that exclude each other, or a value out of range.
    """
    from hwbench.records.measurement import StopRule

    if options.iterations is not None:
        if given := options.given():
            raise UsageError(f"--iterations fixes the length of a run, and so does {given[0]}", hint="give one of them")
        return StopRule(name="count", settings={"count": options.iterations})
    longest_s = parse_seconds(options.max_duration) if options.max_duration is not None else _MAX_DURATION_S
    duration_s = parse_seconds(options.duration) if options.duration is not None else min(_DURATION_S, longest_s)
    if mode == "throughput":
        return StopRule(name="duration", settings={"seconds": duration_s, "min_count": 20})
    if options.duration is not None and options.max_duration is not None and duration_s > longest_s:
        raise UsageError(f"--duration {options.duration} is longer than --max-duration {options.max_duration}")
    settle = _SETTLE if options.settle is None else options.settle
    if not 0 < settle < 1:
        raise UsageError(f"--settle {settle:g} is not a share between 0 and 1")
    return StopRule(
        name="stable-median",
        settings={
            "min_seconds": duration_s,
            "min_count": 20,
            "max_seconds": max(duration_s, longest_s),
            "relative": settle,
        },
    )


def _check_names(options: Options, target: Target) -> None:
    from hwbench import plugins
    from hwbench.errors import PluginError

    if options.meter not in {"auto", "none"}:
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


def _check_mode(options: Options) -> None:
    """Refuse what the mode has no use for."""
    if options.mode == "latency":
        if options.streams is not None:
            raise UsageError(
                "--streams is for throughput mode", hint="add --mode throughput; latency runs one request at a time"
            )
        return
    unused = [name for name in options.stop.given() if name != "--duration"]
    unused += ["--layers"] if options.layers else []
    if unused:
        raise UsageError(f"{unused[0]} is for latency mode", hint="leave it out, or leave --mode throughput out")


def _check_streams(streams: int | None, threads: int) -> None:
    """Refuse more requests in flight than threads: the runtimes would run more threads than were asked for."""
    if streams is not None and streams > threads:
        raise UsageError(
            f"--streams {streams} is more than the {threads} threads there are for them",
            hint=f"give --streams {threads} or fewer, or more --threads",
        )


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
