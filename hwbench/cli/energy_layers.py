"""``hwbench energy layers``: by time share of a saved result, or by measuring prefixes of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.modes import ModeOptions, StopOptions
from hwbench.cli.request import Options, resolve
from hwbench.cli.terminal import Device, Json, NoColor, Quiet, Terminal, Verbose, command, write_stdout
from hwbench.errors import UsageError
from hwbench.files import RESULT

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hwbench.records.base import Missing
    from hwbench.records.layer_energy import LayerEnergies, LayersResult
    from hwbench.records.measurement import ProfileRequest

_PARTS = 6
_ROUNDING = 1e-9


@command
def layers(
    what: Annotated[str, typer.Argument(help="A saved result (its layers by time share), or a model (measured, fit).")],
    device: Device = "cpu",
    engine: Annotated[str, typer.Option("--engine", "-e", help="Of a model: the engine.")] = "onnxruntime",
    precision: Annotated[str, typer.Option("--precision", "-p", help="Of a model: the precision.")] = "fp32",
    parts: Annotated[
        int | None, typer.Option(min=2, max=64, help="Of a model: pieces to cut it into. Default: 6.")
    ] = None,
    meter: Annotated[str, typer.Option(help="Of a model: energy meter, auto or a name.")] = "auto",
    energy_repeats: Annotated[
        int | None, typer.Option(min=2, help="Of a model: windows for each part. Default: 5.")
    ] = None,
    energy_window: Annotated[
        str | None, typer.Option(help="Of a model: length of a window. Default: 10s, or 100 updates of the meter.")
    ] = None,
    max_warmup: Annotated[
        str | None, typer.Option(help="Of a model: longest wait for a plateau, each part. Default: 3min.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Of a model: folder for the results; needed there.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Tell the energy of single layers: by time share of a saved result, or by a fit over measured prefixes of a model.

    A fit takes some minutes for each part. The two are labelled: a share is an assumption, a fit is measured.
    """
    from hwbench.files import encode

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    path = Path(what)
    if (path / RESULT).exists() or (path.is_file() and path.suffix == ".json"):
        given: dict[str, object] = {"--parts": parts, "--output": output, "--energy-repeats": energy_repeats}
        given |= {"--energy-window": energy_window, "--max-warmup": max_warmup}
        if useless := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{useless[0]} is for a model that is measured", hint="a saved result is only read")
        _of_result(terminal, path, json=json)
        return
    if output is None:
        raise UsageError("a fit measures several parts, and keeps them", hint="give a folder: --output FOLDER")
    if (output / "whole").exists():
        raise UsageError(f"'{output}' already holds a fit", hint="give another --output")
    options = ModeOptions(energy_repeats=energy_repeats, energy_window=energy_window, max_warmup=max_warmup)
    request = _request(what, device, engine, precision, meter, options)
    fit = _measured(terminal, request, output, parts or _PARTS)
    if json:
        write_stdout(encode(fit))
    else:
        terminal.show(_table(f"{fit.model} on {fit.engine} {fit.precision}", fit.energies))


def _request(model: str, device: str, engine: str, precision: str, meter: str, modes: ModeOptions) -> ProfileRequest:
    from hwbench.inventory import find_target

    options = Options(
        model=model, device=device, engines=[engine], precisions=[precision], mode="energy", batch_size=None, shapes=(),
        input_data=None, threads=None, streams=None, warmup=None, stop=StopOptions(), modes=modes, layers=None,
        meter=meter, seed=0, timeout="15min",
    )  # fmt: skip
    return resolve(options, find_target(device))


def _measured(terminal: Terminal, request: ProfileRequest, folder: Path, parts: int) -> LayersResult:
    from hwbench.cli.progress import ProgressWatcher
    from hwbench.energy_layers import fitted

    with ProgressWatcher(terminal) as watcher:
        return fitted(request, folder, parts, watcher=watcher)


def _of_result(terminal: Terminal, path: Path, *, json: bool) -> None:
    from rich.console import Group

    from hwbench.energy_layers import shared
    from hwbench.files import encode
    from hwbench.records.layer_energy import SharedLayers
    from hwbench.results import read_result

    found = shared(read_result(path))
    if json:
        write_stdout(encode(SharedLayers(measurements=dict(found))))
    else:
        terminal.show(Group(*(_table(label, energies) for label, energies in found)))


def _table(title: str, energies: LayerEnergies | Missing) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table

    from hwbench.records.base import Missing
    from hwbench.report.text import plain
    from hwbench.units import format_si

    if isinstance(energies, Missing):
        return plain(f"{title}: no energy of layers: {energies}")
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column("layers", overflow="fold")
    for name in ("energy", "share", "95 % interval"):
        grid.add_column(name, justify="right", no_wrap=True)
    for row in energies.rows:
        bounds = (
            ""
            if isinstance(row.low_j, Missing) or isinstance(row.high_j, Missing)
            else (f"{format_si(row.low_j, 'J')} to {format_si(row.high_j, 'J')}")
        )
        share = f"{row.energy_j / energies.total_j:.1%}"
        grid.add_row(plain(_shown(row.layers)), plain(format_si(row.energy_j, "J")), plain(share), plain(bounds))
    left_j = energies.unattributed_j if abs(energies.unattributed_j) > _ROUNDING * energies.total_j else 0.0
    grid.add_row(plain("no layer"), plain(format_si(left_j, "J")), plain(""), plain(""))
    grid.add_row(plain("an inference"), plain(format_si(energies.total_j, "J")), plain(""), plain(""))
    head = plain(f"{title}: energy of layers by {energies.method.replace('_', ' ')}", "bold")
    return Group(head, grid, plain(energies.basis, "dim"))


def _shown(layers: tuple[str, ...]) -> str:
    return layers[0] if len(layers) == 1 else f"{layers[0]} … {layers[-1]} ({len(layers)} layers)"
