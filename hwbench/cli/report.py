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

_PAGES = {".html", ".htm"}


@command
def report(
    results: Annotated[list[Path], typer.Argument(help="result.json files, or folders that hold them.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here; the suffix (.html, .csv) says what.")
    ] = None,
    csv: Annotated[
        Literal["measurements", "layers", "samples", "series"] | None,
        typer.Option("--csv", help="CSV of these, to standard output or to --output."),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show the layers of every engine too.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Show saved results: a table in the terminal, one offline HTML page, or CSV."""
    from hwbench.files import write_bytes
    from hwbench.report.html import render_page
    from hwbench.report.text import layers_table, render_table
    from hwbench.results import read_result

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    suffix = output.suffix.lower() if output is not None else ""
    _check(output, suffix, csv=csv, layers=layers)
    found = [read_result(path) for given in results for path in _files(given)]
    if output is not None and suffix in _PAGES:
        write_bytes(output, render_page(found).encode())
        terminal.say(f"report: {output}")
    elif output is not None:
        write_bytes(output, _csv(found, csv or "measurements").encode())
        terminal.say(f"csv: {output}")
    elif csv is not None:
        write_stdout(_csv(found, csv).encode())
    else:
        for result in found:
            terminal.show(render_table(result))
            for measurement in result.measurements if layers else ():
                terminal.show(layers_table(measurement))


def _check(output: Path | None, suffix: str, *, csv: What | None, layers: bool) -> None:
    """Refuse an unknown suffix, and options that the output has no use for."""
    if output is not None and suffix not in _PAGES | {".csv"}:
        raise UsageError(f"--output '{output}' ends in neither .html nor .csv")
    if csv is not None and suffix in _PAGES:
        raise UsageError(f"--csv {csv} does not go into a page", hint="leave it out, or write to a .csv")
    if layers and (output is not None or csv is not None):
        raise UsageError(
            "--layers is for the terminal; a page always has the layers", hint="for a table of them: --csv layers"
        )


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
