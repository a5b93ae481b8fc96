"""``hwbench report``: saved results to a page, a table or CSV; needs nothing but the files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hwbench.cli.terminal import NoColor, Quiet, Terminal, Verbose, command, write_stdout
from hwbench.errors import StorageError, UsageError
from hwbench.files import REQUEST, RESULT

if TYPE_CHECKING:
    from hwbench.records.measurement import ProfileResult
    from hwbench.report.delimited import What


@command
def report(
    results: Annotated[list[Path], typer.Argument(help="result.json files, or folders that hold them.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here; the suffix (.html, .csv) says what.")
    ] = None,
    csv: Annotated[
        Literal["measurements", "layers", "samples"] | None, typer.Option("--csv", help="CSV to standard output.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show the layers of every engine too.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Show saved results: a table in the terminal, one offline HTML page, or CSV."""
    from hwbench.files import write_bytes
    from hwbench.pipeline import read_result
    from hwbench.records.base import Missing
    from hwbench.report.html import render_page
    from hwbench.report.text import layers_table, render_table

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    found = [read_result(path) for given in results for path in _files(given)]
    if output is not None and output.suffix.lower() in {".html", ".htm"}:
        write_bytes(output, render_page(found).encode())
        terminal.say(f"report: {output}")
    elif output is not None and output.suffix.lower() == ".csv":
        write_bytes(output, _csv(found, csv or "measurements").encode())
        terminal.say(f"csv: {output}")
    elif output is not None:
        raise UsageError(f"--output '{output}' ends in neither .html nor .csv")
    elif csv is not None:
        write_stdout(_csv(found, csv).encode())
    else:
        for result in found:
            terminal.show(render_table(result))
            for measurement in result.measurements if layers else ():
                if not isinstance(measurement.layers, Missing):
                    terminal.show(layers_table(measurement))


def _files(given: Path) -> list[Path]:
    """Return the results that a path names: the file itself, or those of every profile run at or below a folder."""
    if not given.is_dir():
        return [given]
    found = sorted(request.parent for request in given.rglob(REQUEST) if (request.parent / RESULT).exists())
    if not found:
        raise StorageError(f"'{given}' holds no result of hwbench profile")
    return found


def _csv(results: list[ProfileResult], what: What) -> str:
    from hwbench.report.delimited import to_csv

    if len(results) > 1 and what != "measurements":
        raise UsageError(f"--csv {what} is for one result, {len(results)} were given")
    first, *others = [to_csv(result, what) for result in results]
    return first + "".join(text.partition("\r\n")[2] for text in others)
