"""``hwbench methods``: the compression methods, and the settings of each."""

from __future__ import annotations

from typing import Annotated

import typer

from hwbench.cli.terminal import NoColor, Terminal, command


@command
def methods(
    name: Annotated[str | None, typer.Argument(help="Show the settings of this one.")] = None, no_color: NoColor = False
) -> None:
    """List the compression methods in the order in which they may follow each other, or one with its settings."""
    from hwbench import plugins
    from hwbench.compress.order import ANYWHERE, STAGES
    from hwbench.report.methods import render_method, render_methods

    terminal = Terminal(no_color=no_color)
    if name is not None:
        terminal.show(render_method(name, plugins.load("compressors", name)))
        return
    found = {each: plugins.load("compressors", each) for each in plugins.available("compressors")}
    terminal.show(render_methods(found, (*STAGES, *ANYWHERE)))
