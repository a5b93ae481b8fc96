"""``hwbench plugins``: what is registered, and whether it loads."""

from __future__ import annotations

from hwbench.cli.terminal import NoColor, Terminal, Verbose, command, say_traceback


@command
def plugins(verbose: Verbose = False, no_color: NoColor = False) -> None:
    """List engines, meters and device finders: registered, loadable, or why not."""
    from rich.table import Table
    from rich.text import Text

    from hwbench import plugins as registry
    from hwbench.errors import PluginError

    terminal = Terminal(verbose=verbose, no_color=no_color)
    table = Table()
    for heading in ("kind", "name", "from", "loads"):
        table.add_column(heading)
    for kind in registry.GROUPS:
        for name, point in registry.available(kind).items():
            try:
                registry.load(kind, name)
                state = "yes"
            except PluginError as error:
                state = f"no: {error.message}"
                if verbose:
                    say_traceback(error)
            package = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "?"
            table.add_row(kind, name, package, Text(state))
    terminal.show(table)
