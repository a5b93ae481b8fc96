"""``hwbench search``: choose what is not chosen layer by layer, by trying points of a space on the device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hwbench.cli.terminal import (
    Device,
    Json,
    Metric,
    NoColor,
    Preprocess,
    Quiet,
    Seed,
    Shapes,
    Terminal,
    Verbose,
    command,
    write_stdout,
)
from hwbench.errors import EXIT_GOAL_MISSED, EXIT_OK, UsageError

if TYPE_CHECKING:
    from hwbench.inventory import Target
    from hwbench.records.base import Missing
    from hwbench.records.measurement import ProfileRequest
    from hwbench.records.search import SearchResult
    from hwbench.records.verification import VerifyRequest


@command
def search(
    model: Annotated[
        str, typer.Argument(help="net.onnx, net.pt2, net.py:callable, pkg.module:callable, or a built-in model.")
    ],
    space: Annotated[Path, typer.Option("--space", help="What is searched (TOML).")],
    objective: Annotated[
        list[str],
        typer.Option(
            "--objective",
            metavar="<str>",
            help="latency, latency-per-sample, energy, memory, size, accuracy; repeat.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the trials and what was found.")],
    sampler: Annotated[
        Literal["grid", "random", "tpe", "gp", "nsga2", "nsga3"],
        typer.Option("--sampler", help="Who proposes points; grid tries all of a finite space."),
    ] = "tpe",
    trials: Annotated[int | None, typer.Option("--trials", metavar="<int>", min=1, help="Try so many points.")] = None,
    time_budget: Annotated[
        str | None, typer.Option("--time-budget", help="Begin no trial after this long: 2h, 30min.")
    ] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option("--constraint", metavar="<str>", help='"accuracy drop <= 1pp", "latency <= 5ms"...; repeat.'),
    ] = None,
    pruner: Annotated[
        Literal["none", "median", "halving"],
        typer.Option("--pruner", help="Who gives trainings up whose epochs go worse than others'."),
    ] = "median",
    rank: Annotated[
        int, typer.Option("--rank", metavar="<int>", min=0, help="Score so many untrained architectures first.")
    ] = 0,
    keep: Annotated[int, typer.Option("--keep", metavar="<int>", min=1, help="Search so many of those.")] = 8,
    data: Annotated[
        str | None,
        typer.Option("--data", help="To train and calibrate: data.npz, a folder of images, or file.py:function."),
    ] = None,
    preprocess: Preprocess = None,
    samples: Annotated[
        int, typer.Option("--samples", metavar="<int>", min=1, help="Train with so many of --data.")
    ] = 100_000,
    verify_data: Annotated[
        str | None, typer.Option("--verify-data", help="Judge every point on these; accuracy needs labels.")
    ] = None,
    task: Annotated[
        Literal["auto", "classification", "regression", "embedding", "tokens", "none"],
        typer.Option("--task", help="What outputs and labels of --verify-data are."),
    ] = "auto",
    metric: Metric = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="The model an accuracy drop is counted from. Default: MODEL.")
    ] = None,
    duration: Annotated[str, typer.Option(help="Shortest timed run of each point.")] = "1s",
    control_every: Annotated[
        int, typer.Option("--control-every", metavar="<int>", min=0, help="Time the first point again so often; 0: no.")
    ] = 5,
    finals: Annotated[
        str, typer.Option("--finals", help="Time for timing the best again beside each other; 0: do not.")
    ] = "30s",
    shapes: Shapes = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what an earlier run has begun in -o.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in -o.")] = False,
    device: Device = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(metavar="<int>", min=1, help="Threads, where the space has none to choose. Default: one a core."),
    ] = None,
    seed: Seed = 0,
    timeout: Annotated[str, typer.Option(help="Longest silence of a process.")] = "30min",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Search runtime, calibration, compression, architecture and training for the best points on this device.

    Exit codes: 0 found; 1 no point meets the constraints, and the one that comes nearest is shown; 2 wrong request; 3
    the model, the data or the device failed; 130 stopped, with what was finished kept for --resume.
    """
    from hwbench.cli.request import parse_shapes
    from hwbench.files import encode, write_bytes
    from hwbench.inventory import default_threads, find_target
    from hwbench.records.search import SearchRequest
    from hwbench.report.search import headline, render_search
    from hwbench.report.search_page import render_search_page
    from hwbench.resources import require_extra
    from hwbench.search.goals import constraint as read_constraint
    from hwbench.search.goals import objectives
    from hwbench.search.space import read_space
    from hwbench.search_pipeline import PAGE
    from hwbench.search_pipeline import search as run
    from hwbench.units import parse_seconds

    require_extra("plan", "a search")
    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    if resume and force:
        raise UsageError("--resume goes on with what --force would replace", hint="give one of them")
    target = find_target(device)
    count = threads or default_threads(target)
    fixed = parse_shapes(shapes or [])
    request = SearchRequest(
        model=model,
        space=read_space(space, threads=count),
        sampler=sampler,
        pruner=pruner,
        trials=trials,
        time_budget_s=None if time_budget is None else parse_seconds(time_budget),
        objectives=objectives(objective),
        constraints=tuple(read_constraint(text) for text in constraint or ()),
        data=data,
        preprocess=preprocess,
        samples=samples,
        verify=_judging(verify_data, preprocess, task, metric, device, count, seed, timeout),
        reference=reference,
        timing=_timing(target, device, count, duration, timeout, seed),
        shapes=fixed,
        control_every=control_every,
        finals_s=parse_seconds(finals),
        rank=rank,
        keep=keep,
        device=device,
        threads=count,
        seed=seed,
        timeout_s=parse_seconds(timeout),
    )
    found = run(
        request,
        output,
        target=target,
        resume=resume,
        replace=force,
        watch=terminal.steps(),
        after=lambda so_far: terminal.say(headline(so_far)),
    )
    write_bytes(output / PAGE, render_search_page(found).encode())
    if json:
        write_stdout(encode(found))
    if not (json and quiet):
        terminal.show(render_search(found, output), stderr=json)
    raise typer.Exit(exit_code(found))


def exit_code(found: SearchResult) -> int:
    """Return what the command ends with."""
    return EXIT_OK if found.feasible else EXIT_GOAL_MISSED


def _timing(target: Target, device: str, threads: int, duration: str, timeout: str, seed: int) -> ProfileRequest:
    """Return the request by which every point is timed: that of ``hwbench profile``, shorter and without layers."""
    from hwbench.cli.modes import ModeOptions, StopOptions
    from hwbench.cli.request import Options, resolve

    options = Options(
        model="",
        device=device,
        engines=(),
        precisions=(),
        mode="latency",
        batch_size=None,
        shapes=(),
        input_data=None,
        threads=threads,
        streams=None,
        warmup=duration,
        stop=StopOptions(duration=duration, max_duration=duration),
        modes=ModeOptions(),
        layers=False,
        meter="auto",
        seed=seed,
        timeout=timeout,
    )
    return resolve(options, target)


def _judging(
    data: str | None,
    preprocess: str | None,
    task: Literal["auto", "classification", "regression", "embedding", "tokens", "none"],
    metric: str | None,
    device: str,
    threads: int,
    seed: int,
    timeout: str,
) -> VerifyRequest | Missing:
    from hwbench.records.base import Missing
    from hwbench.records.verification import VerifyRequest
    from hwbench.units import parse_seconds

    if metric is not None and task != "auto":
        raise UsageError("--task and --metric both say what is measured", hint="give one of them")
    if data is None:
        if metric is not None or task != "auto":
            raise UsageError("--metric and --task are about --verify-data", hint="give --verify-data")
        return Missing(code="not_asked", why="nobody asked for it", cure="--verify-data")
    return VerifyRequest(
        model="",
        data=data,
        device=device,
        task=task,
        metric=metric,
        engines=(),
        precisions=(),
        batch_size=None,
        shapes={},
        preprocess=preprocess,
        max_drop=None,
        limit=None,
        layers=False,
        threads=threads,
        seed=seed,
        timeout_s=parse_seconds(timeout),
    )
