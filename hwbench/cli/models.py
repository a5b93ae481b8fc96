"""``hwbench models``: the built-in models."""

from __future__ import annotations

from hwbench.cli.terminal import NoColor, Terminal, command


@command
def models(no_color: NoColor = False) -> None:
    """List the built-in models; they need no download."""
    from rich.table import Table

    from hwbench.models.zoo import ZOO

    table = Table()
    for heading in ("name", "what", "inputs", "weights"):
        table.add_column(heading)
    for name, model in ZOO.items():
        inputs = ", ".join(f"{spec.name} {'x'.join(map(str, spec.shape))}" for spec in model.inputs)
        table.add_row(name, model.title, inputs, "trained" if model.trained else "untrained")
    Terminal(no_color=no_color).show(table)
