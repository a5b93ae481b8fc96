"""``hwbench energy``: numbers again from a trace, an external meter's file, sweeps, the test of a meter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.energy_layers import layers
from hwbench.cli.energy_sweep import sweep
from hwbench.cli.terminal import Device, Json, NoColor, Quiet, Terminal, Verbose, command, write_stdout
from hwbench.errors import EXIT_INVALID, InvalidMeasurement, UsageError
from hwbench.records.energy import EnergyReading, EnergyRun

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hwbench.records.selftest import CheckStatus, SelfTest

app = typer.Typer(
    help="Energy: recompute from a trace, import an external meter's file, of single layers, over batch sizes and "
    "power limits, test a meter."
)

_STYLE: dict[CheckStatus, str] = {"passed": "green", "failed": "bold red", "cannot_tell": "magenta"}


@app.command("recompute")
@command
def recompute(
    trace: Annotated[Path, typer.Argument(help="A trace that hwbench recorded (energy.jsonl).")],
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Compute the numbers of an energy run again from its trace; the same file gives the same numbers.

    Of another mode's trace: the reading of its window.
    """
    from hwbench.cli.energy_words import reading_lines, run_lines
    from hwbench.energy.protocol import energy_run_of, readings_of
    from hwbench.files import encode
    from hwbench.records.base import Missing

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    found: EnergyRun | EnergyReading | Missing = energy_run_of(trace)
    if isinstance(found, Missing) and found.code == "no_windows":
        found = next(iter(readings_of(trace)), found)
    if isinstance(found, Missing):
        raise InvalidMeasurement(f"{trace} gives no energy: {found.why}", hint=found.cure)
    if json:
        write_stdout(encode(found))
    else:
        terminal.show(_grid(run_lines(found) if isinstance(found, EnergyRun) else reading_lines(found)))


@app.command("import")
@command
def import_(
    folder: Annotated[Path, typer.Argument(help="Folder of a result measured with --mode energy --meter external.")],
    file: Annotated[Path, typer.Argument(help="What the external meter recorded.")],
    format: Annotated[
        str, typer.Option("--format", "-f", help="Format of the file; auto tells it by itself.")
    ] = "auto",
    engine: Annotated[str | None, typer.Option("--engine", "-e", help="Whose run it is, of several.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", "-p", help="In which precision, of several.")] = None,
    interval: Annotated[str | None, typer.Option(help="Time between two lines, of a file without times.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Name a column of a table: power=NAME, time=NAME; may be repeated.")
    ] = None,
    channel: Annotated[str | None, typer.Option(help="Of several channels, the one that is the total.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Put the recording of an external meter into a saved result, on the clock of its run."""
    from hwbench.cli.energy_words import alignment_lines, run_lines
    from hwbench.energy_import import Recording, import_energy
    from hwbench.files import encode
    from hwbench.units import parse_seconds

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    recording = Recording(
        path=file,
        format=format,
        interval_s=None if interval is None else parse_seconds(interval),
        columns=_columns(column or []),
        channel=channel,
    )
    imported = import_energy(folder, recording, engine=engine, precision=precision)
    if json:
        write_stdout(encode(imported.run))
    else:
        terminal.show(_grid([*run_lines(imported.run), *alignment_lines(imported.alignment)]))
    terminal.say(f"in {folder}; as it was before: {imported.before.name}; trace: {imported.trace}")


app.command("layers")(layers)
app.command("sweep")(sweep)


@app.command("selftest")
@command
def selftest(
    device: Device = "cpu",
    meter: Annotated[str, typer.Option(help="Energy meter: auto, or a name.")] = "auto",
    trace: Annotated[Path | None, typer.Option(help="Keep the raw trace here.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Test a meter with a known course of load: idle, load, idle, square waves; about a minute and a half.

    Exit codes: 0 passed, or skipped because there is no meter; 4 a check failed.
    """
    from hwbench.energy.trace import write_trace
    from hwbench.energy_selftest import self_test
    from hwbench.files import encode

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    tested, raw = self_test(device, meter, say=terminal.say)
    if raw is not None and trace is not None:
        write_trace(trace, raw)
    if json:
        write_stdout(encode(tested))
    else:
        terminal.show(_selftest(tested))
    if tested.status == "failed":
        raise typer.Exit(EXIT_INVALID)


def _columns(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, column = text.partition("=")
        if not equals or not column:
            raise UsageError(f"'{text}' does not name a column", hint="write for example --column power=P_total")
        found[name] = column
    return found


def _selftest(tested: SelfTest) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    from hwbench.records.base import Missing
    from hwbench.report.text import plain

    if isinstance(tested.meter, Missing):
        return plain(f"skipped: no meter to test on {tested.device}: {tested.meter}")
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for check in tested.checks:
        text = plain(check.found)
        text.append_text(plain(f"\nlimit: {check.limit}", "dim"))
        grid.add_row(plain(check.status.replace("_", " "), _STYLE[check.status]), plain(check.name), text)
    head = plain(f"{tested.meter} on {tested.device}: {tested.status}", "bold")
    return Group(head, plain(f"load: {tested.load}; boundary: {tested.boundary}", "dim"), grid)


def _grid(lines: list[tuple[str, str]]) -> RenderableType:
    from rich.table import Table

    from hwbench.report.text import plain

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in lines:
        grid.add_row(plain(name, "bold"), plain(text))
    return grid
