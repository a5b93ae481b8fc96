"""``hwbench profile``: measure a model on a device, with every runtime this machine has."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwbench.cli.terminal import Device, Json, NoColor, Quiet, Terminal, Verbose, command, write_stdout
from hwbench.errors import EXIT_INVALID, EXIT_OK, EXIT_UNAVAILABLE, UsageError
from hwbench.units import parse_seconds

if TYPE_CHECKING:
    from hwbench.inventory import Target
    from hwbench.records.measurement import ProfileRequest, ProfileResult, StopRule

_SHAPE = re.compile(r"(?P<name>[^:,]+):(?P<sizes>\d+(?:x\d+)*)")


@command
def profile(
    model: Annotated[
        str, typer.Argument(help="net.onnx, net.pt2, net.py:callable, pkg.module:callable, or a built-in model.")
    ],
    device: Device = "cpu",
    engine: Annotated[
        list[str] | None, typer.Option("--engine", "-e", help="Only this engine; repeat for more. Default: all.")
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option("--precision", "-p", help="Only this precision (fp32, bf16, auto); repeat for more."),
    ] = None,
    mode: Annotated[str, typer.Option(help="latency: one request at a time; throughput: many in flight.")] = "latency",
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-b", min=1, help="Size of the batch axis.")] = None,
    shapes: Annotated[
        list[str] | None, typer.Option("--shapes", help="Input shapes, name:1x3x224x224; comma-separated or repeated.")
    ] = None,
    input_data: Annotated[
        Path | None, typer.Option("--input-data", help="Inputs from an .npz with arrays named like the inputs.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads in all. Default: one a physical core.")] = None,
    streams: Annotated[
        int | None, typer.Option(min=1, help="Requests in flight (throughput mode). Default: one a thread.")
    ] = None,
    warmup: Annotated[str, typer.Option(help="Shortest warm-up (at least 10 inferences).")] = "1s",
    duration: Annotated[str, typer.Option(help="Shortest timed run.")] = "3s",
    max_duration: Annotated[str, typer.Option(help="Longest timed run, when the median does not settle.")] = "20s",
    settle: Annotated[float, typer.Option(help="Share of the median to which its 95 % interval must settle.")] = 0.01,
    iterations: Annotated[int | None, typer.Option(min=1, help="Time exactly this many inferences instead.")] = None,
    layers: Annotated[
        bool, typer.Option("--layers/--no-layers", help="Per-layer times, in a run of their own.")
    ] = True,
    meter: Annotated[str, typer.Option(help="Energy meter: auto, none, or a name.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of random inputs.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the results. Default: a new one in hwbench-results/."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what an interrupted run left in --output.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the results that are in --output.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 4 when a measurement is only suspect.")] = False,
    timeout: Annotated[str, typer.Option(help="Longest silence of an engine, compiling included.")] = "15min",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the resolved request; measure nothing.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Measure latency, memory, energy and per-layer times of MODEL, on every engine this machine has.

    Exit codes: 0 measured; 2 wrong request; 3 model, device or an engine failed; 4 a measurement is invalid; 130
    interrupted, with what was finished kept.
    """
    from hwbench import pipeline
    from hwbench.cli.progress import ProgressWatcher
    from hwbench.files import RESULT, encode
    from hwbench.graph.spec import parse_spec
    from hwbench.inventory import find_target

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    spec = parse_spec(model)
    target = find_target(device)
    request = _request(
        target,
        {
            "model": model,
            "device": device,
            "engines": tuple(engine or ()),
            "precisions": tuple(precision or ()),
            "mode": mode,
            "batch_size": batch_size,
            "shapes": parse_shapes(shapes or []),
            "input_data": str(input_data) if input_data is not None else None,
            "layers": layers and mode == "latency",
            "meter": meter,
            "seed": seed,
            "timeout_s": parse_seconds(timeout),
        },
        threads=threads,
        streams=streams,
        warmup_s=parse_seconds(warmup),
        stop=_stop_rule(mode, parse_seconds(duration), parse_seconds(max_duration), settle, iterations),
    )
    if dry_run:
        write_stdout(encode(request))
        return
    folder = _output_folder(output, spec.name, device, resume=resume, force=force)
    with ProgressWatcher(terminal) as watcher:
        result = pipeline.profile(request, folder, target=target, resume=resume, watcher=watcher)
    page = _write_page(result, folder)
    if json:
        write_stdout(encode(result))
    _show(terminal, result, stderr=json)
    terminal.say(f"\nresult: {folder / RESULT}\nreport: {page}")
    raise typer.Exit(exit_code(result, strict=strict))


def parse_shapes(texts: list[str]) -> dict[str, tuple[int, ...]]:
    """Read ``name:1x3x224x224`` items, comma-separated or one each.

    Raises:
        UsageError: an item is not of that form, or names an input twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for item in (part.strip() for text in texts for part in text.split(",") if part.strip()):
        match = _SHAPE.fullmatch(item)
        if match is None:
            raise UsageError(f"--shapes '{item}' is not name:1x3x224x224")
        if match["name"] in shapes:
            raise UsageError(f"--shapes names '{match['name']}' twice")
        sizes = tuple(int(size) for size in match["sizes"].split("x"))
        if any(not 0 < size < 2**31 for size in sizes):
            raise UsageError(f"--shapes '{item}': every size must be between 1 and 2**31 - 1")
        shapes[match["name"]] = sizes
    return shapes


def _stop_rule(mode: str, duration_s: float, max_duration_s: float, settle: float, iterations: int | None) -> StopRule:
    from hwbench.records.measurement import StopRule

    if iterations is not None:
        return StopRule(name="count", settings={"count": iterations})
    if mode == "throughput":
        return StopRule(name="duration", settings={"seconds": duration_s, "min_count": 20})
    if not 0 < settle < 1:
        raise UsageError(f"--settle {settle:g} is not a share between 0 and 1")
    return StopRule(
        name="stable-median",
        settings={
            "min_seconds": duration_s,
            "min_count": 20,
            "max_seconds": max(duration_s, max_duration_s),
            "relative": settle,
        },
    )


def _request(
    target: Target,
    given: dict[str, Any],
    *,
    threads: int | None,
    streams: int | None,
    warmup_s: float,
    stop: StopRule,
) -> ProfileRequest:
    """Resolve what the user left open."""
    from hwbench import plugins
    from hwbench.inventory import default_threads
    from hwbench.records.measurement import ProfileRequest, StopRule

    if given["mode"] not in {"latency", "throughput"}:
        raise UsageError(f"--mode '{given['mode']}' is neither latency nor throughput")
    if given["meter"] not in {"auto", "none"}:
        plugins.find("meters", given["meter"])
    for engine in given["engines"]:
        plugins.find("engines", engine)
    if streams is not None and given["mode"] == "latency":
        raise UsageError(
            "--streams is for throughput mode", hint="add --mode throughput; latency runs one request at a time"
        )
    threads = threads or default_threads(target)
    return ProfileRequest(
        **given,
        threads=threads,
        streams=(streams or threads) if given["mode"] == "throughput" else 1,
        warmup=StopRule(name="duration", settings={"seconds": warmup_s, "min_count": 10}),
        stop=stop,
    )


def _output_folder(output: Path | None, model: str, device: str, *, resume: bool, force: bool) -> Path:
    from hwbench.files import RESULT

    if output is None:
        if resume:
            raise UsageError("--resume needs --output: the folder to go on in")
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        safe = re.sub(r"[^\w.-]+", "_", f"{model}-{device}")
        return Path("hwbench-results") / f"{safe}-{stamp}"
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output '{output}' is a file; it must be a folder")
    if (output / RESULT).exists() and not (resume or force):
        raise UsageError(f"'{output}' already holds a result", hint="--resume goes on with it, --force replaces it")
    return output


def _write_page(result: ProfileResult, folder: Path) -> Path:
    from hwbench.files import write_bytes
    from hwbench.report.html import render_page

    page = folder / "report.html"
    write_bytes(page, render_page([result]).encode())
    return page


def _show(terminal: Terminal, result: ProfileResult, *, stderr: bool) -> None:
    from hwbench.report.text import render_table

    if not (stderr and terminal.quiet):
        terminal.show(render_table(result), stderr=stderr)


def exit_code(result: ProfileResult, *, strict: bool) -> int:
    """Return 3 when an engine failed, 4 when a measurement is invalid (or, if strict, suspect), else 0."""
    if any(item.failed for item in result.not_measured):
        return EXIT_UNAVAILABLE
    bad = {"invalid", "suspect"} if strict else {"invalid"}
    return EXIT_INVALID if any(m.validity.status in bad for m in result.measurements) else EXIT_OK
