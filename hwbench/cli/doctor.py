"""``hwbench doctor``: what would disturb a measurement here, and the cure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.terminal import Json, NoColor, Quiet, Terminal, Verbose, command, write_stdout
from hwbench.errors import EXIT_INVALID

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hwbench.records.health import Health, HealthCheck, Severity

_STYLE: dict[Severity, str] = {"warning": "yellow", "cannot_tell": "magenta", "info": "cyan", "ok": "green"}
_TITLE: dict[Severity, str] = {
    "warning": "Warnings",
    "cannot_tell": "Cannot be told here",
    "info": "Worth knowing",
    "ok": "Nothing wrong",
}


@command
def doctor(
    strict: Annotated[bool, typer.Option("--strict", help="End with exit code 4 when there is a warning.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Tell what would disturb a measurement on this machine, and the cure; changes nothing."""
    from hwbench.doctor.examine import examine
    from hwbench.doctor.subject import look
    from hwbench.files import encode

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    health = examine(look())
    if json:
        write_stdout(encode(health))
    else:
        terminal.show(render_health(health))
    if strict and health.warnings:
        raise typer.Exit(EXIT_INVALID)


def render_health(health: Health) -> RenderableType:
    """Return the checks by severity, worst first, with their cures."""
    from rich.console import Group
    from rich.text import Text

    from hwbench.records.base import Missing
    from hwbench.report.text import plain

    machine = health.machine
    parts: list[RenderableType] = [plain(f"unknown: {machine}" if isinstance(machine, Missing) else machine, "bold")]
    for severity, title in _TITLE.items():
        found = [check for check in health.checks if check.severity == severity]
        if found:
            parts += [Text(), Text(f"{title} ({len(found)})", style=f"bold {_STYLE[severity]}"), _table(found)]
    if not health.warnings:
        parts += [Text(), Text("Nothing found that would disturb a measurement.", style="bold")]
    return Group(*parts)


def _table(checks: list[HealthCheck]) -> RenderableType:
    from rich.table import Table

    from hwbench.records.base import Missing
    from hwbench.report.text import plain

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, min_width=20)
    grid.add_column(overflow="fold")
    for check in checks:
        text = plain(check.found.why if isinstance(check.found, Missing) else check.found)
        for head, more in (("", check.effect), ("cure: " if check.severity != "info" else "", check.cure)):
            if more:
                text.append("\n")
                text.append_text(plain(f"{head}{more}", "dim"))
        grid.add_row(plain(check.name), text)
    return grid
