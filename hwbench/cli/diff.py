"""``hwbench diff``: two measurements layer by layer, down to the last microsecond."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hwbench.cli.terminal import Json, NoColor, Quiet, Terminal, Verbose, command, write_stdout
from hwbench.errors import UsageError

if TYPE_CHECKING:
    from hwbench.diff.select import Selector


@command
def diff(
    results: Annotated[
        list[Path], typer.Argument(help="A and B: result.json files or their folders; one, to compare inside it.")
    ],
    engine: Annotated[str | None, typer.Option("--engine", "-e", help="The engine of both.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", "-p", help="The precision of both.")] = None,
    a: Annotated[str | None, typer.Option("--a", help="A's ENGINE[:PRECISION], as in openvino:bf16.")] = None,
    b: Annotated[str | None, typer.Option("--b", help="B's ENGINE[:PRECISION].")] = None,
    by: Annotated[
        Literal["unit", "module", "op"], typer.Option("--by", help="Gather rows by module or by op.")
    ] = "unit",
    depth: Annotated[
        int | None, typer.Option("--depth", min=1, help="Parts of the module path, with --by module; 1 if not given.")
    ] = None,
    top: Annotated[int | None, typer.Option("--top", min=0, help="Show so many rows; 20 if not given.")] = None,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV to standard output.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Tell where two measurements of one network differ, layer by layer, adding up to the end-to-end difference."""
    from hwbench.diff.compare import compare
    from hwbench.diff.select import select
    from hwbench.files import encode
    from hwbench.report.diff_text import difference_csv, render_difference
    from hwbench.results import read_result

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    if json and csv:
        raise UsageError("--json and --csv exclude each other")
    if (json or csv) and top is not None:
        raise UsageError("--top is for the table; --json and --csv give every row")
    if depth is not None and by != "module":
        raise UsageError("--depth goes with --by module")
    if len(results) > 2:
        raise UsageError(f"two results are compared, {len(results)} were given")
    wanted = _selector("--a", a, engine, precision), _selector("--b", b, engine, precision)
    if len(results) == 1 and wanted[0] == wanted[1]:
        raise UsageError(
            "one result, and nothing tells A from B in it", hint="name both: --a ENGINE:PRECISION --b ENGINE:PRECISION"
        )
    read = [read_result(path) for path in results]
    runs = [
        (result, select(result, selector, name=str(path)))
        for path, result, selector in zip((results[0], results[-1]), (read[0], read[-1]), wanted, strict=True)
    ]
    found = compare(runs[0], runs[1], grouping=by, depth=depth or 1)
    if json:
        write_stdout(encode(found))
    elif csv:
        write_stdout(difference_csv(found).encode())
    else:
        terminal.show(render_difference(found, 20 if top is None else top))


def _selector(option: str, given: str | None, engine: str | None, precision: str | None) -> Selector:
    from hwbench.diff.select import Selector, parse_selector

    if given is None:
        return Selector(engine=engine, precision=precision)
    if engine is not None:
        raise UsageError(f"{option} and --engine both name the engine")
    selector = parse_selector(given)
    if selector.precision is not None and precision is not None:
        raise UsageError(f"{option} and --precision both name the precision")
    return Selector(engine=selector.engine, precision=selector.precision or precision)
