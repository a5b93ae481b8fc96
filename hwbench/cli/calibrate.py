"""``hwbench calibrate``: measure what this machine attains, for the roofline and the planner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.terminal import Device, Json, NoColor, Quiet, Terminal, Verbose, command, write_stdout
from hwbench.errors import InvalidMeasurement, StorageError, UsageError
from hwbench.units import format_seconds, format_si, parse_seconds

if TYPE_CHECKING:
    from hwbench.records.profile import Calibration

_LEAST_S = 1.0


@command
def calibrate(
    device: Device = "cpu",
    duration: Annotated[str, typer.Option(help="Time to spend on measuring.")] = "60s",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the overlay here instead of where `profile` finds it by itself."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the calibration that is kept, even where this one is worse.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Measure the bandwidth of each memory level and the arithmetic peak in each precision."""
    from hwbench.cost import calibrate as stage
    from hwbench.devices import environment
    from hwbench.files import encode, write_record
    from hwbench.inventory import find_target

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    seconds = parse_seconds(duration)
    if seconds < _LEAST_S:
        msg = f"--duration {duration}: too short to measure anything"
        raise UsageError(msg, hint=f"give at least {format_seconds(_LEAST_S)}; 60s in earnest")
    if force and output is not None:
        msg = "--force is about the calibration that is kept, and --output keeps none"
        raise UsageError(msg, hint="give one of the two")
    target = find_target(device)
    calibration = stage.calibrate(
        target.device,
        seconds=seconds,
        environment=environment.capture(),
        on_progress=lambda label, fraction: terminal.say(f"[{fraction:4.0%}] {label}"),
    )
    if json:
        write_stdout(encode(calibration))
    else:
        _show(terminal, calibration, target.device.title)
    for warning in calibration.warnings:
        terminal.say(f"warning: {warning}")
    if output is not None:
        write_record(output, calibration)
    else:
        output = _keep(terminal, calibration, force=force)
    terminal.say(f"overlay: {output}")


def _keep(terminal: Terminal, calibration: Calibration, *, force: bool) -> Path:
    """Keep the calibration, unless the one that is kept already is better; say what has changed."""
    from hwbench.cost import overlay
    from hwbench.cost.doubts import changes, is_worse

    try:
        kept = overlay.load(calibration.fingerprint)
    except StorageError as error:
        terminal.say(f"warning: the calibration that was kept is replaced: {error.message}")
        return overlay.save(calibration)
    if kept is None:
        return overlay.save(calibration)
    told = "; ".join(changes(kept, calibration)) or "no rate by more than 5%"
    if is_worse(kept, calibration) and not force:
        msg = f"this calibration is worse than that of {kept.created_at}, which stays in force; changed: {told}"
        raise InvalidMeasurement(
            msg,
            hint="run it again on a quiet machine (hwbench doctor); if the machine or the runtimes have changed, "
            "replace the old one with --force",
        )
    terminal.say(f"replaces the calibration of {kept.created_at}; changed: {told}")
    return overlay.save(calibration)


def _show(terminal: Terminal, calibration: Calibration, title: str) -> None:
    from rich.table import Table

    table = Table(title=f"Measured on {title}", title_justify="left")
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
