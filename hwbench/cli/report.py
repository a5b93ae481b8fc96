"""``hwbench report``: saved results to a page, a table, CSV or JSON; needs nothing but the files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hwbench.cli.terminal import NoColor, Quiet, Terminal, Verbose, command, write_stdout
from hwbench.errors import StorageError, UsageError
from hwbench.files import REQUEST, RESULT

if TYPE_CHECKING:
    from hwbench.energy.trace import Trace
    from hwbench.records.base import Missing
    from hwbench.records.measurement import ProfileResult
    from hwbench.report.energy_traces import Traces

_PAGES = {".html", ".htm"}
_JSON = ".json"
Csv = Literal["measurements", "layers", "samples", "series", "energy"]


@command
def report(
    results: Annotated[list[Path], typer.Argument(help="result.json files, or folders that hold them.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here; the suffix (.html, .csv, .json) says what.")
    ] = None,
    csv: Annotated[
        Csv | None,
        typer.Option("--csv", help="CSV of these, to standard output or to --output."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="The energy of all results as JSON, to standard output or to --output.")
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Show the layers of every engine too.")] = False,
    accuracy: Annotated[
        list[Path] | None,
        typer.Option("--accuracy", help="What `hwbench verify -o` wrote of the same saved engines; repeat."),
    ] = None,
    no_accuracy: Annotated[
        bool, typer.Option("--no-accuracy", help="Claim the speed of saved engines whose accuracy is not known.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Show saved results: a table in the terminal, one offline HTML page, CSV, or the energy as JSON."""
    from hwbench.files import read_record
    from hwbench.records.verification import VERIFICATION_SCHEMA, Verification
    from hwbench.report.accuracy import with_accuracy
    from hwbench.report.energy_data import energy_json
    from hwbench.report.html import render_page
    from hwbench.results import read_result

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    suffix = output.suffix.lower() if output is not None else ""
    _check(output, suffix, csv=csv, json=json, layers=layers)
    paths = [path for given in results for path in _files(given)]
    judged = [read_record(path, Verification, schema=VERIFICATION_SCHEMA) for path in (accuracy or ())]
    found = with_accuracy([read_result(path) for path in paths], judged, waived=no_accuracy)
    if suffix in _PAGES:
        _put(render_page(found, traces=_traces(paths, found)).encode(), output, terminal, "report")
    elif json or suffix == _JSON:
        _put(energy_json(found), output, terminal, "json")
    elif csv is not None or output is not None:
        _put(_csv(found, csv or "measurements").encode(), output, terminal, "csv")
    else:
        _show(terminal, paths, found, layers=layers)


def _put(data: bytes, output: Path | None, terminal: Terminal, what: str) -> None:
    from hwbench.files import write_bytes

    if output is None:
        write_stdout(data)
        return
    write_bytes(output, data)
    terminal.say(f"{what}: {output}")


def _show(terminal: Terminal, paths: list[Path], found: list[ProfileResult], *, layers: bool) -> None:
    from hwbench.report.energy_text import render_energy
    from hwbench.report.text import layers_table, render_table

    for result in found:
        terminal.show(render_table(result, estimates=False))
        for measurement in result.measurements if layers else ():
            terminal.show(layers_table(measurement))
    energy = render_energy(found, _traces(paths, found))
    if energy is not None:
        terminal.show(energy)


def _traces(paths: list[Path], results: list[ProfileResult]) -> Traces:
    """Read the recordings beside the results; of two copies of a result, one with its trace is enough."""
    from hwbench.records.base import Missing
    from hwbench.report.energy_traces import NOT_LOOKED_AT, find_traces

    found: dict[str, Trace | Missing] = {}
    for path, result in zip(paths, results, strict=True):
        for digest, trace in find_traces(result, path if path.is_dir() else path.parent).items():
            if isinstance(found.get(digest, NOT_LOOKED_AT), Missing):
                found[digest] = trace
    return found


def _check(output: Path | None, suffix: str, *, csv: Csv | None, json: bool, layers: bool) -> None:
    """Refuse an unknown suffix, and options that the output has no use for."""
    if output is not None and suffix not in _PAGES | {".csv", _JSON}:
        raise UsageError(f"--output '{output}' ends in none of .html, .csv, .json")
    if csv is not None and suffix in _PAGES | {_JSON}:
        raise UsageError(f"--csv {csv} does not go into a page or JSON", hint="leave it out, or write to a .csv")
    if json and (csv is not None or suffix not in {"", _JSON}):
        raise UsageError(
            "--json goes to standard output or into a .json", hint="leave --csv out, and ask once for each"
        )
    if layers and (output is not None or csv is not None or json):
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


def _csv(results: list[ProfileResult], what: Csv) -> str:
    from hwbench.report.delimited import to_csv
    from hwbench.report.energy_data import energy_csv

    if what == "energy":
        return energy_csv(results)
    if len(results) > 1 and what != "measurements":
        raise UsageError(f"--csv {what} is for one result, {len(results)} were given")
    first, *others = [to_csv(result, what) for result in results]
    return first + "".join(text.partition("\r\n")[2] for text in others)
