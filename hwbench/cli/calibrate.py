"""``hwbench calibrate``: measure what this machine attains, for the roofline and the planner."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwbench.cli.terminal import Device, Json, NoColor, Quiet, Terminal, Verbose, command, write_stdout
from hwbench.units import format_si, parse_seconds


@command
def calibrate(
    device: Device = "cpu",
    duration: Annotated[str, typer.Option(help="Time to spend on measuring.")] = "60s",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the overlay here instead of where `profile` finds it by itself."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Measure the bandwidth of each memory level and the arithmetic peak in each precision."""
    from rich.table import Table

    from hwbench.cost import calibrate as stage
    from hwbench.cost import overlay
    from hwbench.devices import environment
    from hwbench.files import encode, write_record
    from hwbench.inventory import find_target

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    target = find_target(device)
    calibration = stage.calibrate(
        target.device,
        seconds=parse_seconds(duration),
        environment=environment.capture(),
        on_progress=lambda label, fraction: terminal.say(f"[{fraction:4.0%}] {label}"),
    )
    if output is None:
        output = overlay.save(calibration)
    else:
        write_record(output, calibration)
    if json:
        write_stdout(encode(calibration))
        return
    table = Table(title=f"Measured on {target.device.title}", title_justify="left")
    for heading in ("quantity", "key", "rate", "threads", "method"):
        table.add_column(heading)
    for point in calibration.points:
        unit = "OP/s" if point.quantity == "peak_ops_per_s" else "B/s"
        table.add_row(
            point.quantity.split("_")[0], point.key, format_si(point.value, unit), str(point.threads), point.method
        )
    terminal.show(table)
    for what, why in calibration.unavailable.items():
        terminal.say(f"not measured: {what}: {why}")
    for warning in calibration.warnings:
        terminal.say(f"warning: {warning}")
    terminal.say(f"overlay: {output}")
