"""``hwbench compress``: use one compression method, or a recipe of several, on a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    from hwbench.records.base import Missing
    from hwbench.records.compression import CompressionResult, Step
    from hwbench.records.verification import VerifyRequest


@command
def compress(
    model: Annotated[
        str, typer.Argument(help="net.onnx, net.pt2, net.py:callable, pkg.module:callable, or a built-in model.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the compressed model and what was done.")],
    method: Annotated[
        str | None, typer.Option("--method", "-m", metavar="<str>", help="`hwbench methods` lists them.")
    ] = None,
    layers: Annotated[
        str, typer.Option("--layers", metavar="<regex>", help="Layers it may touch: matches whole names.")
    ] = ".*",
    amount: Annotated[
        str | None, typer.Option("--amount", metavar="<str>", help="How much is taken away: 0.5 or 50%.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="<name=value>", help="A setting of the method; repeat. `hwbench methods NAME`."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Several methods (TOML), in place of --method.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="To learn from: data.npz, a folder of images, or file.py:function.")
    ] = None,
    preprocess: Preprocess = None,
    samples: Annotated[int, typer.Option("--samples", metavar="<int>", min=1, help="Use so many of --data.")] = 1024,
    repair: Annotated[
        str, typer.Option("--repair", help="After each cut: default, none, or a list of repairs with commas.")
    ] = "default",
    verify_data: Annotated[
        str | None, typer.Option("--verify-data", help="Judge before and after on these, as `hwbench verify` does.")
    ] = None,
    task: Annotated[
        Literal["auto", "classification", "regression", "embedding", "tokens", "none"],
        typer.Option("--task", help="What outputs and labels of --verify-data are."),
    ] = "auto",
    metric: Metric = None,
    max_drop: Annotated[
        str | None, typer.Option("--max-drop", help="Certify that the metric falls by no more: 1pp, or a number.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 5 when --verify-data do not settle it.")] = False,
    emit: Annotated[
        list[str] | None,
        typer.Option("--emit", metavar="<str>", help="onnx, always written; torch: an exported program too."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", metavar="<int>", min=1, help="Of statistics and training.")
    ] = 32,
    shapes: Shapes = None,
    training_device: Annotated[
        Literal["cpu", "cuda"], typer.Option("--training-device", help="Where gradients are computed.")
    ] = "cpu",
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
    """Compress a network by a method, repair it, check it, and show what is left of every layer.

    Exit codes: 0 compressed, and no certificate failed; 1 a certificate failed, or outputs hold NaN; 2 wrong request; 3
    the model, the data or the method failed; 5 with --strict: the data do not settle it.
    """
    from hwbench.cli.request import parse_shapes
    from hwbench.compress.order import with_repairs
    from hwbench.compression_pipeline import PAGE
    from hwbench.compression_pipeline import compress as run
    from hwbench.files import encode, write_bytes
    from hwbench.inventory import default_threads, find_target
    from hwbench.records.compression import CompressRequest
    from hwbench.report.compression import render_compression, render_compression_page
    from hwbench.units import parse_seconds

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    steps = _steps(method, layers, amount, settings or [], recipe)
    if data is not None:
        steps = with_repairs(steps, repair)
    elif repair not in {"default", "none"}:
        raise UsageError("--repair learns from samples, and there are none", hint="give --data")
    target = find_target(device)
    count = threads or default_threads(target)
    fixed = parse_shapes(shapes or [])
    request = CompressRequest(
        model=model,
        steps=steps,
        data=data,
        preprocess=preprocess,
        samples=samples,
        batch_size=batch_size,
        shapes=fixed,
        verify=_judging(verify_data, preprocess, task, metric, max_drop, strict, device, count, seed, timeout),
        emit=_emitted(emit or []),
        training_device=training_device,
        replace=force,
        resume=resume,
        device=device,
        threads=count,
        seed=seed,
        timeout_s=parse_seconds(timeout),
    )
    found = run(request, output, target=target, watch=terminal.steps())
    write_bytes(output / PAGE, render_compression_page(found).encode())
    if json:
        write_stdout(encode(found))
    if not (json and quiet):
        terminal.show(render_compression(found, output), stderr=json)
    raise typer.Exit(exit_code(found, strict=strict))


def exit_code(found: CompressionResult, *, strict: bool) -> int:
    """Return what the command ends with."""
    from hwbench.records.base import Missing
    from hwbench.records.verification import Certificate

    if isinstance(found.verification, Missing):
        return EXIT_OK
    rows = found.verification.found.rows[1:]
    words = {row.certificate.word for row in rows if isinstance(row.certificate, Certificate)}
    if "FAILED" in words or not all(row.finite for row in rows):
        return EXIT_GOAL_MISSED
    return EXIT_INCONCLUSIVE if strict and words != {"CERTIFIED"} else EXIT_OK


def _steps(
    method: str | None, layers: str, amount: str | None, given: list[str], recipe: Path | None
) -> tuple[Step, ...]:
    from hwbench.compress.recipe import read_recipe
    from hwbench.records.compression import Step

    if (method is None) == (recipe is None):
        raise UsageError(
            "--method and --recipe both say what is done" if method else "nothing says what is to be done",
            hint="give --method prune, say (`hwbench methods` lists them), or --recipe recipe.toml",
        )
    if recipe is not None:
        if layers != ".*" or amount is not None or given:
            raise UsageError("--layers, --amount and --set belong to --method", hint="write them into the recipe")
        return read_recipe(recipe)
    assert method is not None
    return (Step(method=method, layers=layers, settings=_settings(amount, given)),)


def _settings(amount: str | None, given: list[str]) -> dict[str, Any]:
    from hwbench.compress.recipe import parse_settings

    found = parse_settings(given)
    if amount is not None:
        if "amount" in found:
            raise UsageError("--amount and --set amount= say the same", hint="give one of them")
        found["amount"] = _share(amount)
    return found


def _share(text: str) -> float:
    percent = text.strip().removesuffix("%")
    try:
        return float(percent) / (100 if percent != text.strip() else 1)
    except ValueError:
        raise UsageError(f"--amount '{text}' is no amount", hint="write 0.5 or 50%") from None


def _emitted(given: list[str]) -> tuple[Literal["onnx", "torch"], ...]:
    unknown = [name for name in given if name not in {"onnx", "torch"}]
    if unknown:
        raise UsageError(f"--emit '{unknown[0]}' is unknown", hint="known: onnx, torch")
    return ("onnx", "torch") if "torch" in given else ("onnx",)


def _judging(
    data: str | None,
    preprocess: str | None,
    task: Literal["auto", "classification", "regression", "embedding", "tokens", "none"],
    metric: str | None,
    max_drop: str | None,
    strict: bool,
    device: str,
    threads: int,
    seed: int,
    timeout: str,
) -> VerifyRequest | Missing:
    from hwbench.cli.verify import parse_drop
    from hwbench.records.base import Missing
    from hwbench.records.verification import VerifyRequest
    from hwbench.units import parse_seconds

    if strict and max_drop is None:
        raise UsageError("--strict is about what is certified, and nothing is to be", hint="give --max-drop")
    if metric is not None and task != "auto":
        raise UsageError("--task and --metric both say what is measured", hint="give one of them")
    if data is None:
        if max_drop is not None or metric is not None or task != "auto":
            raise UsageError("--max-drop, --metric and --task are about --verify-data", hint="give --verify-data")
        return Missing(code="not_asked", why="nobody asked for it", cure="--verify-data")
    return VerifyRequest(
        model="",
        data=data,
        device=device,
        task=task,
        metric=metric,
        engines=("onnxruntime",),
        precisions=(),
        batch_size=None,
        shapes={},
        preprocess=preprocess,
        max_drop=parse_drop(max_drop),
        limit=None,
        layers=False,
        threads=threads,
        seed=seed,
        timeout_s=parse_seconds(timeout),
    )
