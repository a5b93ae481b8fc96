"""``hwbench optimize``: the best bundle that meets the goal here, certified, and never worse than a uniform one."""

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
    Threads,
    Verbose,
    command,
    write_stdout,
)
from hwbench.errors import EXIT_GOAL_MISSED, EXIT_INCONCLUSIVE, EXIT_OK, UsageError

if TYPE_CHECKING:
    from hwbench.records.compression import Step
    from hwbench.records.optimization import OptimizationResult

_MOST_MEMORY_BYTES = 6 << 30
_MEMORY_SHARE = 0.6  # of what is free
_RECOVERY = {"optimizer": "adamw", "learning_rate": 1e-3, "warmup": 0.1}  # where --recover-set says nothing else


@command
def optimize(
    model: Annotated[
        str, typer.Argument(help="net.onnx, net.pt2, net.py:callable, pkg.module:callable, or a built-in model.")
    ],
    data: Annotated[
        str, typer.Option("--data", help="To learn from: data.npz, a folder of images, or file.py:function.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the bundle and how it is known.")],
    max_drop: Annotated[
        str | None,
        typer.Option(
            "--max-drop",
            help="What the metric may fall by: 1pp, or a number in its own unit. Default: the goals', or 1pp.",
        ),
    ] = None,
    goals: Annotated[
        list[str] | None,
        typer.Option(
            "--goal", metavar="<str>", help='Repeat: "latency<5ms", "energy percent-min-improvement 30 priority 2".'
        ),
    ] = None,
    verify_data: Annotated[
        str | None,
        typer.Option("--verify-data", help="To select and to certify with. Default: parts of --data."),
    ] = None,
    preprocess: Preprocess = None,
    samples: Annotated[
        int | None, typer.Option("--samples", metavar="<int>", min=3, help="Use at most so many of each. Default: all.")
    ] = None,
    objective: Annotated[
        Literal["latency", "energy", "memory", "accuracy"],
        typer.Option("--objective", help="What is to be small; accuracy: large, within the goals."),
    ] = "latency",
    task: Annotated[
        Literal["auto", "classification", "regression", "embedding", "tokens", "none"],
        typer.Option("--task", help="What outputs and labels are."),
    ] = "auto",
    metric: Metric = None,
    engines: Annotated[
        list[str] | None,
        typer.Option("--engine", "-e", metavar="<str>", help="Build for this engine; repeat. Default: all that can."),
    ] = None,
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision", "-p", metavar="<str>", help="Of the uniform baselines; repeat. Default: all of each engine."
        ),
    ] = None,
    recover: Annotated[
        int, typer.Option("--recover", metavar="<epochs>", min=0, help="Train so long after each cut. 0: never.")
    ] = 0,
    recover_data: Annotated[
        str | None,
        typer.Option("--recover-data", metavar="<str>", help="Train on these. Default: what is learnt from of --data."),
    ] = None,
    recover_settings: Annotated[
        list[str] | None,
        typer.Option(
            "--recover-set",
            metavar="<name=value>",
            help="A setting of the training; repeat. `hwbench methods finetune`.",
        ),
    ] = None,
    time_budget: Annotated[str, typer.Option("--time-budget", help="About how long all of it may take.")] = "15min",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", metavar="<int>", min=1, help="Size of the batch axis.")
    ] = None,
    training_batch_size: Annotated[
        int, typer.Option("--training-batch", metavar="<int>", min=1, help="Of statistics and training.")
    ] = 32,
    shapes: Shapes = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 5 when the data do not settle it.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what an earlier run has begun in -o.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in -o.")] = False,
    device: Device = "cpu",
    threads: Threads = None,
    seed: Seed = 0,
    timeout: Annotated[str, typer.Option(help="Longest silence of a process.")] = "30min",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Find the fastest bundle that keeps its accuracy: planned where that pays, the best uniform one where not.

    Every engine's uniform precisions are measured in the same interleaved run as what was planned; what is taken is
    never slower than the best of them that meets the goal, and is certified on samples that have chosen nothing.

    Exit codes: 0 the goals are met; 1 one is missed, and the nearest bundle was saved; 2 wrong request; 3 the model,
    the data or every engine failed, or energy is asked for and there is no meter; 5 with --strict: the data do not
    settle it; 130 Ctrl-C, with --resume to go on.
    """
    from hwbench.cli.request import parse_shapes
    from hwbench.cli.verify import check_engines, parse_drop
    from hwbench.energy.choose import require
    from hwbench.files import encode, write_bytes
    from hwbench.inventory import default_threads, find_target
    from hwbench.optimization_pipeline import PAGE
    from hwbench.optimization_pipeline import optimize as run
    from hwbench.optimization_pipeline.planned import FromCosts
    from hwbench.optimization_pipeline.saving import predictions
    from hwbench.plan.goals import ANYTHING, OTHERWISE, check_bounded, parse_goal, stated_drop
    from hwbench.records.optimization import OptimizeRequest
    from hwbench.records.quantization import CalibrationSettings
    from hwbench.report.optimization import render_optimization, render_optimization_page
    from hwbench.resources import require_extra
    from hwbench.store.costs import check_store
    from hwbench.units import parse_seconds

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    require_extra("plan", "optimizing")
    check_engines(engines or [])
    _check_precisions(precisions or [])
    if metric is not None and task != "auto":
        raise UsageError("--task and --metric both say what is measured", hint="give one of them")
    if resume and force:
        raise UsageError("--resume goes on and --force begins anew", hint="give one of them")
    wanted = tuple(parse_goal(text) for text in goals or ())
    target = find_target(device, instead=f"hwbench plan --device {device} plans for it from its profile")
    check_bounded(objective, wanted)
    otherwise = ANYTHING if objective == "accuracy" else OTHERWISE
    request = OptimizeRequest(
        model=model,
        device=device,
        data=data,
        verify_data=verify_data,
        preprocess=preprocess,
        samples=samples,
        task=task,
        metric=metric,
        max_drop=stated_drop(wanted, parse_drop(max_drop), otherwise),
        goals=wanted,
        objective=objective,
        engines=tuple(dict.fromkeys(engines or ())),
        precisions=tuple(dict.fromkeys(precisions or ())),
        recover=_recovery(recover, recover_data, recover_settings or []),
        recover_data=recover_data,
        calibration=CalibrationSettings(seed=seed),
        time_budget_s=parse_seconds(time_budget),
        batch_size=batch_size,
        training_batch_size=training_batch_size,
        shapes=parse_shapes(shapes or []),
        memory_limit_bytes=_memory_limit(),
        threads=threads or default_threads(target),
        seed=seed,
        resume=resume,
        replace=force,
        timeout_s=parse_seconds(timeout),
    )
    if request.needs_energy:
        require("auto", target.device, "without a meter --objective latency, and goals of latency")
    check_store()
    found = run(request, output, target=target, watch=terminal.steps(), planner=FromCosts)
    write_bytes(output / PAGE, render_optimization_page(found, predictions(found)).encode())
    if json:
        write_stdout(encode(found))
    if not (json and quiet):
        terminal.show(render_optimization(found, output), stderr=json)
    raise typer.Exit(exit_code(found, strict=strict))


def _recovery(epochs: int, data: str | None, settings: list[str]) -> Step | None:
    """Return the training after each cut."""
    from hwbench.compress.order import planned
    from hwbench.compress.recipe import parse_settings
    from hwbench.records.compression import Step

    if not epochs:
        if data is not None or settings:
            given = "--recover-data" if data is not None else "--recover-set"
            raise UsageError(f"{given} is of a training, and there is none", hint="--recover 3")
        return None
    asked = parse_settings(settings, "--recover-set", "learning_rate=0.01")
    if "epochs" in asked:
        raise UsageError("--recover and --recover-set epochs= say the same", hint="give one of them")
    step = Step(method="finetune", settings={**_RECOVERY, **asked, "epochs": epochs})
    planned((step,))
    return step


def exit_code(found: OptimizationResult, *, strict: bool) -> int:
    """Return what the command ends with."""
    if found.word == "MISSED":
        return EXIT_GOAL_MISSED
    return EXIT_INCONCLUSIVE if strict and found.word == "UNSETTLED" else EXIT_OK


def _check_precisions(precisions: list[str]) -> None:
    from hwbench.records.quantization import PRECISIONS

    unknown = [name for name in precisions if name not in PRECISIONS]
    if unknown:
        raise UsageError(f"no precision is called '{unknown[0]}'", hint=f"known: {', '.join(PRECISIONS)}")


def _memory_limit() -> int:
    """Return what the processes of a contest may hold together."""
    import psutil

    return min(_MOST_MEMORY_BYTES, int(_MEMORY_SHARE * psutil.virtual_memory().available))
