"""``hwbench plan``: choose precision, width, depth and rank of every layer from costs measured on this device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hwbench.cli.terminal import (
    Json,
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
    from hwbench.records.planning import SiteKind
    from hwbench.records.quantization import Floating


@command
def plan(
    model: Annotated[
        str, typer.Argument(help="net.onnx, net.pt2, net.py:callable, pkg.module:callable, or a built-in model.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for plan.json and what it was made from.")],
    data: Annotated[
        str,
        typer.Option("--data", help="Samples like those of use: data.npz, a folder of images, or file.py:function."),
    ],
    max_drop: Annotated[
        str | None,
        typer.Option(
            "--max-drop",
            help="What may be lost of right (unlabelled: of same) decisions: 1pp, a share. Default: the goals' or 1pp.",
        ),
    ] = None,
    objective: Annotated[
        Literal["latency", "energy", "memory", "accuracy"],
        typer.Option("--objective", help="What is made small within that; accuracy: large, within the goals."),
    ] = "latency",
    goals: Annotated[
        list[str] | None,
        typer.Option("--goal", metavar="<str>", help='Repeat: "latency<5ms", "energy<20mJ priority 2"; docs/plan.md.'),
    ] = None,
    engines: Annotated[
        list[str] | None, typer.Option("--engine", "-e", help="Runtime to plan for; repeat. Default: all that build.")
    ] = None,
    choose: Annotated[
        list[str] | None,
        typer.Option("--choose", metavar="<str>", help="What may be chosen: precision, width, depth, rank; repeat."),
    ] = None,
    floating: Annotated[
        list[str] | None,
        typer.Option("--floating", metavar="<str>", help="Arithmetic of float layers: auto, fp32, fp16, bf16; repeat."),
    ] = None,
    criterion: Annotated[
        str, typer.Option("--criterion", metavar="<str>", help="By which channels go; docs/compress/scores.md.")
    ] = "l2",
    preprocess: Preprocess = None,
    samples: Annotated[int, typer.Option("--samples", metavar="<int>", min=2, help="Use so many of --data.")] = 512,
    cost_budget: Annotated[
        str, typer.Option("--cost-budget", help="Time for measuring costs, all runtimes together.")
    ] = "5min",
    loss_budget: Annotated[str, typer.Option("--loss-budget", help="Time for measuring losses.")] = "4min",
    budgets: Annotated[int, typer.Option("--budgets", metavar="<int>", min=2, help="Designs on the front.")] = 12,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", metavar="<int>", min=1, help="Batch of the deployed network.")
    ] = None,
    shapes: Shapes = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the plan in -o.")] = False,
    device: Annotated[
        str, typer.Option("--device", "-d", help="The device, or a profile of one that is not attached.")
    ] = "cpu",
    probe: Annotated[
        Path | None,
        typer.Option("--probe", help="probe.json of a device that is not attached; docs/plan/unattached.md."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(metavar="<int>", min=1, help="Threads. Default: one a core; not attached: the probe's."),
    ] = None,
    seed: Seed = 0,
    timeout: Annotated[str, typer.Option(help="Longest silence of a process.")] = "10min",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Plan a network for a device: measure what its parts cost there and lose here, solve, and say why.

    Of a device that is not attached, what parts cost is predicted from its profile and --probe: an order, no times.

    Nothing is built from the plan; `hwbench optimize` does that, measures, and certifies. Costs are kept as they
    come, so that a run which was stopped goes on from them.

    Exit codes: 0 a plan within --max-drop that is predicted to meet all goals; 1 none, and the nearest is shown with
    what would have to be relaxed; 2 wrong request; 3 the model, the data or every runtime failed, or energy is asked
    for and there is no meter.
    """
    from hwbench.cli.request import parse_shapes
    from hwbench.cli.verify import check_engines, parse_drop
    from hwbench.files import encode
    from hwbench.inventory import find_or_describe
    from hwbench.plan.goals import ANYTHING, OTHERWISE, check_bounded, parse_goal, stated_drop
    from hwbench.planning_pipeline import plan as run
    from hwbench.records.plan import PlanRequest
    from hwbench.records.quantization import CalibrationSettings
    from hwbench.report.plan import render_plan
    from hwbench.units import parse_seconds

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    check_engines(engines or [])
    target = find_or_describe(device)
    wanted = tuple(parse_goal(text) for text in goals or ())
    check_bounded(objective, wanted)
    otherwise = ANYTHING if objective == "accuracy" else OTHERWISE
    request = PlanRequest(
        model=model,
        device=device,
        engines=tuple(engines or ()),
        kinds=_kinds(choose or []),
        floating=_floating(floating or []),
        objective=objective,
        max_drop=min(1.0, stated_drop(wanted, parse_drop(max_drop), otherwise)),  # of a share
        goals=wanted,
        data=data,
        preprocess=preprocess,
        samples=samples,
        criterion=criterion,
        calibration=CalibrationSettings(seed=seed),
        batch_size=batch_size,
        shapes=parse_shapes(shapes or []),
        threads=threads or _threads(target, probe, terminal),
        costs_s=parse_seconds(cost_budget),
        losses_s=parse_seconds(loss_budget),
        budgets=budgets,
        seed=seed,
        timeout_s=parse_seconds(timeout),
        replace=force,
        probe=None if probe is None else str(probe),
    )
    found = run(request, output, target=target, watch=terminal.steps())
    if json:
        write_stdout(encode(found))
    if not (json and quiet):
        terminal.show(render_plan(found), stderr=json)
    raise typer.Exit(EXIT_OK if any(engine.met for engine in found.engines) else EXIT_GOAL_MISSED)


def _threads(target: Target, probe: Path | None, terminal: Terminal) -> int:
    """Return those of a probe, and tell what speaks against it; one a core of a device that is here, else one."""
    from hwbench.inventory import Away, default_threads
    from hwbench.prediction.probe.read import doubts, read_probe

    if not isinstance(target, Away):
        return default_threads(target)
    if probe is None:
        return 1
    measured = read_probe(probe)
    for doubt in doubts(measured):
        terminal.say(f"warning: {doubt}")
    return measured.threads


def _kinds(given: list[str]) -> tuple[SiteKind, ...]:
    from hwbench.plan.sites import KINDS

    unknown = [name for name in given if name not in KINDS]
    if unknown:
        raise UsageError(f"--choose '{unknown[0]}' is unknown", hint=f"known: {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in given or not given)


def _floating(given: list[str]) -> tuple[Floating, ...]:
    from typing import cast, get_args

    from hwbench.records.quantization import Floating

    known = get_args(Floating)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UsageError(f"--floating '{unknown[0]}' is unknown", hint=f"known: {', '.join(known)}")
    return cast("tuple[Floating, ...]", tuple(given)) or ("auto",)
