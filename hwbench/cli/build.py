"""``hwbench build``: from a network to engines that can be deployed, each verified and timed."""

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
    RequireDelegate,
    RequireDevice,
    RequirePrecision,
    Seed,
    Shapes,
    Terminal,
    Threads,
    Verbose,
    command,
    write_stdout,
)
from hwbench.errors import EXIT_GOAL_MISSED, EXIT_INCONCLUSIVE, EXIT_OK, EXIT_UNAVAILABLE, UsageError

if TYPE_CHECKING:
    from hwbench.inventory import Target
    from hwbench.records.base import Missing
    from hwbench.records.build import BuildResult
    from hwbench.records.measurement import ProfileRequest
    from hwbench.records.quantization import CalibrationSettings, PrecisionPlan


@command
def build(
    model: Annotated[
        str, typer.Argument(help="net.onnx, net.pt2, net.py:callable, pkg.module:callable, or a built-in model.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the bundles and what is known of them.")],
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            "-p",
            metavar="<str>",
            help="fp32, tf32, fp16, bf16, auto, int8, int8-dynamic, int8-weights, int4-weights, fp8; repeat.",
        ),
    ] = None,
    plan: Annotated[Path | None, typer.Option("--plan", help="A plan by layers (TOML), in place of -p.")] = None,
    keep_float: Annotated[
        list[str] | None,
        typer.Option("--keep-float", metavar="<str>", help="Layers that are not quantised; * and ? work; repeat."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="To calibrate: data.npz, a folder of images, or file.py:function.")
    ] = None,
    preprocess: Preprocess = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples",
            metavar="<int>",
            min=1,
            help="Calibrate with so many samples: the first, of class folders one of each in turn.",
        ),
    ] = 300,
    estimator: Annotated[
        Literal["minmax", "ema", "percentile", "mse", "entropy"] | None,
        typer.Option("--estimator", help="How ranges of activations are found."),
    ] = None,
    percentile: Annotated[float | None, typer.Option(help="Of the estimator of that name, in percent.")] = None,
    equalize: Annotated[bool, typer.Option("--equalize", help="Equalise weights across layers first.")] = False,
    smooth_quant: Annotated[
        float | None, typer.Option("--smooth-quant", help="Move outliers into weights, with this alpha (0 to 1).")
    ] = None,
    adaround: Annotated[bool, typer.Option("--adaround", help="Learn the rounding of weights (slow).")] = False,
    no_correction: Annotated[
        bool, typer.Option("--no-correction", help="Do not correct biases for the mean error of each layer.")
    ] = False,
    engines: Annotated[
        list[str] | None,
        typer.Option("--engine", "-e", metavar="<str>", help="Build for this engine; repeat. Default: all that can."),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="An engine's own option, such as sparse=on; repeat."),
    ] = None,
    verify_data: Annotated[
        str | None, typer.Option("--verify-data", help="Judge every bundle on these, as `hwbench verify` does.")
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
    no_measure: Annotated[bool, typer.Option("--no-measure", help="Do not time the bundles.")] = False,
    duration: Annotated[str | None, typer.Option(help="Shortest timed run of each. Default: 3s.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", metavar="<int>", min=1, help="Size of the batch axis.")
    ] = None,
    shapes: Shapes = None,
    licence: Annotated[
        Path | None, typer.Option("--license", help="The model's licence, to go along. Default: the one beside it.")
    ] = None,
    input_note: Annotated[
        str | None, typer.Option("--input-note", help="What comes before the network, in words, to go along.")
    ] = None,
    output_note: Annotated[
        str | None, typer.Option("--output-note", help="What comes after the network, in words, to go along.")
    ] = None,
    one_file: Annotated[bool, typer.Option("--one-file", help="Make each bundle one .hwbundle file.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace bundles that are there.")] = False,
    device: Device = "cpu",
    require_device: RequireDevice = None,
    require_precision: RequirePrecision = None,
    require_delegate: RequireDelegate = None,
    threads: Threads = None,
    seed: Seed = 0,
    timeout: Annotated[str, typer.Option(help="Longest silence of a process, compiling included.")] = "15min",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Build a bundle for every engine and precision, verify each against the original, and time it.

    --device may name a profile (nvidia-rtx-4090): what can be built for a device that is not attached is, and neither
    run nor timed.

    Exit codes: 0 built, and no certificate failed; 1 a certificate failed, or outputs hold NaN; 2 wrong request; 3 the
    model, the data or an engine that was asked for failed; 5 with --strict: the data do not settle it.
    """
    from hwbench.build_pipeline import build as run
    from hwbench.cli.request import parse_shapes
    from hwbench.cli.verify import check_engines, parse_drop
    from hwbench.files import encode
    from hwbench.inventory import Away, default_threads, find_or_describe
    from hwbench.records.build import BundleRequest
    from hwbench.records.placement import Requirements
    from hwbench.records.verification import VerifyRequest
    from hwbench.report.build import render_build
    from hwbench.units import parse_seconds

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    check_engines(engines or [])
    if strict and max_drop is None:
        raise UsageError("--strict is about what is certified, and nothing is to be", hint="give --max-drop")
    if max_drop is not None and verify_data is None:
        raise UsageError("--max-drop is certified on data", hint="give --verify-data")
    if metric is not None and task != "auto":
        raise UsageError("--task and --metric both say what is measured", hint="give one of them")
    if licence is not None and not licence.is_file():
        raise UsageError(f"--license '{licence}': there is no such file")
    target = find_or_describe(device)
    count = threads or default_threads(target)
    settings = _calibration(estimator, percentile, equalize, smooth_quant, adaround, not no_correction, seed)
    fixed = parse_shapes(shapes or [])
    request = BundleRequest(
        model=model,
        device=device,
        engines=tuple(dict.fromkeys(engines or ())),
        plans=_plans(precisions, plan),
        keep_float=tuple(keep_float or ()),
        batch_size=batch_size,
        shapes=fixed,
        options=_options(options or []),
        data=data,
        preprocess=preprocess,
        samples=samples,
        calibration=settings,
        required=Requirements(device=require_device, precision=require_precision, delegate=require_delegate),
        verify=_unasked("--verify-data")
        if verify_data is None
        else VerifyRequest(
            model=model,
            data=verify_data,
            device=device,
            task=task,
            metric=metric,
            engines=(),
            precisions=(),
            batch_size=batch_size,
            shapes=fixed,
            preprocess=preprocess,
            max_drop=parse_drop(max_drop),
            limit=None,
            layers=False,
            threads=count,
            seed=seed,
            timeout_s=parse_seconds(timeout),
        ),
        measure=_unasked("leave --no-measure out")
        if no_measure or isinstance(target, Away)
        else _timing(target, device, count, duration, timeout, seed),
        one_file=one_file,
        replace=force,
        licence=None if licence is None else str(licence),
        preprocessing_note=input_note or _recipe(preprocess),
        postprocessing_note=output_note,
        threads=count,
        seed=seed,
        timeout_s=parse_seconds(timeout),
    )
    found = run(request, output, target=target, watch=terminal.steps())
    if json:
        write_stdout(encode(found))
    if not (json and quiet):
        terminal.show(render_build(found, output), stderr=json)
    raise typer.Exit(exit_code(found, strict=strict))


def exit_code(found: BuildResult, *, strict: bool) -> int:
    """Return what the command ends with."""
    from hwbench.records.base import Missing
    from hwbench.records.bundle import GraphChecked
    from hwbench.records.verification import Certificate, Verified

    rows = [item.verified for item in found.bundles if isinstance(item.verified, Verified)]
    words = {row.certificate.word for row in rows if isinstance(row.certificate, Certificate)}
    graphs = [item.engine.graph_checked for item in found.bundles]
    if any(isinstance(graph, GraphChecked) and not graph.finite for graph in graphs):
        return EXIT_GOAL_MISSED
    if "FAILED" in words or not all(row.finite for row in rows) or any(item.unmet for item in found.bundles):
        return EXIT_GOAL_MISSED
    if any(item.failed for item in found.not_built):
        return EXIT_UNAVAILABLE
    if any(failed(item.verified) or failed(item.result) for item in found.bundles):
        return EXIT_UNAVAILABLE
    wanted = found.request.verify
    asked = not isinstance(wanted, Missing) and wanted.max_drop is not None
    certified = [
        row for row in rows if isinstance(row.certificate, Certificate) and row.certificate.word == "CERTIFIED"
    ]
    return EXIT_INCONCLUSIVE if strict and asked and len(certified) < len(found.bundles) else EXIT_OK


def failed(value: object) -> bool:
    """Say whether there should have been a value."""
    from hwbench.records.base import Missing

    return isinstance(value, Missing) and value.code == "engine_failed"


def _plans(precisions: list[str] | None, plan: Path | None) -> tuple[PrecisionPlan, ...]:
    from hwbench.build.plan import plan_for, read_plan

    if (plan is None) == (not precisions):
        raise UsageError(
            "--precision and --plan both say what is built" if plan else "nothing says what is to be built",
            hint="give --precision int8, say, or --plan plan.toml",
        )
    if plan is not None:
        return (read_plan(plan),)
    return tuple(plan_for(name) for name in dict.fromkeys(precisions or ()))


def _calibration(
    estimator: str | None,
    percentile: float | None,
    equalize: bool,
    smooth_quant: float | None,
    adaround: bool,
    bias_correction: bool,
    seed: int,
) -> CalibrationSettings:
    import msgspec

    from hwbench.records.quantization import CalibrationSettings

    if percentile is not None and estimator != "percentile":
        raise UsageError("--percentile is read by --estimator percentile", hint="give both, or none")
    given = {"estimator": estimator, "percentile": percentile, "smooth_quant": smooth_quant}
    flags = {"equalize": equalize, "adaround": adaround, "bias_correction": bias_correction, "seed": seed}
    try:
        return msgspec.convert(
            {name: value for name, value in given.items() if value is not None} | flags, CalibrationSettings
        )
    except msgspec.ValidationError as error:
        raise UsageError(f"calibration: {error}") from error


def _timing(target: Target, device: str, threads: int, duration: str | None, timeout: str, seed: int) -> ProfileRequest:
    """Return the request by which every bundle is timed: that of ``hwbench profile`` as it is by default."""
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
        warmup=None,
        stop=StopOptions(duration=duration),
        modes=ModeOptions(),
        layers=None,
        meter="auto",
        seed=seed,
        timeout=timeout,
    )
    return resolve(options, target)


def _options(given: list[str]) -> dict[str, str]:
    """Read ``NAME=VALUE``; whether an engine has such an option, the engine knows."""
    found: dict[str, str] = {}
    for text in given:
        name, told, value = text.partition("=")
        if not (name and told and value):
            raise UsageError(f"--option '{text}' is not NAME=VALUE", hint="such as --option sparse=on")
        if name in found:
            raise UsageError(f"--option {name} is given twice")
        found[name] = value
    return found


def _unasked(option: str) -> Missing:
    from hwbench.records.base import Missing

    return Missing(code="not_asked", why="nobody asked for it", cure=option)


def _recipe(preprocess: str | None) -> str | None:
    """Return the text of the file that says how pictures become samples, for whoever deploys the network."""
    if preprocess is None or not preprocess.endswith(".toml"):
        return preprocess
    try:
        return Path(preprocess).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--preprocess '{preprocess}': {error.strerror}") from error
