"""``hwbench verify``: how good is the built network on data, and is it as good as the original?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hwbench.cli.terminal import (
    Device,
    Json,
    NoColor,
    Preprocess,
    Quiet,
    RequireDelegate,
    RequireDevice,
    RequirePrecision,
    Terminal,
    Verbose,
    command,
    write_stdout,
)
from hwbench.errors import EXIT_GOAL_MISSED, EXIT_INCONCLUSIVE, EXIT_OK, EXIT_UNAVAILABLE, UsageError

if TYPE_CHECKING:
    from hwbench.records.verification import Verification, VerifyRequest


@command
def verify(
    models: Annotated[
        list[str],
        typer.Argument(help="model.onnx, model.pt2, file.py:callable, a built-in model, or bundles and engine files."),
    ],
    data: Annotated[
        str, typer.Option("--data", help="data.npz, a folder of images, or file.py:function giving (inputs, labels).")
    ],
    preprocess: Preprocess = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="The model to hold all against. Default: the model itself.")
    ] = None,
    device: Device = "cpu",
    engines: Annotated[
        list[str] | None, typer.Option("--engine", "-e", help="Engine to verify; repeat for more. Default: all.")
    ] = None,
    precisions: Annotated[
        list[str] | None, typer.Option("--precision", "-p", help="Precision; repeat for more. Default: the engine's.")
    ] = None,
    task: Annotated[
        Literal["auto", "classification", "regression", "embedding", "tokens", "none"],
        typer.Option("--task", help="What outputs and labels are."),
    ] = "auto",
    metric: Annotated[
        str | None, typer.Option("--metric", help="Your own: file.py:function(outputs, labels), a number a sample.")
    ] = None,
    max_drop: Annotated[
        str | None, typer.Option("--max-drop", help="Certify that the metric falls by no more: 1pp, or a number.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 5 when the data do not settle it.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use so many samples, the first ones.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Compare every layer's output too, on one batch.")] = False,
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-b", min=1, help="Size of the batch axis.")] = None,
    shapes: Annotated[list[str] | None, typer.Option("--shapes", help="Input shapes, name:1x3x224x224.")] = None,
    require_device: RequireDevice = None,
    require_precision: RequirePrecision = None,
    require_delegate: RequireDelegate = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. Default: one a core.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of resampling.")] = 0,
    timeout: Annotated[str, typer.Option(help="Longest silence of a process, compiling included.")] = "15min",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the verification (JSON) here.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Measure the accuracy of every engine's own build on your data, and certify it against the original.

    A bundle or another built engine runs as it is; name its original with --reference to certify it.

    Exit codes: 0 verified, and no certificate failed; 1 a certificate failed, outputs hold NaN, or something is not as
    required; 2 wrong request; 3 the model or an engine that was asked for failed; 5 with --strict: not enough data, or
    nothing to certify.
    """
    from hwbench.cli.request import parse_shapes
    from hwbench.files import encode, write_record
    from hwbench.inventory import default_threads, find_target
    from hwbench.records.placement import Requirements
    from hwbench.records.verification import VerifyRequest
    from hwbench.report.verification import render_verification
    from hwbench.units import parse_seconds
    from hwbench.verification_pipeline import verify as run

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    check_engines(engines or [])
    target = find_target(device)
    request = VerifyRequest(
        model=models[0],
        more=tuple(models[1:]),
        reference=reference,
        data=data,
        device=device,
        task=task,
        metric=metric,
        engines=tuple(dict.fromkeys(engines or ())),
        precisions=tuple(dict.fromkeys(precisions or ())),
        batch_size=batch_size,
        shapes=parse_shapes(shapes or []),
        preprocess=preprocess,
        required=Requirements(device=require_device, precision=require_precision, delegate=require_delegate),
        max_drop=parse_drop(max_drop),
        limit=limit,
        layers=layers,
        threads=threads or default_threads(target),
        seed=seed,
        timeout_s=parse_seconds(timeout),
    )
    _check_request(request)
    _check_output(output)
    found = run(request, target=target, watch=terminal.steps())
    if json:
        write_stdout(encode(found))
    if not (json and quiet):
        terminal.show(render_verification(found), stderr=json)
    if output is not None:  # last: what was found is not lost where it cannot be written
        write_record(output, found)
    raise typer.Exit(exit_code(found, strict=strict))


def exit_code(found: Verification, *, strict: bool) -> int:
    """Return what the command ends with."""
    from hwbench.records.verification import Certificate

    words = {row.certificate.word for row in found.rows if isinstance(row.certificate, Certificate)}
    if "FAILED" in words or not all(row.finite and not row.unmet for row in found.rows):
        return EXIT_GOAL_MISSED
    if any(item.failed for item in found.not_verified):
        return EXIT_UNAVAILABLE
    open_goal = found.request.max_drop is not None and not words
    if strict and ("NOT ENOUGH DATA" in words or open_goal):
        return EXIT_INCONCLUSIVE
    return EXIT_OK


def check_engines(engines: list[str]) -> None:
    """Refuse names that no engine has."""
    from hwbench import plugins

    for engine in engines:
        plugins.find("engines", engine)


def _check_request(request: VerifyRequest) -> None:
    if request.metric is not None and request.task != "auto":
        raise UsageError("--task and --metric both say what is measured", hint="give one of them")


def _check_output(output: Path | None) -> None:
    if output is not None and output.is_dir():
        raise UsageError(f"--output '{output}' is a folder; it must be a file", hint=f"{output / 'verification.json'}")


def parse_drop(text: str | None) -> float | None:
    """Read ``1pp`` (percentage points of a share) or a number in the metric's own unit."""
    from hwbench.units import parse_quantity

    if text is None:
        return None
    try:
        value = parse_quantity(text, "change")
    except UsageError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"--max-drop '{text}' is no drop", hint="write 1pp for a percentage point, or a number")
    return value
