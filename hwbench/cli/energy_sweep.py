"""``hwbench energy sweep``: items per second and per joule over batch sizes, power limits and clocks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.modes import ModeOptions, StopOptions
from hwbench.cli.request import Options, resolve
from hwbench.cli.terminal import Device, Json, NoColor, Quiet, Terminal, Verbose, command, write_stdout
from hwbench.errors import UsageError

if TYPE_CHECKING:
    from hwbench.energy_sweep import Axes
    from hwbench.records.measurement import ProfileRequest
    from hwbench.records.sweep import SweepResult


@command
def sweep(
    model: Annotated[str, typer.Argument(help="What to measure, as for hwbench profile.")],
    batch_size: Annotated[str, typer.Option("--batch-size", "-b", help="Batch sizes, comma-separated: 1,2,4,8.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results of all points.")],
    device: Device = "cpu",
    engine: Annotated[str, typer.Option("--engine", "-e", help="The engine.")] = "onnxruntime",
    precision: Annotated[str, typer.Option("--precision", "-p", help="The precision.")] = "fp32",
    power_limit: Annotated[
        str | None, typer.Option(help="Power limits of the GPU, comma-separated: 200W,300W. As root; put back after.")
    ] = None,
    clocks: Annotated[
        str | None, typer.Option(help="Locked clocks of the GPU, comma-separated: 1200MHz,1500MHz. As root; put back.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads in all. Default: one a physical core.")] = None,
    meter: Annotated[str, typer.Option(help="Energy meter: auto or a name.")] = "auto",
    energy_repeats: Annotated[int | None, typer.Option(min=2, help="Windows for each point. Default: 5.")] = None,
    energy_window: Annotated[
        str | None, typer.Option(help="Length of a window. Default: 10s, or 100 updates of the meter.")
    ] = None,
    max_warmup: Annotated[
        str | None, typer.Option(help="Longest wait for a plateau, each point. Default: 3min.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random inputs, and of the order of the points.")] = 0,
    timeout: Annotated[str, typer.Option(help="Longest silence of the engine, compiling included.")] = "15min",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what an interrupted sweep left.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Measure the energy of MODEL at each batch size, power limit and clock: the curve of performance per watt.

    A point takes a minute or more. Points on the front of speed and energy are marked. Exit codes: 0 measured; 2 wrong
    request; 3 model, device or engine failed; 4 a point is invalid; 130 interrupted, finished points kept.
    """
    from hwbench.energy_sweep import SWEEP, Axes
    from hwbench.errors import EXIT_INVALID
    from hwbench.files import encode
    from hwbench.records.base import Missing

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    axes = Axes(
        batch_sizes=_sizes(batch_size),
        power_limits_w=_limits(power_limit),
        clocks_hz=_clocks(clocks),
    )
    if (output / SWEEP).exists() and not resume:
        raise UsageError(f"'{output}' already holds a sweep", hint="--resume goes on with it, or give another --output")
    modes = ModeOptions(energy_repeats=energy_repeats, energy_window=energy_window, max_warmup=max_warmup)
    options = Options(
        model=model, device=device, engines=[engine], precisions=[precision], mode="energy", batch_size=None, shapes=(),
        input_data=None, threads=threads, streams=None, warmup=None, stop=StopOptions(), modes=modes, layers=None,
        meter=meter, seed=seed, timeout=timeout,
    )  # fmt: skip
    found = _measured(terminal, options, axes, output, resume=resume)
    page = _write(found, output)
    if json:
        write_stdout(encode(found))
    else:
        from hwbench.report.sweep_text import render_sweep

        terminal.show(render_sweep(found))
    terminal.say(f"\nsweep: {output / SWEEP}\npage: {page}")
    if any(not isinstance(point.figures, Missing) and point.figures.validity == "invalid" for point in found.points):
        raise typer.Exit(EXIT_INVALID)


def _measured(terminal: Terminal, options: Options, axes: Axes, output: Path, *, resume: bool) -> SweepResult:
    from hwbench import energy_sweep
    from hwbench.cli.progress import ProgressWatcher
    from hwbench.errors import HwbenchError
    from hwbench.inventory import find_target

    request: ProfileRequest = resolve(options, find_target(options.device))
    try:
        with ProgressWatcher(terminal) as watcher:
            return energy_sweep.sweep(request, axes, output, resume=resume, watcher=watcher)
    except HwbenchError:
        if (output / energy_sweep.SWEEP).exists():  # what was finished is shown as well
            _write(energy_sweep.read_sweep(output), output)
        raise


def _sizes(text: str) -> tuple[int, ...]:
    parts = _words("--batch-size", text)
    if not all(part.isdecimal() and 0 < int(part) < 2**31 for part in parts):
        raise UsageError(f"--batch-size {text} is no list of batch sizes", hint="write for example 1,2,4,8,16")
    values = tuple(int(part) for part in parts)
    _check_each_once("--batch-size", text, values)
    return values


def _words(name: str, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    parts = tuple(part.strip() for part in text.split(","))
    _check_each_once(name, text, parts)
    return parts


def _check_each_once(name: str, text: str, values: tuple[object, ...]) -> None:
    if not all(values) or len(set(values)) < len(values):
        raise UsageError(f"{name} {text}: a value is missing or given twice", hint="separate values by single commas")


def _limits(text: str | None) -> tuple[float, ...]:
    """Return power limits in watts."""
    from hwbench.doctor.gpu_settings import milliwatts_of

    found = [milliwatts_of(part) for part in _words("--power-limit", text)]
    values = tuple(milliwatts / 1000 for milliwatts in found if milliwatts)
    if len(values) < len(found):
        raise UsageError(f"--power-limit {text} is no list of power limits", hint="write for example 200W,300W")
    _check_each_once("--power-limit", text or "", values)  # 300W and 300.0W are one
    return values


def _clocks(text: str | None) -> tuple[tuple[float, float], ...]:
    """Return pairs of the lowest and the highest clock, in hertz."""
    from hwbench.doctor.gpu_settings import megahertz_of

    found = [megahertz_of(part) for part in _words("--clocks", text)]
    values = tuple((pair[0] * 1e6, pair[1] * 1e6) for pair in found if pair is not None and 0 < pair[0] <= pair[1])
    if len(values) < len(found):
        raise UsageError(f"--clocks {text} is no list of clocks", hint="write for example 1500MHz, or 1200MHz-1500MHz")
    _check_each_once("--clocks", text or "", values)
    return values


def _write(found: SweepResult, output: Path) -> Path:
    import csv
    import io

    from hwbench.files import write_bytes
    from hwbench.report.sweep import csv_rows, render_sweep_page

    table = io.StringIO()
    csv.writer(table).writerows(csv_rows(found))
    write_bytes(output / "sweep.csv", table.getvalue().encode())
    page = output / "sweep.html"
    write_bytes(page, render_sweep_page(found).encode())
    return page
