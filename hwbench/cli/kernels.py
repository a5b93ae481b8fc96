"""``hwbench kernels``: where hwbench's sparse kernels beat dense products, on a GPU or by a model of one."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.terminal import Device, Json, NoColor, Quiet, Seed, Terminal, Verbose, command, write_stdout
from hwbench.errors import EXIT_GOAL_MISSED, EXIT_OK, DeviceError, UsageError

if TYPE_CHECKING:
    from hwbench.crossover.grid import Grid
    from hwbench.inventory import Away, Target
    from hwbench.records.crossover import Crossover
    from hwbench.sparse.build import Act
    from hwbench.sparse.manifest import Kernel

_PAGES = {".html", ".htm"}
_GPUS = {"nvidia", "jetson"}
_OF_CHECK = {"check", "device", "format_", "json", "quiet", "verbose", "no_color"}
_EPILOGUES: tuple[tuple[bool, Act], ...] = ((False, "none"), (True, "gelu-tanh"))  # the least and the most registers


@command
def kernels(
    context: typer.Context,
    device: Device = "cuda:0",
    shape: Annotated[
        list[str] | None, typer.Option("--shape", metavar="<str>", help="Rows x columns of W: 4096x14336; repeat.")
    ] = None,
    n: Annotated[list[int] | None, typer.Option("--n", metavar="<int>", min=1, help="Rows of X; repeat.")] = None,
    sparsity: Annotated[
        list[float] | None, typer.Option("--sparsity", metavar="<float>", help="Fraction of zeros: 0.7; repeat.")
    ] = None,
    format_: Annotated[
        list[str] | None, typer.Option("--format", metavar="<str>", help="Of the kernels' formats; repeat.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=5, help="Samples of each contender.")] = 30,
    no_baselines: Annotated[bool, typer.Option("--no-baselines", help="Time the kernels alone.")] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Compile kernels and hold them to budgets; no GPU. Takes --format, -d, --json."),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the table here: .json, or .html for the page.")
    ] = None,
    seed: Seed = 0,
    timeout: Annotated[float, typer.Option("--timeout", min=1.0, help="The longest silence of the child, in s.")] = 600,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Time sparse kernels beside dense products, shape by shape; for a GPU that is not attached, by a model."""
    from hwbench.crossover.grid import Grid, parse_shapes
    from hwbench.files import encode

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    if check:
        _check(context, terminal, tuple(dict.fromkeys(format_ or ())), json=json)
        return
    if output is not None and output.suffix.lower() not in _PAGES | {".json"}:
        raise UsageError(f"--output '{output}' ends in neither .json nor .html")
    default = Grid()
    grid = Grid(
        shapes=parse_shapes(shape) if shape else default.shapes,
        rows=tuple(dict.fromkeys(n)) if n else default.rows,
        sparsities=tuple(dict.fromkeys(sparsity)) if sparsity else default.sparsities,
        formats=tuple(dict.fromkeys(format_ or ())),
    )
    table = _table(device, grid, terminal, rounds=rounds, baselines=not no_baselines, seed=seed, timeout_s=timeout)
    if json:
        write_stdout(encode(table))
    else:
        _show(terminal, table)
    if output is not None:
        _write(output, table)
        terminal.say(f"table: {output}")


def _table(
    device: str, grid: Grid, terminal: Terminal, *, rounds: int, baselines: bool, seed: int, timeout_s: float
) -> Crossover:
    """Measure the table of a GPU that is here and keep it; model that of one that is not."""
    from hwbench.crossover import saved
    from hwbench.inventory import Away, find_or_describe

    target = find_or_describe(device)
    if target.device.kind not in _GPUS:
        raise DeviceError(
            f"'{device}' is {target.device.title}, and the kernels are for NVIDIA GPUs",
            hint="name a GPU; `hwbench devices` lists those that are here, and the profiles of others",
        )
    if isinstance(target, Away):
        terminal.say(f"{target.device.title} is not here: this is a model, and nothing was measured")
        return _modelled(target, grid)
    table = _measured(target, grid, terminal, rounds=rounds, baselines=baselines, seed=seed, timeout_s=timeout_s)
    terminal.say(f"kept with what was measured here before: {saved.keep(table)}")
    return table


def _modelled(target: Away, grid: Grid) -> Crossover:
    from hwbench.crossover.expected import modelled
    from hwbench.devices import environment
    from hwbench.sparse.manifest import load_manifest

    return modelled(target.profile, grid, kernels=load_manifest(), environment=environment.capture())


def _measured(
    target: Target, grid: Grid, terminal: Terminal, *, rounds: int, baselines: bool, seed: int, timeout_s: float
) -> Crossover:
    from hwbench.children import run_child
    from hwbench.crossover.measure import assembled
    from hwbench.devices import environment
    from hwbench.errors import EngineError, HwbenchError
    from hwbench.records.base import Missing
    from hwbench.records.crossover import CrossoverJob, Raced

    profile = target.profile
    rate = profile.bandwidth_bytes_per_s.get("dram") if profile is not None else None
    job = CrossoverJob(
        device=target.device,
        shapes=grid.shapes,
        rows=grid.rows,
        sparsities=grid.sparsities,
        formats=grid.formats,
        memory_bytes_per_s=rate.value if rate is not None else Missing(code="no_profile", why="no profile has it"),
        memory_from=f"{rate.basis}, {rate.source}" if rate is not None else "",
        rounds=rounds,
        baselines=baselines,
        seed=seed,
    )
    watch = terminal.steps()
    with tempfile.TemporaryDirectory(prefix="hwbench-kernels-") as temporary:
        folder = Path(temporary) / "race"
        try:
            raced = run_child(
                "hwbench.crossover.worker",
                job,
                Raced,
                folder=folder,
                what="timing kernels",
                failure=EngineError,
                timeout_s=timeout_s,
                on_event=lambda event: watch(str(event.get("what")), event.get("fraction")),
            )
        except (HwbenchError, KeyboardInterrupt):
            _keep_so_far(folder, target, terminal)
            raise
    return assembled(raced, device=target.device.name, title=target.device.title, environment=environment.capture())


def _keep_so_far(folder: Path, target: Target, terminal: Terminal) -> None:
    """Keep the products that were measured before a run ended early."""
    from hwbench.crossover import saved
    from hwbench.crossover.measure import assembled
    from hwbench.crossover.worker import SO_FAR
    from hwbench.devices import environment
    from hwbench.files import decode, read_bytes
    from hwbench.records.crossover import Raced

    if not (folder / SO_FAR).is_file():
        return
    raced = decode(read_bytes(folder / SO_FAR), Raced, what="what was measured so far")
    table = assembled(raced, device=target.device.name, title=target.device.title, environment=environment.capture())
    count = len({(cell.m, cell.k, cell.n) for cell in table.cells})
    if count:
        terminal.say(f"kept, with {count} products measured until then: {saved.keep(table)}")


def _show(terminal: Terminal, table: Crossover) -> None:
    from hwbench.report.crossover import render_crossover

    terminal.show(render_crossover(table))


def _write(output: Path, table: Crossover) -> None:
    from hwbench.files import write_bytes, write_record
    from hwbench.report.crossover_page import render_crossover_page

    if output.suffix.lower() in _PAGES:
        write_bytes(output, render_crossover_page(table).encode())
    else:
        write_record(output, table)


def _check(context: typer.Context, terminal: Terminal, formats: tuple[str, ...], *, json: bool) -> None:
    """Compile everything for everything, or what is named; the first thing to do after a kernel was changed."""
    from hwbench.crossover.grid import Grid
    from hwbench.files import encode
    from hwbench.report.crossover import render_checks
    from hwbench.sparse.check import CHECKS_SCHEMA, Checks, check_matrix
    from hwbench.sparse.compilers import find_tool
    from hwbench.sparse.manifest import load_manifest

    given = _given(context)
    if strange := sorted(set(given) - _OF_CHECK):
        raise UsageError(f"--check compiles, and has no use for {', '.join(given[name] for name in strange)}")
    manifest = load_manifest()
    named = Grid(formats=formats).named if formats else [each.format for each in manifest.values()]
    kernels = [each for each in manifest.values() if each.format in named]
    archs = _archs(given["device"], kernels) if "device" in given else None
    reads_back = any(find_tool(name) is not None for name in ("nvdisasm", "cuobjdump"))
    if not reads_back:
        terminal.say(
            "opcodes are not checked: neither nvdisasm nor cuobjdump is here (pip install nvidia-cuda-nvdisasm)"
        )
    found = check_matrix(kernels, archs, epilogues=_EPILOGUES, sass=reads_back, watch=terminal.steps())
    if json:
        write_stdout(encode(Checks(schema_version=CHECKS_SCHEMA, checked=found)))
    else:
        terminal.show(render_checks(found))
    broken = [one for one in found if one.broken]
    terminal.say(f"{len(found)} compiled, {len(broken)} not as the manifest says")
    raise typer.Exit(EXIT_GOAL_MISSED if broken else EXIT_OK)


def _given(context: typer.Context) -> dict[str, str]:
    """Return the options that were typed, by parameter: the value of --device, of the others how they are spelt."""
    names = {param.name or "": param.opts[0] for param in context.command.params}
    typed = {name for name in names if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"}
    return {name: context.params[name] if name == "device" else names[name] for name in typed}


def _archs(device: str, kernels: Sequence[Kernel]) -> list[int]:
    """Return the architectures whose machine code a GPU would run, here or described by a profile."""
    from hwbench.inventory import find_or_describe

    target = find_or_describe(device).device
    capability = target.gpu.compute_capability if target.gpu is not None else None
    if not isinstance(capability, str):
        raise DeviceError(f"--check -d {device}: {target.title} has no compute capability that is known")
    sm = int(capability.replace(".", ""))
    found = sorted({arch for kernel in kernels if (arch := kernel.arch_for(sm)) is not None})
    if not found:
        raise DeviceError(f"--check -d {device}: {', '.join(each.name for each in kernels)} cannot run on sm_{sm}")
    return found
