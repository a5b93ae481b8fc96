"""The ``hwbench`` command. Each verb lives in a file of its own and imports what it needs when it runs."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

import hwbench
from hwbench.cli import (
    build,
    calibrate,
    compare,
    compress,
    devices,
    diff,
    doctor,
    energy,
    kernels,
    measure,
    methods,
    models,
    optimize,
    plan,
    plugins,
    predict,
    probe,
    profile,
    report,
    schema,
    search,
    verify,
)

app = typer.Typer(
    name="hwbench",
    help="Measure neural networks on your own hardware, and show the evidence.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("devices")(devices.devices)
app.command("doctor")(doctor.doctor)
app.command("models")(models.models)
app.command("profile")(profile.profile)
app.command("compress")(compress.compress)
app.command("methods")(methods.methods)
app.command("plan")(plan.plan)
app.command("search")(search.search)
app.command("build")(build.build)
app.command("optimize")(optimize.optimize)
app.command("measure")(measure.measure)
app.command("calibrate")(calibrate.calibrate)
app.command("predict")(predict.predict)
app.command("kernels")(kernels.kernels)
app.add_typer(probe.app, name="probe")
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("diff")(diff.diff)
app.add_typer(energy.app, name="energy")
app.command("verify")(verify.verify)
app.command("plugins")(plugins.plugins)
app.command("schema")(schema.schema)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"hwbench {hwbench.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Measure neural networks on your own hardware, and show the evidence."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a µ must not end a measurement
    try:
        app(arguments if arguments is not None else sys.argv[1:])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0
