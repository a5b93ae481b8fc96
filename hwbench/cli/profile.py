"""``hwbench profile``: measure a model on a device, with every runtime this machine has."""

from __future__ import annotations

import contextlib
import re
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.modes import ModeOptions, StopOptions
from hwbench.cli.request import Options, resolve
from hwbench.cli.terminal import (
    Device,
    Json,
    NoColor,
    Quiet,
    RequireDelegate,
    RequireDevice,
    RequirePrecision,
    Terminal,
    Verbose,
    command,
    write_stdout,
)
from hwbench.errors import (
    EXIT_GOAL_MISSED,
    EXIT_INVALID,
    EXIT_OK,
    EXIT_UNAVAILABLE,
    HwbenchError,
    Interrupted,
    UsageError,
)

if TYPE_CHECKING:
    from hwbench.inventory import Target
    from hwbench.records.measurement import ProfileRequest, ProfileResult


@command
def profile(
    model: Annotated[
        str, typer.Argument(help="net.onnx, net.pt2, net.py:callable, a built-in model, a bundle, net.tflite, net.xml.")
    ],
    device: Device = "cpu",
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", "-e", metavar="<str>", help="Only this engine; repeat for more. Default: all."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision", "-p", metavar="<str>", help="Only this precision (fp32, bf16, auto); repeat for more."
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(help="latency, throughput, burst, steady, sustained, server, cold or energy; see docs/modes.md."),
    ] = "latency",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", metavar="<int>", min=1, help="Size of the batch axis.")
    ] = None,
    shapes: Annotated[
        list[str] | None,
        typer.Option("--shapes", metavar="<str>", help="Input shapes, name:1x3x224x224; comma-separated or repeated."),
    ] = None,
    input_data: Annotated[
        Path | None, typer.Option("--input-data", help="Inputs from an .npz with arrays named like the inputs.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="<int>", min=1, help="Threads in all. Default: one a physical core.")
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(
            metavar="<int>", min=1, help="Requests in flight, or workers of mode server. Default: one a thread."
        ),
    ] = None,
    warmup: Annotated[str | None, typer.Option(help="Shortest warm-up (at least 10 inferences). Default: 1s.")] = None,
    duration: Annotated[
        str | None,
        typer.Option(help="Shortest timed run. Default: 3s (burst 2s, server 30s, sustained 10min, presets 10min)."),
    ] = None,
    max_duration: Annotated[
        str | None, typer.Option(help="Longest timed run, when the median does not settle. Default: 20s.")
    ] = None,
    settle: Annotated[
        float | None,
        typer.Option(help="Share of the median to which its 95 % interval must settle. Default: 0.01."),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(metavar="<int>", min=1, help="Time this many inferences instead.")
    ] = None,
    layers: Annotated[
        bool | None,
        typer.Option("--layers/--no-layers", help="Per-layer times, in a run of their own. Default: in latency mode."),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Mode server: queries that arrive in a second.")] = None,
    rest: Annotated[str | None, typer.Option(help="Mode burst: rest before it. Default: 5s.")] = None,
    max_warmup: Annotated[
        str | None, typer.Option(help="Longest wait for a plateau. Default: 5min in mode steady, 3min in energy.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(metavar="<int>", min=1, help="Mode cold: processes to start. Default: 10.")
    ] = None,
    repeat_build: Annotated[
        int | None,
        typer.Option(metavar="<int>", min=2, help="Build each engine so many times, each in a process of its own."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Limits of mlperf-single-stream, mlperf-multi-stream, mlperf-offline or mlperf-server."),
    ] = None,
    latency_bound: Annotated[str | None, typer.Option(help="Preset mlperf-server: what p99 must stay within.")] = None,
    meter: Annotated[
        str, typer.Option(help="Energy meter: auto, none, a name, or external (mode energy; import it later).")
    ] = "auto",
    energy_repeats: Annotated[
        int | None, typer.Option(metavar="<int>", min=2, help="Mode energy: windows to measure. Default: 5.")
    ] = None,
    energy_window: Annotated[
        str | None,
        typer.Option(help="Mode energy: length of a window, and of idle. Default: 10s, or 100 updates of the meter."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="<int>", min=0, help="Seed of random inputs.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the results. Default: a new one in hwbench-results/."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what an interrupted run left in --output.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the results that are in --output.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 4 when a measurement is only suspect.")] = False,
    require_device: RequireDevice = None,
    require_precision: RequirePrecision = None,
    require_delegate: RequireDelegate = None,
    timeout: Annotated[str, typer.Option(help="Longest silence of an engine, compiling included.")] = "15min",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the resolved request; measure nothing.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Measure latency, memory, energy and per-layer times of MODEL, on every engine this machine has.

    Exit codes: 0 measured; 1 something is not as --require-... says; 2 wrong request; 3 model, device or an engine
    failed; 4 a measurement is invalid; 130 interrupted, with what was finished kept.
    """
    from hwbench.files import RESULT, encode
    from hwbench.graph.spec import parse_spec
    from hwbench.inventory import find_target

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    spec = parse_spec(model)
    target = find_target(device)
    options = Options(
        model=model,
        device=device,
        engines=engine or (),
        precisions=precision or (),
        mode=mode,
        batch_size=batch_size,
        shapes=shapes or (),
        input_data=str(input_data) if input_data is not None else None,
        threads=threads,
        streams=streams,
        warmup=warmup,
        stop=StopOptions(duration=duration, max_duration=max_duration, settle=settle, iterations=iterations),
        modes=ModeOptions(
            rate=rate,
            latency_bound=latency_bound,
            rest=rest,
            max_warmup=max_warmup,
            processes=processes,
            repeat_build=repeat_build,
            preset=preset,
            energy_repeats=energy_repeats,
            energy_window=energy_window,
        ),
        layers=layers,
        meter=meter,
        seed=seed,
        timeout=timeout,
        require_device=require_device,
        require_precision=require_precision,
        require_delegate=require_delegate,
    )
    request = resolve(options, target)
    folder = _output_folder(output, spec.name, device, resume=resume, force=force)
    if dry_run:
        write_stdout(encode(request))
        return
    result = _run(request, folder, target, terminal, resume=resume, ours=output is None)
    page = _write_page(result, folder)
    if json:
        write_stdout(encode(result))
    _show(terminal, result, folder, stderr=json)
    terminal.say(f"\nresult: {folder / RESULT}\nreport: {page}")
    raise typer.Exit(exit_code(result, strict=strict))


def _run(
    request: ProfileRequest, folder: Path, target: Target, terminal: Terminal, *, resume: bool, ours: bool
) -> ProfileResult:
    from hwbench import pipeline
    from hwbench.cli.progress import ProgressWatcher

    try:
        with ProgressWatcher(terminal) as watcher:
            return pipeline.profile(request, folder, target=target, resume=resume, watcher=watcher)
    except HwbenchError as error:
        _account_for(folder, error, terminal, ours=ours)
        raise


def _account_for(folder: Path, error: HwbenchError, terminal: Terminal, *, ours: bool) -> None:
    """Say where a failed run has left what; take away a folder of ours that holds nothing but a wrong request."""
    from hwbench.files import RESULT

    if (folder / RESULT).exists() or isinstance(error, Interrupted):
        return  # the message says what is there
    if ours and isinstance(error, UsageError):
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # only if it is empty
        return
    logs = [log for log in sorted(folder.rglob("log.txt")) if log.stat().st_size > 0]
    if logs and str(logs[-1]) not in (error.hint or ""):
        terminal.say(f"log: {logs[-1]}")


def _output_folder(output: Path | None, model: str, device: str, *, resume: bool, force: bool) -> Path:
    from hwbench.files import RESULT

    if resume and force:
        raise UsageError("--resume keeps the results in --output, --force replaces them", hint="give one of them")
    if output is None:
        if resume:
            raise UsageError("--resume needs --output: the folder to go on in")
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        safe = re.sub(r"[^\w.-]+", "_", f"{model}-{device}")
        return _unused(Path("hwbench-results") / f"{safe}-{stamp}")
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output '{output}' is a file; it must be a folder")
    if (output / RESULT).exists() and not (resume or force):
        raise UsageError(f"'{output}' already holds a result", hint="--resume goes on with it, --force replaces it")
    return output


def _unused(folder: Path) -> Path:
    """Return ``folder``, or the same with a number when another run took it in the same second."""
    number, candidate = 1, folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def _write_page(result: ProfileResult, folder: Path) -> Path:
    from hwbench.files import write_bytes
    from hwbench.report.energy_traces import find_traces
    from hwbench.report.html import render_page

    page = folder / "report.html"
    write_bytes(page, render_page([result], traces=find_traces(result, folder)).encode())
    return page


def _show(terminal: Terminal, result: ProfileResult, folder: Path, *, stderr: bool) -> None:
    from hwbench.report.energy_text import render_energy
    from hwbench.report.energy_traces import find_traces
    from hwbench.report.placement import render_unmet
    from hwbench.report.text import render_table

    if stderr and terminal.quiet:
        return
    terminal.show(render_table(result, estimates=False), stderr=stderr)
    energy = render_energy([result], find_traces(result, folder))
    if energy is not None:
        terminal.show(energy, stderr=stderr)
    unmet = [(m.label, item) for m in result.measurements for item in m.unmet]
    if unmet:
        terminal.show(render_unmet(unmet), stderr=stderr)


def exit_code(result: ProfileResult, *, strict: bool) -> int:
    """Return 3 when an engine failed, 1 when something is not as required, 4 when a measurement is invalid, else 0.

    If ``strict``, a suspect one counts as invalid.
    """
    from hwbench.pipeline import ENGINE_FAILED
    from hwbench.records.base import Missing

    layers = [m.layers for m in result.measurements]
    if any(item.failed for item in result.not_measured):
        return EXIT_UNAVAILABLE
    if any(isinstance(item, Missing) and item.code == ENGINE_FAILED for item in layers):
        return EXIT_UNAVAILABLE
    if any(m.unmet for m in result.measurements):
        return EXIT_GOAL_MISSED
    bad = {"invalid", "suspect"} if strict else {"invalid"}
    return EXIT_INVALID if any(m.validity.status in bad for m in result.measurements) else EXIT_OK
