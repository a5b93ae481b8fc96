"""``hwbench probe``: a program that measures a device without hwbench, and the file that it brings back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hwbench.cli.terminal import Json, NoColor, Quiet, Terminal, Verbose, command, write_stdout

app = typer.Typer(help="A pack that measures a device without hwbench, and what it brings back.")


@app.command("pack")
@command
def pack(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pack.")],
    target: Annotated[
        Literal["onnx", "tflite", "torch"], typer.Option("--for", help="The runtime there: onnx, tflite or torch.")
    ] = "onnx",
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Write a folder to copy to a device: anchors and a program that needs the runtime and numpy alone."""
    from hwbench.prediction.probe.pack import RUNTIMES, write_pack
    from hwbench.units import format_bytes

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    files = write_pack(output, target, replace=force)
    size = format_bytes(sum(path.stat().st_size for path in files))
    terminal.say(f"{output}: {len(files)} files, {size}; there: python3 run_probe.py (needs {RUNTIMES[target]})")


@app.command("read")
@command
def read(
    probe: Annotated[Path, typer.Argument(help="probe.json, which the pack's program wrote.")],
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Check a probe.json and show what it holds."""
    from hwbench.files import encode
    from hwbench.prediction.probe.read import doubts, read_probe
    from hwbench.report.prediction_text import render_probe

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    found = read_probe(probe)
    if json:
        write_stdout(encode(found))
    else:
        terminal.show(render_probe(found, doubts(found)))
